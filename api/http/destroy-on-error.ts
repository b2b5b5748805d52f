import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';

/**
 * A body that is made while it is sent. Where its making fails the connection breaks: node-server would send the error's message and
 * then end the answer in good order, so that half of it looked like the whole. The log tells of it (`request-id.ts`).
 */
export function breakOff(c: Context, body: ReadableStream<Uint8Array>): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream(
    {
      async pull(controller) {
        try {
          const { done, value } = await reader.read();
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (error) {
          const { outgoing } = c.env as Partial<HttpBindings>;
          if (outgoing) outgoing.destroy(error as Error);
          else controller.error(error); // no connection: a test asked the app itself
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 }, // the body itself keeps what is read ahead
  );
}
