import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Hono } from 'hono';
import type { Config } from '../config.ts';
import { pages } from '../docs/pages.ts';
import { Problem } from '../http/problem.ts';
import { staticFile } from '../http/static-files.ts';

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
/** Of a plot, which has its own styles. */
const PLOT_POLICY = "default-src 'none'; style-src 'unsafe-inline'";

/** GET /docs, its pages and the files that they need. */
export function docs({ publicUrl }: Pick<Config, 'publicUrl'>) {
  const own = (name: string) => readFileSync(new URL(`../docs/${name}`, import.meta.url));
  const packaged = (name: string) => readFileSync(require.resolve(`swagger-ui-dist/${name}`));
  const files = new Map([
    ...[...pages(publicUrl)].map(([path, html]) => [path, staticFile('page.html', html, POLICY)] as const),
    ...readdirSync(PLOTS).map(
      (name) => [`/docs/plots/${name}`, staticFile(name, readFileSync(new URL(name, PLOTS)), PLOT_POLICY)] as const,
    ),
    ...['docs.css', 'reference.js'].map((name) => [`/docs/${name}`, staticFile(name, own(name), POLICY)] as const),
    ...['swagger-ui.css', 'swagger-ui-bundle.js'].map(
      (name) => [`/docs/${name}`, staticFile(name, packaged(name), POLICY)] as const,
    ),
  ]);
  return new Hono().on('GET', ['/docs', '/docs/*'], (c) => {
    const serve = files.get(c.req.path.replace(/\/$/, ''));
    if (!serve) throw new Problem(404, 'not_found', 'there is no such page; /docs leads to those that are');
    return serve(c);
  });
}
