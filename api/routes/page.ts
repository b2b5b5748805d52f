import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import { Problem } from '../http/problem.ts';
import { isServed, staticFile } from '../http/static-files.ts';

const folder = fileURLToPath(new URL('../page', import.meta.url));
/** The page shares this module with the client. Its path under `/` matches the page's relative import. */
const EVENTS = fileURLToPath(new URL('../../client/events.js', import.meta.url));
const fonts = join(createRequire(import.meta.url).resolve('@fontsource/inter/package.json'), '../files');

/** GET / and /page/FILE: the web page and the files that it needs. Nothing from elsewhere may run in it. */
export function page(linkOrigin: string) {
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
  const paths = [
    ...readdirSync(folder)
      .filter(isServed) // the rest is nobody's business
      .map((name) => join(folder, name)),
    ...[400, 500, 600].map((weight) => join(fonts, `inter-latin-${weight}-normal.woff2`)),
  ];
  const serveEvents = staticFile(EVENTS, readFileSync(EVENTS), policy);
  const files = new Map(paths.map((path) => [basename(path), staticFile(path, readFileSync(path), policy)]));
  return new Hono()
    .get('/', files.get('index.html')!)
    .get('/client/events.js', serveEvents)
    .get('/page/:name', (c) => {
      const serve = files.get(c.req.param('name'));
      if (!serve) throw new Problem(404, 'not_found', 'the page has no such file');
      return serve(c);
    });
}
