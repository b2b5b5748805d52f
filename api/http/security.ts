/** Headers that tell browsers what they may do with responses, and which other origins may read them. */
import type { HttpBindings } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import { cors } from 'hono/cors';

const YEAR = 365 * 24 * 3600; // seconds

/**
 * Adds security headers to every response, and forbids caches to keep it, because tasks contain signed links. A route's own headers take
 * precedence. HSTS only where clients use https.
 */
export function securityHeaders(publicUrl: string): MiddlewareHandler {
  const headers = Object.entries({
    'content-security-policy': "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer', // a URL may be a signed link
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    'cache-control': 'no-store',
    ...(publicUrl.startsWith('https:') && { 'strict-transport-security': `max-age=${YEAR}` }),
  });
  return (c, next) => {
    for (const [name, value] of headers) setDefaultHeader(c, name, value);
    return next();
  };
}

/**
 * Sets a header that the route may replace, on Node's response. With hono/secure-headers, which changes the finished Response, a GET of
 * a task takes half as long again.
 */
export function setDefaultHeader(c: Context, name: string, value: string): void {
  const { outgoing } = c.env as Partial<HttpBindings>;
  if (outgoing) outgoing.setHeader(name, value);
  else c.header(name, value); // a test asks the app itself
}

/** Lets pages of these origins use the API; `*` lets those of any. There are no cookies, so credentials stay off. */
export const allowOrigins = (origins: string[]): MiddlewareHandler =>
  cors({
    origin: origins.includes('*') ? '*' : origins,
    allowMethods: ['GET', 'HEAD', 'POST', 'DELETE'],
    // Without a list of headers any is allowed: SDKs send their own, such as OpenAI’s X-Stainless-Lang.
    exposeHeaders: [
      'Location',
      'Accept-Ranges',
      'Content-Range',
      'ETag',
      'Link',
      'X-Request-Id',
      'Idempotency-Replayed',
      'Preference-Applied',
      'Retry-After',
      'RateLimit',
      'RateLimit-Policy',
      'WWW-Authenticate',
      'X-Should-Retry',
    ],
    maxAge: 600, // seconds
  });
