import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import { Problem } from '../http/problem.ts';
import { isServed, staticFile } from '../http/static-files.ts';

const folder = fileURLToPath(new URL('../page', import.meta.url));
const root = fileURLToPath(new URL('../..', import.meta.url));
/** Modules that the page shares with other code. Each URL is the path in the repository, so that relative imports resolve. */
const SHARED_MODULES = ['client/events.js', 'client/sleep.js', 'core/retry-after.js'];
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
  const files = new Map(paths.map((path) => [basename(path), staticFile(path, readFileSync(path), policy)]));
  const app = new Hono().get('/', files.get('index.html')!).get('/page/:name', (c) => {
    const serve = files.get(c.req.param('name'));
    if (!serve) throw new Problem(404, 'not_found', 'the page has no such file');
    return serve(c);
  });
  for (const path of SHARED_MODULES) app.get(`/${path}`, staticFile(path, readFileSync(join(root, path)), policy));
  return app;
}
