/** The HTTP application: middleware, endpoints and error handling. It does not listen; index.ts does. */
import { setMaxListeners } from 'node:events';
import { Hono } from 'hono';
import type { StatusCode } from 'hono/utils/http-status';
import { registerAll } from './http/endpoint.ts';
import { ClientDisconnected, renderProblem } from './http/problem.ts';
import { requestId } from './http/request-id.ts';
import { allowOrigins, securityHeaders } from './http/security.ts';
import { toProblem } from './http/to-problem.ts';
import { createAccess } from './keys/access.ts';
import { ENDPOINTS } from './routes/index.ts';
import type { Services } from './services.ts';

/** As nginx counts a client that has disconnected. It shows only in metrics and in the log. */
const CLIENT_CLOSED_REQUEST = 499;

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
  registerAll(app, ENDPOINTS, services, access.requireScope);
  app.onError((error, c) => {
    if (error instanceof ClientDisconnected) return c.body(null, CLIENT_CLOSED_REQUEST as StatusCode);
    return renderProblem(c, toProblem(c, error));
  });
  return app;
}
