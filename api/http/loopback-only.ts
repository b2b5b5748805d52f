import type { MiddlewareHandler } from 'hono';
import { isLoopback } from './host.ts';
import { Problem } from './problem.ts';

export const forbiddenHost = () =>
  new Problem('forbidden_host', 'without API keys this service answers only to localhost, 127.0.0.1 and [::1]');
const forbiddenOrigin = () =>
  new Problem('forbidden_origin', 'without API keys this service takes no requests from other web pages');

/**
 * Without API keys, only programs on this machine may use the API, and only web pages of its own or of the allowed origins. The Host
 * header reveals a name that was made to resolve to 127.0.0.1; Origin and Sec-Fetch-Site reveal another site's page.
 */
export const loopbackOnly =
  (allowedOrigins: string[]): MiddlewareHandler =>
  (c, next) => {
    const host = c.req.header('host') ?? '';
    if (!isLoopback(host.replace(/:\d+$/, ''))) throw forbiddenHost();
    const { origin, 'sec-fetch-site': site = 'none' } = c.req.header();
    const isSameSite = (origin === undefined || origin === `http://${host}`) && ['same-origin', 'none'].includes(site);
    const isRead = c.req.method === 'GET' || c.req.method === 'HEAD';
    if (!isRead && !isSameSite && !allowedOrigins.includes(origin ?? '')) throw forbiddenOrigin();
    return next();
  };
