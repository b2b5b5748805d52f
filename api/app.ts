/** The routes, and what stands around them. It does not listen: index.ts does, and tests call `app.request`. */
import { setMaxListeners } from 'node:events';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { StorageError } from '../handler/bucket/bucket.ts';
import { loopbackOnly } from './loopback.ts';
import { openApiDocument } from './openapi.ts';
import { Problem, renderProblem } from './problem.ts';
import { MAX_BODY_BYTES } from './read-body.ts';
import { requestId } from './request-id.ts';
import { callback } from './routes/callback.ts';
import { cancel } from './routes/cancel.ts';
import { remove } from './routes/delete.ts';
import { files } from './routes/files.ts';
import { img2vid } from './routes/img2vid.ts';
import { metrics } from './routes/metrics.ts';
import { page } from './routes/page.ts';
import { ready } from './routes/ready.ts';
import { status } from './routes/status.ts';
import { otherPages, securityHeaders } from './security.ts';
import type { Services } from './services.ts';

/** Every path and what may be asked of it. */
const METHODS = {
  '/img2vid': 'POST',
  '/status': 'GET, HEAD',
  '/cancel': 'POST',
  '/delete': 'POST',
  '/files/*': 'GET, HEAD',
  '/runpod/callback/:token': 'POST',
  '/': 'GET, HEAD',
  '/healthz': 'GET, HEAD',
  '/readyz': 'GET, HEAD',
  '/metrics': 'GET, HEAD',
  '/openapi.json': 'GET, HEAD',
};

function tooLarge(): never {
  throw new Problem(413, 'too_large', `a request has at most ${MAX_BODY_BYTES / 1e6} MB`);
}
/** Only for bodies that come in pieces: it makes a Request of Node's, which costs as much as all else around a small one. */
const limitPieces = bodyLimit({ maxSize: MAX_BODY_BYTES, onError: tooLarge });

export function createApp(services: Services) {
  const { config, stopping } = services;
  setMaxListeners(0, stopping); // one a caller who waits
  const app = new Hono();
  app.use(requestId(services));
  app.use(securityHeaders(config.publicUrl));
  app.use(loopbackOnly(config.corsOrigins));
  if (config.corsOrigins.length > 0) app.use(otherPages(config.corsOrigins));
  app.use((c, next) => {
    if (c.req.header('transfer-encoding') !== undefined) return limitPieces(c, next);
    if (Number(c.req.header('content-length') ?? 0) > MAX_BODY_BYTES) tooLarge(); // Node takes no more than was announced
    return next();
  });
  app.route('/', img2vid(services));
  app.route('/', status(services));
  app.route('/', cancel(services));
  app.route('/', remove(services));
  if (services.disk) app.route('/', files(services.disk));
  app.route('/', callback(services));
  app.route('/', page(services.linkOrigin));
  app.get('/healthz', (c) => c.json({ status: 'ok' }));
  app.route('/', ready(services));
  app.route('/', metrics(services));
  const document = openApiDocument(config);
  app.get('/openapi.json', (c) => c.json(document));

  for (const [path, allow] of Object.entries(METHODS)) {
    if (path === '/files/*' && !services.disk) continue;
    app.all(path, () => {
      throw new Problem(405, 'method_not_allowed', `use ${allow}`, { headers: { allow } });
    });
  }
  app.notFound((c) =>
    renderProblem(c, new Problem(404, 'not_found', 'there is nothing here; /openapi.json tells what is')),
  );
  app.onError((error, c) => {
    const log = c.get('log');
    if (error instanceof Problem) {
      if (error.status >= 500) log.error({ error: error.cause, path: c.req.routePath }, error.detail);
      return renderProblem(c, error);
    }
    if (error instanceof StorageError) {
      log.error({ error, path: c.req.routePath }, 'the bucket could not be used');
      const headers = { 'retry-after': '5' };
      return renderProblem(c, new Problem(503, 'unavailable', 'the pictures can’t be reached; try again', { headers }));
    }
    log.error({ error, path: c.req.routePath }, 'request failed'); // the route's pattern, not the address: that may hold a token
    return renderProblem(c, new Problem(500, 'internal', 'something went wrong here; it has been logged'));
  });
  return app;
}
