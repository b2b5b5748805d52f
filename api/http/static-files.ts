/** Files of ours that the API serves, such as the page's: read once, told by a tag whether they have changed, packed for who takes that. */
import { createHash } from 'node:crypto';
import { extname } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Context } from 'hono';

/** Content types by a file's ending. */
const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.webp': 'image/webp',
  '.woff2': 'font/woff2',
};
/** What gzip makes smaller. */
const IS_TEXT = /^text\/|svg/;

/** Whether a file of this name is one for browsers. */
export const isServed = (name: string) => Object.hasOwn(TYPES, extname(name));

/**
 * @param name its ending tells its type, one of those that `isServed` knows
 * @param policy the Content-Security-Policy that it has
 * @returns what answers a GET of it
 */
export function staticFile(name: string, content: string | Uint8Array, policy: string): (c: Context) => Response {
  const body = Uint8Array.from(Buffer.from(content));
  const type = TYPES[extname(name)]!;
  const etag = `W/"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`; // of the file, packed or not
  const headers = {
    'content-type': type,
    'content-security-policy': policy,
    'cache-control': 'no-cache',
    etag,
    ...(IS_TEXT.test(type) && { vary: 'accept-encoding' }),
  };
  let packed: Uint8Array<ArrayBuffer> | undefined; // made when it is first asked for
  return (c) => {
    if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);
    if (!IS_TEXT.test(type) || !/\bgzip\b/.test(c.req.header('accept-encoding') ?? ''))
      return c.body(body, 200, headers);
    packed ??= gzipSync(body);
    return c.body(packed, 200, { ...headers, 'content-encoding': 'gzip' });
  };
}
