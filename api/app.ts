/** The routes, and what stands around them. It does not listen: index.ts does, and tests call `app.request`. */
import { setMaxListeners } from 'node:events';
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { StorageError } from '../core/bucket/bucket.ts';
import { Problem, renderProblem } from './http/problem.ts';
import { MAX_BODY_BYTES } from './http/read-body.ts';
import { requestId } from './http/request-id.ts';
import { allowOrigins, noStore, securityHeaders } from './http/security.ts';
import { createAccess } from './keys/access.ts';
import { openApiDocument } from './openapi/document.ts';
import { callback } from './routes/callback.ts';
import { cancel } from './routes/cancel.ts';
import { remove } from './routes/delete.ts';
import { docs } from './routes/docs.ts';
import { files } from './routes/files.ts';
import { img2vid } from './routes/img2vid.ts';
import { metrics } from './routes/metrics.ts';
import { page } from './routes/page.ts';
import { ready } from './routes/ready.ts';
import { status } from './routes/status.ts';
import { usage } from './routes/usage.ts';
import { webhooks } from './routes/webhooks.ts';
import type { Services } from './services.ts';
import type { Scope } from './store/key.ts';

/** Every path, what may be asked of it, and what an API key must be good for; without a scope it is open to all. */
const PATHS: Record<string, { allow: 'POST' | 'GET, HEAD'; scope?: Scope }> = {
  '/img2vid': { allow: 'POST', scope: 'submit' },
  '/status': { allow: 'GET, HEAD', scope: 'read' },
  '/cancel': { allow: 'POST', scope: 'submit' },
  '/delete': { allow: 'POST', scope: 'submit' },
  '/usage': { allow: 'GET, HEAD', scope: 'read' },
  '/webhooks/deliveries': { allow: 'GET, HEAD', scope: 'read' },
  '/webhooks/replay': { allow: 'POST', scope: 'submit' },
  '/webhooks/test': { allow: 'POST', scope: 'submit' },
  '/files/*': { allow: 'GET, HEAD' }, // a link is signed
  '/runpod/callback/:token': { allow: 'POST' }, // so is this, in effect
  '/': { allow: 'GET, HEAD' },
  '/docs': { allow: 'GET, HEAD' },
  '/docs/*': { allow: 'GET, HEAD' },
  '/page/*': { allow: 'GET, HEAD' },
  '/client/*': { allow: 'GET, HEAD' },
  '/core/*': { allow: 'GET, HEAD' },
  '/healthz': { allow: 'GET, HEAD' },
  '/readyz': { allow: 'GET, HEAD' },
  '/metrics': { allow: 'GET, HEAD', scope: 'admin' },
  '/openapi.json': { allow: 'GET, HEAD' },
};

export function createApp(services: Services) {
  const { config, stopping } = services;
  setMaxListeners(0, stopping); // one a caller who waits
  const app = new Hono();
  app.use(requestId(services));
  app.use(securityHeaders(config.publicUrl));
  app.use(noStore);
  const access = createAccess(services);
  app.use(access.guard);
  if (config.corsOrigins.length > 0) {
    const pages = allowOrigins(config.corsOrigins);
    const isForAll = config.corsOrigins.includes('*');
    app.use(async (c, next) => (isForAll && !(await access.isKeyRequired()) ? next() : pages(c, next)));
  }
  app.use(
    bodyLimit({
      maxSize: MAX_BODY_BYTES,
      onError: () => {
        throw new Problem(413, 'too_large', `a request has at most ${MAX_BODY_BYTES / 1e6} MB`);
      },
    }),
  );
  for (const [path, { scope }] of Object.entries(PATHS)) if (scope) app.use(path, access.requireScope(scope));
  app.route('/', img2vid(services));
  app.route('/', status(services));
  app.route('/', cancel(services));
  app.route('/', remove(services));
  app.route('/', usage(services));
  app.route('/', webhooks(services));
  if (services.disk) app.route('/', files(services.disk));
  app.route('/', callback(services));
  app.route('/', page(services.linkOrigin));
  app.route('/', docs(config));
  app.get('/healthz', (c) => c.json({ status: 'ok' }));
  app.route('/', ready(services));
  app.route('/', metrics(services));
  const document = openApiDocument(config);
  app.get('/openapi.json', (c) => c.json(document));

  for (const [path, { allow }] of Object.entries(PATHS)) {
    if (path === '/files/*' && !services.disk) continue;
    app.all(path, () => {
      throw new Problem(405, 'method_not_allowed', `use ${allow}`, { headers: { allow } });
    });
  }
  app.notFound((c) => renderProblem(c, new Problem(404, 'not_found', 'there is nothing here; /docs tells what is')));
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
