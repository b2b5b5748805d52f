import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';

/**
 * Sets a header of the answer before there is one; what the route sets under the same name prevails. It is kept on Node's own answer: a
 * Response whose headers are changed costs as much as a small route.
 */
export function presetHeader(c: Context, name: string, value: string): void {
  const { outgoing } = (c.env ?? {}) as Partial<HttpBindings>;
  if (outgoing) outgoing.setHeader(name, value);
  else c.header(name, value); // no connection: a test asked the app itself
}
