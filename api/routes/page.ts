import { readFileSync } from 'node:fs';
import { Hono } from 'hono';

const read = (name: string) => readFileSync(new URL(`../page/${name}`, import.meta.url), 'utf8');

/** GET /: the web page, and the files that it needs. Nothing from elsewhere may run in it. */
export function page(linkOrigin: string) {
  const files = {
    '/': { type: 'text/html', body: read('index.html') },
    '/page.js': { type: 'text/javascript', body: read('page.js') },
    '/events.js': { type: 'text/javascript', body: read('events.js') },
    '/icon.svg': { type: 'image/svg+xml', body: read('icon.svg') },
    '/page.css': { type: 'text/css', body: read('page.css') },
  };
  const policy = [
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    `media-src 'self' ${linkOrigin}`,
    `img-src 'self' ${linkOrigin}`,
    "form-action 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
  const app = new Hono();
  for (const [path, { type, body }] of Object.entries(files)) {
    app.get(path, (c) =>
      c.body(body, 200, {
        'content-type': `${type}; charset=utf-8`,
        'content-security-policy': policy,
        'x-content-type-options': 'nosniff',
        'cache-control': 'no-cache',
      }),
    );
  }
  return app;
}
