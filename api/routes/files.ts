import { createReadStream } from 'node:fs';
import { Hono } from 'hono';
import parseRange from 'range-parser';
import { contentType } from '../../core/bucket/bucket.ts';
import type { DiskBucket } from '../../core/bucket/disk.ts';
import { destroyConnectionOnError } from '../http/destroy-on-error.ts';
import { Problem } from '../http/problem.ts';

/** The file itself as a page: browsers show it in one that they make, by its own policy. */
const POLICY =
  "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/** GET and HEAD /files/KEY?expires=&signature=: the disk bucket's pictures and videos, for whoever has a link. */
export function files(bucket: DiskBucket) {
  return new Hono().get('/files/:key{.+}', async (c) => {
    const key = c.req.param('key');
    const { expires, signature } = c.req.query();
    if (!bucket.verify(key, { expires, signature }))
      throw new Problem(403, 'link_invalid', 'this link is not valid, or has expired');
    const type = contentType(key);
    const file = type && (await bucket.file(key));
    if (!type || !file) throw new Problem(404, 'not_found', 'there is no such file');

    const etag = `"${file.size.toString(36)}-${file.modified.getTime().toString(36)}"`;
    const headers: Record<string, string> = {
      'content-type': type,
      'content-disposition': `inline; filename="${key.split('/').at(-1)}"`,
      'accept-ranges': 'bytes',
      'cache-control': 'private, max-age=3600',
      etag,
      'x-content-type-options': 'nosniff',
      'content-security-policy': POLICY,
      'cross-origin-resource-policy': 'cross-origin', // other sites may show it
    };
    if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);

    let part = { start: 0, end: file.size - 1 };
    let status: 200 | 206 = 200;
    const range = c.req.header('range');
    const condition = c.req.header('if-range');
    if (range !== undefined && (condition === undefined || condition === etag)) {
      const parts = parseRange(file.size, range, { combine: true });
      if (parts === -1) {
        throw new Problem(416, 'range_not_satisfiable', `the file has ${file.size} bytes`, {
          headers: { 'content-range': `bytes */${file.size}` },
        });
      }
      if (parts !== -2 && parts.type === 'bytes' && parts.length === 1) {
        part = parts[0]!;
        status = 206;
        headers['content-range'] = `bytes ${part.start}-${part.end}/${file.size}`;
      } // several parts or another unit: the whole file is a right answer
    }
    headers['content-length'] = String(part.end - part.start + 1);
    if (c.req.method === 'HEAD') return c.body(null, status, headers);
    return c.body(destroyConnectionOnError(c, createReadStream(file.path, part)), status, headers);
  });
}
