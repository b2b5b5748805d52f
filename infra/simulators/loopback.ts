import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface LoopbackServer {
  /** `http://127.0.0.1:PORT` */
  url: string;
  server: Server;
  /** Ends open connections, too. Resolves when the port is free again. */
  close(): Promise<void>;
}

/**
 * Starts an HTTP server on a free port that only this machine reaches.
 * @param listener of a Hono app: `getRequestListener(app.fetch)` from `@hono/node-server`
 */
export async function serveOnLoopback(listener: RequestListener): Promise<LoopbackServer> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
