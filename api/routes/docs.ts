import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { gzipSync } from 'node:zlib';
import { Hono } from 'hono';
import type { Config } from '../config.ts';
import { pages } from '../docs/pages.ts';
import { Problem } from '../problem.ts';

const PLOTS = new URL('../../docs/plots/', import.meta.url);
const require = createRequire(import.meta.url);

/** From the package, and nothing from elsewhere; data: for the pictures in its stylesheet. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "form-action 'none'",
  "base-uri 'none'",
  "frame-ancestors 'none'",
].join('; ');

interface File {
  type: string;
  body: string;
  /** made when it is first asked for */
  gzipped?: Uint8Array<ArrayBuffer>;
}

/** GET /docs, its pages and the files that they need. */
export function docs({ publicUrl }: Pick<Config, 'publicUrl'>) {
  const own = (name: string) => readFileSync(new URL(`../docs/${name}`, import.meta.url), 'utf8');
  const packaged = (name: string) => readFileSync(require.resolve(`swagger-ui-dist/${name}`), 'utf8');
  const files = new Map<string, File>([
    ...[...pages(publicUrl)].map(([path, body]) => [path, { type: 'text/html', body }] as const),
    ...readdirSync(PLOTS).map(
      (name) =>
        [`/docs/plots/${name}`, { type: 'image/svg+xml', body: readFileSync(new URL(name, PLOTS), 'utf8') }] as const,
    ),
    ['/docs/docs.css', { type: 'text/css', body: own('docs.css') }],
    ['/docs/reference.js', { type: 'text/javascript', body: own('reference.js') }],
    ['/docs/swagger-ui.css', { type: 'text/css', body: packaged('swagger-ui.css') }],
    ['/docs/swagger-ui-bundle.js', { type: 'text/javascript', body: packaged('swagger-ui-bundle.js') }],
  ]);

  return new Hono().on('GET', ['/docs', '/docs/*'], (c) => {
    const file = files.get(c.req.path.replace(/\/$/, ''));
    if (!file) throw new Problem(404, 'not_found', 'there is no such page; /docs leads to those that are');
    const headers = {
      'content-type': `${file.type}; charset=utf-8`,
      'content-security-policy':
        file.type === 'image/svg+xml' ? "default-src 'none'; style-src 'unsafe-inline'" : POLICY,
      'cache-control': 'no-cache',
      vary: 'accept-encoding',
    };
    if (!/\bgzip\b/.test(c.req.header('accept-encoding') ?? '')) return c.body(file.body, 200, headers);
    file.gzipped ??= gzipSync(file.body);
    return c.body(file.gzipped, 200, { ...headers, 'content-encoding': 'gzip' });
  });
}
