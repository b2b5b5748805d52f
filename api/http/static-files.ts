/** Serves files of the program, such as the page's: read once, with an ETag, compressed for clients that accept gzip. */
import { createHash } from 'node:crypto';
import { extname } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Context } from 'hono';
import { prefers } from './prefers.ts';
import { Problem } from './problem.ts';

/** Content types by file extension. */
const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.css': 'text/css; charset=utf-8',
  '.txt': 'text/plain; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.webp': 'image/webp',
  '.woff2': 'font/woff2',
};

/** The Content-Security-Policy of a page that uses this service's files only, apart from what these directives allow. */
export const pagePolicy = (...directives: string[]) =>
  [
    "default-src 'none'; script-src 'self'; style-src 'self'",
    ...directives,
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
  ].join('; ');

type Respond = (c: Context) => Response;

/**
 * @param name a file name, whose extension is a key of TYPES
 * @param policy the file's Content-Security-Policy
 */
export function staticFile(name: string, content: string | Uint8Array, policy: string): Respond {
  const body = Uint8Array.from(Buffer.from(content));
  const type = TYPES[extname(name)]!;
  const isCompressible = /^text\/|svg|json/.test(type);
  const etag = `W/"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`; // weak: the same with and without gzip
  const headers = {
    'content-type': type,
    'content-security-policy': policy,
    'cache-control': 'no-cache',
    etag,
    ...(isCompressible && { vary: 'accept-encoding' }),
  };
  let compressed: Uint8Array<ArrayBuffer> | undefined;
  return (c) => {
    if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);
    if (!isCompressible || !prefers(c, 'Accept-Encoding', 'gzip', 'identity')) return c.body(body, 200, headers);
    compressed ??= gzipSync(body);
    return c.body(compressed, 200, { ...headers, 'content-encoding': 'gzip' });
  };
}

/** A file that is made at its first request. */
export function lazyFile(make: () => Respond): Respond {
  let respond: Respond | undefined;
  return (c) => {
    respond ??= make();
    return respond(c);
  };
}

/** Responds with the file at the request's path. @throws Problem 404 */
export const serveFiles =
  (files: Map<string, Respond>): Respond =>
  (c) => {
    const respond = files.get(c.req.path.replace(/(?<=.)\/$/, ''));
    if (!respond) throw new Problem('not_found', 'there is no such page or file; /docs has links to all pages');
    return respond(c);
  };
