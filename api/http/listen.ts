/** Listens, with limits on what a connection may cost, and stops in order. It knows nothing of routes. */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import type { Hono } from 'hono';
import { MINUTE, SECOND } from '../../core/time.ts';

/** Milliseconds; the names are Node's where it has one. */
const LIMITS = {
  /** to send a request's headers in */
  headersTimeout: 15 * SECOND,
  /** to send a whole request in: 20 MB at 35 kB/s */
  requestTimeout: 10 * MINUTE,
  /** how often the two are looked at */
  connectionsCheckingInterval: SECOND,
  /** a connection without a request: longer than proxies keep theirs (a minute), else they would send into one that just closes */
  keepAliveTimeout: 75 * SECOND,
  /** an answer of which the caller takes nothing; at times it is cut off only after twice as long */
  stallTimeout: 30 * SECOND,
};

export interface ListenOptions {
  hostname: string;
  /** 0 for any that is free */
  port: number;
  limits?: Partial<typeof LIMITS>;
}

export interface Listener {
  port: number;
  /**
   * Takes no new connections, closes those that nothing is under way on, and lets the others end.
   * @param gracePeriod milliseconds after which they are cut off
   */
  close(gracePeriod: number): Promise<void>;
}

/** @throws Error in one line: the port is taken, the address is not this machine's */
export function listen(app: Pick<Hono, 'fetch'>, { hostname, port, limits = {} }: ListenOptions): Promise<Listener> {
  const { stallTimeout, ...serverOptions } = { ...LIMITS, ...limits };
  const server = createAdaptorServer({ fetch: app.fetch, hostname, serverOptions }) as Server;
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });

  // Node tells when a socket was idle for so long. One with an answer under way is ours to judge: whoever waits for news has nothing
  // unsent. The other sockets Node destroys itself.
  server.timeout = stallTimeout;
  server.on('request', (_, answer) => {
    answer.on('timeout', (socket: Socket) => {
      if (socket.writableLength > 0) socket.resetAndDestroy(); // a mere close would leave megabytes with the kernel
    });
    answer.once('close', () => {
      if (!server.listening) server.closeIdleConnections();
    });
  });

  // Node's own spares connections that were never used, and cuts off an answer that is written but not yet sent.
  const closeUsed = server.closeIdleConnections.bind(server);
  server.closeIdleConnections = () => {
    for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy();
    if ([...sockets].every(({ writableLength }) => writableLength === 0)) closeUsed();
  };

  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = error.code === 'EADDRINUSE';
      reject(taken ? new Error(`PORT ${port} is already in use`, { cause: error }) : error);
    });
    server.listen(port, hostname, () => {
      const address = server.address();
      resolve({
        port: typeof address === 'object' && address ? address.port : port,
        close: (gracePeriod) =>
          new Promise((closed) => {
            const cut = setTimeout(() => server.closeAllConnections(), gracePeriod);
            server.close(() => {
              clearTimeout(cut);
              closed();
            });
          }),
      });
    });
  });
}
