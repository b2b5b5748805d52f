import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** Not what an API writes when it starts, since it may end if that fails: that changes no version. */
const CHANGE = /(insert into|update) "tasks".*"version"/s;
/** Share of the changes whose answer is lost. */
const LOST = 0.03;

/**
 * Passes on connections to Postgres, and breaks some after a task was changed, before the answer: the client can't know whether the
 * change is stored.
 * @param onLost called for each lost answer
 */
export async function startLossyConnection(port: number, random: () => number, onLost: () => void) {
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const database = connect(port, '127.0.0.1');
    let isTransaction = false;
    let hasChanged = false;
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
      const text = data.toString('latin1');
      if (/\bbegin\b/.test(text)) [isTransaction, hasChanged] = [true, false];
      hasChanged = CHANGE.test(text) || (isTransaction && hasChanged);
      const isEnd = /\bcommit\b/.test(text);
      if (hasChanged && (isEnd || !isTransaction)) isLost = random() < LOST;
      if (isEnd || /\brollback\b/.test(text)) [isTransaction, hasChanged] = [false, false];
      database.write(data);
    });
    database.on('data', (data) => {
      if (!isLost) return void client.write(data);
      onLost();
      client.resetAndDestroy();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
