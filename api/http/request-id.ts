/** Names each request, in its answer and in every line of the log about it, and says at its end what became of it, to the metrics too. */
import { randomUUID } from 'node:crypto';
import type { HttpBindings } from '@hono/node-server';
import type { MiddlewareHandler } from 'hono';
import { routePath } from 'hono/route';
import type { Logger } from 'pino';
import type { Services } from '../services.ts';
import { presetHeader } from './preset-header.ts';

declare module 'hono' {
  interface ContextVariableMap {
    /** tells the request's id with every line */
    log: Logger;
  }
}

/** What a caller, or a proxy, may call a request. */
const ID = /^[A-Za-z0-9._-]{1,64}$/;

export function requestId({
  log: parent,
  metrics,
  stopping,
}: Pick<Services, 'log' | 'metrics' | 'stopping'>): MiddlewareHandler {
  return async (c, next) => {
    const began = performance.now();
    const given = c.req.header('x-request-id') ?? '';
    const request = ID.test(given) ? given : randomUUID();
    const log = parent.child({ request });
    c.set('log', log);
    presetHeader(c, 'x-request-id', request);
    await next();
    if (stopping.aborted) c.res.headers.set('connection', 'close'); // the next request goes to another process

    const { status } = c.res;
    const answer = (c.env as HttpBindings | undefined)?.outgoing;
    const finished = () => {
      const ms = performance.now() - began;
      const ended = { method: c.req.method, route: routePath(c, -1), status, ms }; // the address may hold a token
      metrics.requestEnded(ended);
      const line = { ...ended, ms: Math.round(ms) };
      if (answer?.errored) log.error({ ...line, error: answer.errored }, 'the answer broke off');
      else if (answer && !answer.writableFinished) log.debug(line, 'the caller went away');
      else log.debug(line, 'request finished');
    };
    if (!answer || answer.destroyed) finished();
    else answer.once('close', finished);
  };
}
