/** A proxy in front of PostgreSQL that loses answers to statements which the server has executed. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/**
 * Passes on connections, and breaks one instead of an answer: the client can't know whether its change is stored.
 * @param port of PostgreSQL, on loopback
 * @param watch called for each connection; its result gets all that the client sends, and returns whether the answer is lost
 */
export async function startPostgresProxy(port: number, watch: () => (sent: string) => boolean) {
  const sockets = new Set<Socket>();
  let lost = 0;
  const server = createServer((client) => {
    const database = connect(port, '127.0.0.1');
    const losesAnswer = watch();
    let isLost = false;
    for (const socket of [client, database]) {
      sockets.add(socket);
      socket.on('error', () => undefined); // `close` follows
      socket.on('close', () => {
        for (const one of [client, database]) one.destroy();
        sockets.delete(socket);
      });
    }
    client.on('data', (data) => {
      isLost ||= losesAnswer(data.toString('latin1'));
      database.write(data);
    });
    database.on('data', (data) => {
      if (!isLost) return void client.write(data);
      if (!client.destroyed) lost++;
      client.resetAndDestroy();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    /** answers lost so far */
    lost: () => lost,
    async close(): Promise<void> {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
