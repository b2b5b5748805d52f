/** What browsers are told of our answers: to guess nothing, frame nothing, keep no links, and which other pages may read them. */
import type { MiddlewareHandler } from 'hono';
import { cors } from 'hono/cors';
import { presetHeader } from './preset-header.ts';

const YEAR = 365 * 24 * 3600; // seconds

/** Headers of every answer; a route's own prevail. HSTS only where callers come by https. */
export function securityHeaders(publicUrl: string): MiddlewareHandler {
  const headers = Object.entries({
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer', // an address may be a signed link
    'content-security-policy': "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'x-frame-options': 'DENY',
    'cross-origin-resource-policy': 'same-origin',
    'cache-control': 'no-store', // there are links in tasks
    ...(publicUrl.startsWith('https:') && { 'strict-transport-security': `max-age=${YEAR}` }),
  });
  return (c, next) => {
    for (const [name, value] of headers) presetHeader(c, name, value);
    return next();
  };
}

/** Lets the pages of these origins use the API, `*` those of any. No cookies: there are none. */
export const otherPages = (origins: string[]): MiddlewareHandler =>
  cors({
    origin: origins.includes('*') ? '*' : origins,
    allowMethods: ['GET', 'HEAD', 'POST'],
    allowHeaders: ['Authorization', 'Content-Type', 'Idempotency-Key', 'Prefer', 'Last-Event-ID', 'X-Request-Id'],
    exposeHeaders: [
      'Location',
      'Link',
      'X-Request-Id',
      'Idempotency-Replayed',
      'Preference-Applied',
      'Retry-After',
      'RateLimit',
      'RateLimit-Policy',
      'WWW-Authenticate',
    ],
    maxAge: 600, // seconds
  });
