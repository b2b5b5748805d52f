import { createReadStream } from 'node:fs';
import parseRange from 'range-parser';
import { CONTENT_TYPES, contentDisposition, contentType } from '../../core/bucket/bucket.ts';
import { destroyConnectionOnError } from '../http/destroy-on-error.ts';
import { endpoint } from '../http/endpoint.ts';
import { Problem } from '../http/problem.ts';
import { text } from '../openapi/parts.ts';

/** Browsers that open a file show it in a document of their own, under this policy. */
const POLICY =
  "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const CONTENT = Object.fromEntries(Object.values(CONTENT_TYPES).map((type) => [type, {}]));

const invalidLink = () => new Problem('link_invalid', 'this link is not valid, or has expired');
const noSuchFile = () => new Problem('not_found', 'there is no such file');
const noSuchRange = (size: number) =>
  new Problem('range_not_satisfiable', `the file has ${size} bytes`, {
    headers: { 'content-range': `bytes */${size}` },
  });

/** Serves the pictures and videos of a bucket that is a folder, to clients with a signed link. */
export const files = endpoint({
  method: 'GET',
  path: '/files/*',
  describe: () => ({
    operationId: 'file',
    tags: ['files'],
    summary: 'A picture or video, by a link from a task',
    parameters: [
      { name: 'key', in: 'path', required: true, description: 'Key in the bucket', schema: text },
      { name: 'expires', in: 'query', required: true, description: 'Seconds since 1970', schema: text },
      { name: 'filename', in: 'query', description: 'Name that the file is saved under', schema: text },
      { name: 'download', in: 'query', description: '1: a browser saves the file', schema: text },
      { name: 'signature', in: 'query', required: true, description: 'Signature of the link', schema: text },
    ],
    responses: {
      200: { description: 'The file', content: CONTENT },
      206: { description: 'The part that Range names', content: CONTENT },
      304: { description: 'The file has not changed' },
    },
    errors: [invalidLink(), noSuchFile(), noSuchRange(412_604)],
  }),
  handle: ({ disk: bucket }) =>
    bucket &&
    (async (c) => {
      const key = c.req.path.slice('/files/'.length);
      const query = c.req.query();
      if (!bucket.verify(key, query)) throw invalidLink();
      const type = contentType(key);
      const file = type && (await bucket.file(key));
      if (!type || !file) throw noSuchFile();

      const etag = `"${file.size.toString(36)}-${file.modified.getTime().toString(36)}"`;
      const headers: Record<string, string> = {
        'content-type': type,
        'content-disposition': contentDisposition(key, {
          filename: query.filename || undefined,
          download: query.download === '1',
        }),
        'accept-ranges': 'bytes',
        'cache-control': 'private, max-age=3600',
        etag,
        'content-security-policy': POLICY,
        'cross-origin-resource-policy': 'cross-origin', // other sites may embed it
      };
      if (c.req.header('if-none-match') === etag) return c.body(null, 304, headers);

      let part = { start: 0, end: file.size - 1 };
      let status: 200 | 206 = 200;
      const range = c.req.header('range');
      const condition = c.req.header('if-range');
      if (range !== undefined && (condition === undefined || condition === etag)) {
        const parts = parseRange(file.size, range, { combine: true });
        if (parts === -1) throw noSuchRange(file.size);
        if (parts !== -2 && parts.type === 'bytes' && parts.length === 1) {
          part = parts[0]!;
          status = 206;
          headers['content-range'] = `bytes ${part.start}-${part.end}/${file.size}`;
        } // several parts or another unit: the whole file is a valid response
      }
      headers['content-length'] = String(part.end - part.start + 1);
      if (c.req.method === 'HEAD') return c.body(null, status, headers);
      return c.body(destroyConnectionOnError(c, createReadStream(file.path, part)), status, headers);
    }),
});
