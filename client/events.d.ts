/** What `events.js` needs to know of an error: `false` where another attempt is of no use, else the least pause before it, in seconds. */
export type Again = false | { after: number };

export function followEvents(
  connect: (headers: Record<string, string>) => Promise<{ status: number; body: ReadableStream<Uint8Array> | null }>,
  options: { onData(data: string): boolean; onBreak(error?: unknown): void; signal: AbortSignal },
): Promise<void>;
