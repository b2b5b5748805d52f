import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import { Problem } from '../problem.ts';

const folder = fileURLToPath(new URL('../page', import.meta.url));
const fonts = join(createRequire(import.meta.url).resolve('@fontsource/inter/package.json'), '../files');

/** What of the folder is the page's; the rest is nobody's business. */
const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.webp': 'image/webp',
  '.woff2': 'font/woff2',
};

/** GET / and /page/FILE: the web page and the files that it needs. Nothing from elsewhere may run in it. */
export function page(linkOrigin: string) {
  const paths = [
    ...readdirSync(folder).map((name) => join(folder, name)),
    ...[400, 500, 600].map((weight) => join(fonts, `inter-latin-${weight}-normal.woff2`)),
  ];
  const files = new Map(
    paths.flatMap((path) => {
      const type = TYPES[extname(path)];
      if (!type) return [];
      const body = new Uint8Array(readFileSync(path));
      const etag = `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`;
      return [[path.split(/[/\\]/).at(-1)!, { body, type, etag }]];
    }),
  );
  const policy = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "font-src 'self'",
    `connect-src 'self' ${linkOrigin}`, // a download is fetched
    `media-src 'self' ${linkOrigin}`,
    `img-src 'self' blob: ${linkOrigin}`, // blob: the picture that was chosen
    "form-action 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ].join('; ');

  const serve = (name: string, known: string | undefined) => {
    const file = files.get(name);
    if (!file) throw new Problem(404, 'not_found', 'the page has no such file');
    const headers = {
      'content-type': file.type,
      'content-security-policy': policy,
      'cache-control': 'no-cache',
      etag: file.etag,
    };
    return known === file.etag ? new Response(null, { status: 304, headers }) : new Response(file.body, { headers });
  };
  return new Hono()
    .get('/', (c) => serve('index.html', c.req.header('if-none-match')))
    .get('/page/:name', (c) => serve(c.req.param('name'), c.req.header('if-none-match')));
}
