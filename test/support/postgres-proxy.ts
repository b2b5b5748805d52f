/** A proxy in front of PostgreSQL that can lose the answer to a statement that the server has executed. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/**
 * @param port of PostgreSQL, on loopback
 * @returns `loseAnswer`: closes the next connection that sends a match of the pattern, when the server has answered it
 */
export async function startPostgresProxy(port: number) {
  const sockets = new Set<Socket>();
  let pattern: RegExp | undefined;
  let lost = 0;
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    let isDoomed = false;
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.on('data', (bytes) => {
      if (pattern?.test(bytes.toString('latin1'))) {
        isDoomed = true;
        pattern = undefined;
      }
      upstream.write(bytes);
    });
    upstream.on('data', (bytes) => {
      if (!isDoomed) return client.write(bytes);
      lost++;
      client.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    /** answers lost so far */
    lost: () => lost,
    loseAnswer(next: RegExp): void {
      pattern = next;
    },
    async close(): Promise<void> {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
