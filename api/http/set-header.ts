import type { Context } from 'hono';

/** Sets a header of the response, unless it has begun: that of an MCP tool may be a stream. */
export function setHeader(c: Context, name: string, value: string): void {
  if (!c.finalized) c.header(name, value);
}
