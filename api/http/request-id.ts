/** Gives each request an id, in its response and in every log line about it, and reports its end to the log and the metrics. */
import { randomUUID } from 'node:crypto';
import type { HttpBindings } from '@hono/node-server';
import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import type { Logger } from 'pino';
import type { Services } from '../services.ts';
import { setDefaultHeader } from './security.ts';

declare module 'hono' {
  interface ContextVariableMap {
    /** adds the request's id to every line */
    log: Logger;
  }
}

/** An id that a client or a proxy may set. hono/request-id allows no dots. */
const ID = /^[A-Za-z0-9._-]{1,64}$/;

export function requestId({
  log: parent,
  metrics,
  stopping,
}: Pick<Services, 'log' | 'metrics' | 'stopping'>): MiddlewareHandler {
  return async (c, next) => {
    const startedAt = performance.now();
    const given = c.req.header('x-request-id') ?? '';
    const request = ID.test(given) ? given : randomUUID();
    const log = parent.child({ request });
    c.set('log', log);
    setDefaultHeader(c, 'x-request-id', request);
    await next();
    if (stopping.aborted) c.res.headers.set('connection', 'close'); // the next request goes to another process

    const { status } = c.res;
    const outgoing = (c.env as HttpBindings | undefined)?.outgoing;
    const onEnd = () => {
      const ms = performance.now() - startedAt;
      const ended = { method: c.req.method, route: routePath(c, -1), status, ms }; // the URL may hold a token
      metrics.observeRequest(ended);
      const line = { ...ended, ms: Math.round(ms) };
      if (outgoing?.errored) log.error({ ...line, error: outgoing.errored }, 'response failed before its end');
      else if (outgoing && !outgoing.writableFinished) log.debug(line, 'client disconnected');
      else log.debug(line, 'request finished');
    };
    if (!outgoing || outgoing.destroyed) onEnd();
    else outgoing.once('close', onEnd);
  };
}
