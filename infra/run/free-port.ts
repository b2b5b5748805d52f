import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:net';

/**
 * A free port of 127.0.0.1. It is below those that systems give to connections and to servers without a port of their own. One of these
 * could be taken before the caller listens.
 */
export const freePort = (): Promise<number> => firstFreePort(randomInt(20_000, 30_000), '127.0.0.1');

/** The first free port of a host from `from` on. @throws Error: the next 100 are all in use */
export async function firstFreePort(from: number, host: string): Promise<number> {
  for (let port = from; port < from + 100; port++) if (await isFree(port, host)) return port;
  throw new Error(`no free port from ${from} to ${from + 99}: set PORT`);
}

async function isFree(port: number, host: string): Promise<boolean> {
  const server = createServer().listen(port, host);
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}
