/** An HTTP proxy in front of an S3 store that injects faults, for tests of what the network and the store may do. */
import { once } from 'node:events';
import { type IncomingMessage, request, type ServerResponse } from 'node:http';
import { serveOnLoopback } from './loopback.ts';

/**
 * What happens to a request in place of forwarding it:
 * - `reset`: the connection breaks in the middle of the request
 * - `hang`: no answer comes
 * - `drop`: the store executes the request, and then the connection breaks
 * - `truncate`: the same after half of the answer's body
 * - an answer of the proxy's own
 */
export type Fault =
  | 'reset'
  | 'hang'
  | 'drop'
  | 'truncate'
  | { status: number; body: string; headers?: Record<string, string> | undefined };

export type S3Proxy = Awaited<ReturnType<typeof startS3Proxy>>;

/** @param storeUrl where requests are forwarded to */
export async function startS3Proxy(storeUrl: string) {
  const proxy = {
    /** Returns the fault of a request; undefined forwards it. */
    fault: (_: IncomingMessage): Fault | undefined | Promise<Fault | undefined> => undefined,
    /** Changes the headers of the store's answers in place. */
    change: (_: IncomingMessage['headers']): unknown => undefined,
    /** every request, as `PUT /bucket/key?query` */
    requests: [] as string[],
    /** those that met the fault `drop` */
    dropped: [] as string[],
  };

  async function forward(incoming: IncomingMessage, response: ServerResponse) {
    const line = `${incoming.method} ${incoming.url}`;
    proxy.requests.push(line);
    const fault = await proxy.fault(incoming);
    if (fault === 'hang') return;
    if (fault === 'reset') {
      if (Number(incoming.headers['content-length'])) await once(incoming, 'data');
      return void incoming.socket.destroy();
    }
    if (typeof fault === 'object') {
      incoming.resume();
      response.writeHead(fault.status, { 'content-type': 'application/xml', ...fault.headers }).end(fault.body);
      return;
    }
    const { expect: _, ...headers } = incoming.headers; // this server has answered `100 Continue` itself
    const outgoing = request(`${storeUrl}${incoming.url}`, { method: incoming.method, headers });
    outgoing.on('error', () => incoming.socket.destroy());
    incoming.pipe(outgoing);
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage];
    proxy.change(answer.headers);
    const body = Buffer.concat(await answer.toArray());
    if (fault === 'drop') {
      proxy.dropped.push(line);
      return void incoming.socket.destroy();
    }
    response.writeHead(answer.statusCode!, answer.headers);
    if (fault === 'truncate') response.write(body.subarray(0, body.length / 2), () => incoming.socket.destroy());
    else response.end(body);
  }

  const { url, close } = await serveOnLoopback((incoming, response) => {
    forward(incoming, response).catch(() => incoming.socket.destroy());
  });
  return Object.assign(proxy, { url, close });
}

/** An error's body as S3 stores send it. Its message stands for what must not reach a log. */
export const errorBody = (code: string, more = '') =>
  `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>secret-of-the-body</Message>${more}</Error>`;
