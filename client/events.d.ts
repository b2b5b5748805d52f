/** For TypeScript programs that use the client without `allowJs`; see events.js. */
export function followEvents(
  connect: (headers: Record<string, string>) => Promise<{ status: number; body: ReadableStream<Uint8Array> | null }>,
  options: { onBreak: (error?: unknown) => void; signal: AbortSignal },
): AsyncGenerator<string, void>;
