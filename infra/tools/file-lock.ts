import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { type Client, createClient } from '@libsql/client';
import { SECOND } from '../../core/time.ts';

const POLL_INTERVAL = 0.2 * SECOND;

/**
 * A lock between processes: a write transaction on a SQLite database, which the operating system ends with its process. Where the
 * disk does not support locks, as some network volumes, it only logs that.
 * @param onWait called once if another process holds the lock
 * @returns a function that unlocks
 */
export async function lockFile(path: string, onWait: () => void, log: (line: string) => void): Promise<() => void> {
  await mkdir(dirname(path), { recursive: true });
  let client: Client | undefined;
  for (let isFirst = true; ; isFirst = false) {
    try {
      client ??= createClient({ url: pathToFileURL(path).href, timeout: 0 });
      const transaction = await client.transaction('write'); // never committed
      return () => {
        transaction.close(); // closing only the client would keep the lock until garbage collection
        client?.close();
      };
    } catch (error) {
      if ((error as { code?: string }).code !== 'SQLITE_BUSY') {
        log(`${path} can’t be locked (${(error as Error).message}): do not run the command twice at the same time`);
        return () => client?.close();
      }
      if (isFirst) onWait();
      await delay(POLL_INTERVAL);
    }
  }
}
