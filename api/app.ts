/** The HTTP application: middleware, endpoints and error handling. It does not listen; index.ts does. */
import { setMaxListeners } from 'node:events';
import { Hono, type MiddlewareHandler } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { StorageError } from '../core/bucket/bucket.ts';
import { InvalidRequest } from '../core/request.ts';
import { register } from './http/endpoint.ts';
import { bucketUnavailable, invalidInput, Problem, renderProblem } from './http/problem.ts';
import { MAX_BODY_BYTES } from './http/read-body.ts';
import { requestId } from './http/request-id.ts';
import { allowOrigins, securityHeaders } from './http/security.ts';
import { createAccess } from './keys/access.ts';
import { ENDPOINTS } from './routes/index.ts';
import type { Services } from './services.ts';

const tooLarge = () => {
  throw new Problem('too_large', `a request has at most ${MAX_BODY_BYTES / 1e6} MB`);
};
const limitStream = bodyLimit({ maxSize: MAX_BODY_BYTES, onError: tooLarge });

/** Checks an announced length itself, because bodyLimit makes a web stream of every body first. Node reads no more than is announced. */
const limitBody: MiddlewareHandler = (c, next) => {
  if (Number(c.req.header('content-length') ?? 0) > MAX_BODY_BYTES) tooLarge();
  return c.req.header('transfer-encoding') === undefined ? next() : limitStream(c, next);
};

export function createApp(services: Services) {
  const { config, stopping } = services;
  setMaxListeners(0, stopping); // one for each waiting request
  const app = new Hono();
  app.use(requestId(services));
  app.use(securityHeaders(config.publicUrl));
  const access = createAccess(services);
  app.use(access.guard);
  if (config.corsOrigins.length > 0) {
    const cors = allowOrigins(config.corsOrigins);
    const allowsAny = config.corsOrigins.includes('*'); // counts only with API keys
    app.use(async (c, next) => (allowsAny && !(await access.isKeyRequired()) ? next() : cors(c, next)));
  }
  app.use(limitBody);
  for (const endpoint of ENDPOINTS) register(app, endpoint, services, access.requireScope);
  app.notFound((c) => renderProblem(c, new Problem('not_found', 'no such path; see /docs')));
  app.onError((error, c) => {
    const log = c.get('log');
    if (error instanceof Problem) {
      if (error.status >= 500) log.error({ error: error.cause, path: c.req.routePath }, error.message);
      return renderProblem(c, error);
    }
    if (error instanceof InvalidRequest) return renderProblem(c, invalidInput(error.errors));
    if (error instanceof StorageError) {
      log.error({ error, path: c.req.routePath }, 'bucket unavailable');
      return renderProblem(c, bucketUnavailable());
    }
    log.error({ error, path: c.req.routePath }, 'request failed'); // the route's pattern, because the URL may hold a token
    return renderProblem(c, new Problem('internal', 'internal error; it has been logged'));
  });
  return app;
}
