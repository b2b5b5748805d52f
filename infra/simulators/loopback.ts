import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';

/**
 * Starts an HTTP server on a free port that only this machine reaches.
 * @param listener of a Hono app: `getRequestListener(app.fetch)` from `@hono/node-server`
 */
export async function serveOnLoopback(listener: RequestListener) {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    /** `http://127.0.0.1:PORT` */
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    /** Ends open connections, too. Resolves when the port is free again. */
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
