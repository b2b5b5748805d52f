/** Headers that tell browsers what they may do with responses, and which other origins may read them. */
import type { MiddlewareHandler } from 'hono';
import { cors } from 'hono/cors';
import { secureHeaders } from 'hono/secure-headers';

const YEAR = 365 * 24 * 3600; // seconds

/** Adds security headers to every response; a route's own take precedence. HSTS only where clients use https. */
export const securityHeaders = (publicUrl: string): MiddlewareHandler =>
  secureHeaders({
    overwrite: false,
    contentSecurityPolicy: {
      defaultSrc: ["'none'"],
      baseUri: ["'none'"],
      formAction: ["'none'"],
      frameAncestors: ["'none'"],
    },
    referrerPolicy: 'no-referrer', // a URL may be a signed link
    xFrameOptions: 'DENY',
    strictTransportSecurity: publicUrl.startsWith('https:') && `max-age=${YEAR}`,
    crossOriginOpenerPolicy: false,
    originAgentCluster: false,
    xDnsPrefetchControl: false,
    xDownloadOptions: false,
    xPermittedCrossDomainPolicies: false,
    xXssProtection: false,
  });

/** Forbids caches to keep responses, because tasks contain signed links; a route's own header takes precedence. */
export const noStore: MiddlewareHandler = async (c, next) => {
  await next();
  if (!c.res.headers.has('cache-control')) c.res.headers.set('cache-control', 'no-store');
};

/** Lets pages of these origins use the API; `*` lets those of any. There are no cookies, so credentials stay off. */
export const allowOrigins = (origins: string[]): MiddlewareHandler =>
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
