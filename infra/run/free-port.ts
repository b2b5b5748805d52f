import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';

/** A free port of 127.0.0.1. */
export const freePort = async (): Promise<number> => (await probe(0, '127.0.0.1'))!;

/** The first free port of a host from `from` on. @throws Error: the next 100 are all in use */
export async function firstFreePort(from: number, host: string): Promise<number> {
  for (let port = from; port < from + 100; port++) if ((await probe(port, host)) !== undefined) return port;
  throw new Error(`no free port from ${from} to ${from + 99}: set PORT`);
}

/** @param port 0 for any. @returns the port, if one can listen there */
async function probe(port: number, host: string): Promise<number | undefined> {
  const server = createServer().listen(port, host);
  try {
    await once(server, 'listening');
  } catch {
    return undefined;
  }
  const { port: found } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return found;
}
