export function decode(
  bytes: Uint8Array,
  options: { png: boolean; maxPixels: number; maxSide: number },
): Promise<Buffer>;
