/** Faults in front of the servers that workers and the API talk to: RunPod's queue and a bridge. */
import type { IncomingMessage } from 'node:http';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import type { Context } from 'hono';

/** The workers' endpoint. An API's endpoint has the API's own name, which identifies the sender of a request. */
export const WORKERS_ENDPOINT = 'ep';

/** Operations by the part of the path that names them. */
const OPERATIONS = {
  // workers to RunPod
  'job-take': 'take',
  'job-take-batch': 'take',
  'job-stop': 'stop',
  ping: 'ping',
  // the API to RunPod
  run: 'submit',
  status: 'status',
  cancel: 'cancel',
  // workers to the bridge
  imagine: 'imagine',
  message: 'message',
  pictures: 'picture',
} as const;

/** A request on its way. */
export interface Intercepted {
  operation: (typeof OPERATIONS)[keyof typeof OPERATIONS] | 'outcome' | 'progress' | 'callback';
  /** the worker or API that sent it; of a callback the API that receives it */
  by: string;
  /** RunPod's id of the job, except for take and submit; the bridge's id for message and picture */
  id: string;
  body: Record<string, unknown>;
}

/**
 * What happens to a request. `pass` hands it to the real server; a fault without a response of its own must call it.
 * @returns a response to send instead of the real one; undefined: the real one
 */
export type Fault = (pass: () => Promise<void>, c: Context) => Promise<Response | undefined>;

export const answer =
  (status: number, text = ''): Fault =>
  async () =>
    new Response(status === 204 ? null : text, { status });
export const json = (value: unknown) => answer(200, JSON.stringify(value));
/** The connection breaks before the server gets the request. */
export const reset: Fault = async (_pass, c) => hangUp(c);
/** The server gets the request, and its response is lost. */
export const resetAfter: Fault = async (pass, c) => {
  await pass();
  return hangUp(c);
};
export const passOn: Fault = async (pass) => {
  await pass();
  return undefined;
};
/** The real response, but not before the promise resolves. */
export const after =
  (promise: () => Promise<unknown>): Fault =>
  async (pass, c) => {
    await promise();
    return passOn(pass, c);
  };

export function hangUp(c: Context): Response {
  (c.env as { incoming: IncomingMessage }).incoming.socket.destroy();
  return RESPONSE_ALREADY_SENT;
}

/** Reads `/v2/ENDPOINT/OPERATION/…`, `/bridge/v2/OPERATION/…` and `/API/callback/…`; undefined for other requests. */
export async function readOperation(c: Context, isApi: (name: string) => boolean): Promise<Intercepted | undefined> {
  const [, side = '', ...path] = c.req.path.split('/');
  const body = c.req.method === 'POST' ? await c.req.json().catch(() => ({})) : {};
  if (isApi(side))
    return path[1] === 'callback' ? { operation: 'callback', by: side, id: String(body.id), body } : undefined;
  const [endpoint = '', name = '', first = '', second = ''] = path;
  if (name === 'job-done')
    return { operation: body.status === 'IN_PROGRESS' ? 'progress' : 'outcome', by: first, id: second, body };
  const operation = OPERATIONS[name as keyof typeof OPERATIONS];
  if (!operation) return undefined;
  if (side === 'bridge') return { operation, by: '', id: first, body };
  if (endpoint !== WORKERS_ENDPOINT) return { operation, by: endpoint, id: first, body };
  return { operation, by: first, id: second, body };
}
