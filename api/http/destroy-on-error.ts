import { ReadableStream } from 'node:stream/web';
import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';

/**
 * Makes a response body of chunks that are produced while it is sent. If producing fails, the connection is destroyed: node-server
 * would send the error's message and end the response normally, so that half of it looked complete. `request-id.ts` logs the error.
 */
export function destroyConnectionOnError(c: Context, chunks: AsyncIterable<Uint8Array>) {
  async function* watched() {
    try {
      yield* chunks;
    } catch (error) {
      (c.env as Partial<HttpBindings>).outgoing?.destroy(error as Error);
      throw error;
    }
  }
  return ReadableStream.from(watched()) as globalThis.ReadableStream<Uint8Array<ArrayBuffer>>;
}
