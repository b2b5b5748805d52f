import type { MiddlewareHandler } from 'hono';
import { isLoopback } from './host.ts';
import { Problem } from './problem.ts';

/**
 * As long as there are no API keys, whoever reaches the API may use it, so only programs on this machine may, and no web page but our own: a name that
 * was made to resolve to 127.0.0.1 shows in Host, a foreign page in Origin or Sec-Fetch-Site. The pages of `allowed` origins may, too.
 */
export const loopbackOnly =
  (allowed: string[]): MiddlewareHandler =>
  async (c, next) => {
    const host = c.req.header('host') ?? '';
    const name = host.replace(/:\d+$/, '');
    if (!isLoopback(name)) {
      throw new Problem(
        403,
        'forbidden_host',
        'without API keys this service answers only to localhost, 127.0.0.1 and [::1]',
      );
    }
    if (c.req.method !== 'GET' && c.req.method !== 'HEAD') {
      const origin = c.req.header('origin');
      const site = c.req.header('sec-fetch-site');
      const foreign =
        (origin !== undefined && origin !== `http://${host}`) ||
        (site !== undefined && site !== 'same-origin' && site !== 'none');
      if (foreign && !allowed.includes(origin ?? ''))
        throw new Problem(
          403,
          'forbidden_origin',
          'without API keys this service takes no requests from other web pages',
        );
    }
    await next();
  };
