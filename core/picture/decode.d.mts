export function countScans(bytes: Uint8Array): number;
export function decode(
  bytes: Uint8Array,
  options: { png: boolean; maxPixels: number; maxSide: number; maxScans: number },
): Promise<Buffer>;
