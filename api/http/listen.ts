/** Listens, with limits on what a connection may cost, and closes in order. */
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { createAdaptorServer } from '@hono/node-server';
import type { Hono } from 'hono';
import { MINUTE, SECOND } from '../../core/time.ts';

/** Milliseconds, named as Node's options where Node has one. */
const LIMITS = {
  /** for a request's headers */
  headersTimeout: 15 * SECOND,
  /** for a whole request: 20 MB at 35 kB/s */
  requestTimeout: 10 * MINUTE,
  /** how often Node checks the two */
  connectionsCheckingInterval: SECOND,
  /** of a connection without a request: longer than in proxies (a minute), or they would send into one that just closes */
  keepAliveTimeout: 75 * SECOND,
  /** of a response that the client does not read, or of a body that it does not send on; the cut may come after up to twice as long */
  stallTimeout: 30 * SECOND,
};

export interface ListenOptions {
  hostname: string;
  /** 0 for any free port */
  port: number;
  limits?: Partial<typeof LIMITS>;
}

/** @throws Error in one line: the port is in use, the address does not belong to this machine */
export async function listen(app: Pick<Hono, 'fetch'>, { hostname, port, limits = {} }: ListenOptions) {
  const { stallTimeout, ...serverOptions } = { ...LIMITS, ...limits };
  const server = createAdaptorServer({ fetch: app.fetch, hostname, serverOptions }) as Server;
  const sockets = new Set<Socket>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });

  // Node emits this event for a socket that was idle for so long. With a response in progress, it is cut off only if data is unsent:
  // a client that waits for events has none, or if the request's body is incomplete. Node itself destroys the other sockets.
  server.timeout = stallTimeout;
  server.on('request', (request, response) => {
    response.on('timeout', (socket: Socket) => {
      if (socket.writableLength > 0 || !request.complete) socket.resetAndDestroy(); // closing it would leave megabytes in the kernel
    });
    response.once('close', () => {
      if (!server.listening) server.closeIdleConnections();
    });
  });

  // Node's own function spares connections that were never used, and cuts off responses that are written but not yet sent.
  const closeUsed = server.closeIdleConnections.bind(server);
  server.closeIdleConnections = () => {
    for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy();
    if ([...sockets].every(({ writableLength }) => writableLength === 0)) closeUsed();
  };

  server.listen(port, hostname);
  await once(server, 'listening').catch((cause: NodeJS.ErrnoException) => {
    throw cause.code === 'EADDRINUSE' ? new Error(`PORT ${port} is already in use`, { cause }) : cause;
  });
  return {
    port: (server.address() as AddressInfo).port,
    /**
     * Accepts no new connections, closes idle ones, and waits for the others.
     * @param gracePeriod milliseconds until the others are cut off
     */
    async close(gracePeriod: number): Promise<void> {
      const timer = setTimeout(() => server.closeAllConnections(), gracePeriod);
      await new Promise((resolve) => server.close(resolve));
      clearTimeout(timer);
    },
  };
}
