/** libSQL: one file for one process. The one importer of libsql. */

import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of libsql.
import { type Client, createClient, type LibsqlError, type Transaction } from '@libsql/client';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of libsql.
import { LibsqlDialect } from '@libsql/kysely-libsql';
import { type Compilable, CompiledQuery, Kysely, SqliteAdapter, sql } from 'kysely';
import { SECOND } from '../../core/time.ts';
import { type Dialect, storable, type Tables, type Write } from './dialect.ts';
import { migrate } from './schema.ts';

/** Writes per transaction: it blocks the process for some 10 ms. */
const MAX_GROUP = 200;
/** How long a write waits while another program holds SQLite's write lock, and the pause between two attempts to get it. */
const LOCK_TIMEOUT = 5 * SECOND;
const LOCK_PAUSE = 20;
const DATA_ERROR = /^SQLITE_(CONSTRAINT|MISMATCH|RANGE|TOOBIG)/;

/**
 * SQLite has one writer, and each commit waits for the disk. So writes wait in a queue here, and waiting writes are committed together.
 * There are two connections, so that reads don't see an open transaction.
 * @param exclusive whether to lock the folder, and to end the leases that a dead process left; false: another process may use the file
 * @throws Error exclusive, and another process uses the folder
 */
export async function openLibsql(url: string, clockSkew: () => number, exclusive: boolean): Promise<Dialect> {
  const path = decodeURIComponent(url.replace(/^file:(\/\/)?/, ''));
  const folder = dirname(path);
  await mkdir(folder, { recursive: true });
  await writeFile(path, '', { flag: 'a', mode: 0o600 }); // it holds secrets, and SQLite gives its other files the same mode
  const lock = exclusive ? await lockFolder(folder) : undefined;
  if (exclusive && !lock) throw new Error(`${folder} is in use by another process: give each process its own DATA_DIR`);
  const opener = await connect(path, LOCK_TIMEOUT); // its waits block the process, which does nothing else yet
  await migrate(new Kysely<Tables>({ dialect: new TransactionalDialect({ client: opener }) }));
  if (lock) await opener.execute('update tasks set next_run_at = 0, leased_until = 0 where leased_until > 0'); // leases of a dead process
  const [reader, writer] = [await connect(path, LOCK_PAUSE), await connect(path, 0)];
  opener.close();
  const queue = createWriteQueue(writer);

  return {
    db: new Kysely<Tables>({ dialect: new LibsqlDialect({ client: reader }) }),
    write: (query) => queue.add((execute) => execute(query)),
    writeAll: (work) =>
      queue.add(async (execute) => {
        await execute(statement('savepoint work'));
        try {
          return await work(execute);
        } catch (error) {
          await execute(statement('rollback to work'));
          throw error;
        } finally {
          await execute(statement('release work'));
        }
      }),
    fromNow: (ms) => sql<number>`${Math.round(Date.now() + clockSkew() + ms)}`, // the database is in this process
    skipLocked: (query) => query,
    isDataError: (error) => DATA_ERROR.test(String((error as { code?: unknown }).code)),
    isShared: false,
    async close() {
      await queue.idle();
      try {
        await writer.execute('pragma wal_checkpoint(truncate)'); // so that a copy of the file alone is the whole database
      } finally {
        for (const client of [reader, writer, lock]) client?.close();
      }
    },
  };
}

const statement = <R>(text: string): Compilable<R> => ({ compile: () => CompiledQuery.raw(text) as CompiledQuery<R> });

/** @param timeout how long a statement may block the process while another program locks the file; milliseconds */
async function connect(path: string, timeout: number): Promise<Client> {
  const client = createClient({ url: pathToFileURL(path).href, timeout, concurrency: 1 });
  await client.execute('pragma journal_mode = wal');
  await client.execute('pragma synchronous = full');
  return client;
}

interface Queued {
  work(execute: Write): Promise<unknown>;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

/**
 * Begins a transaction. Another program may hold the write lock: then it tries again for up to LOCK_TIMEOUT, and meanwhile the process
 * does other things.
 */
async function beginWhenUnlocked(client: Client): Promise<Transaction> {
  for (const until = performance.now() + LOCK_TIMEOUT; ; await delay(LOCK_PAUSE)) {
    try {
      // First as several statements, because libsql discards only these when they fail. The connection may be a new one.
      await client.executeMultiple('pragma synchronous = full; begin immediate; rollback');
      return await client.transaction('write');
    } catch (error) {
      if ((error as LibsqlError).code !== 'SQLITE_BUSY' || performance.now() > until) throw error;
      await client.reconnect();
    }
  }
}

function createWriteQueue(client: Client) {
  let waiting: Queued[] = [];
  let draining: Promise<void> | undefined;

  async function drain(): Promise<void> {
    while (waiting.length > 0) {
      // Requests that have arrived add their writes first, since a commit blocks the process.
      await new Promise((resolve) => setImmediate(resolve));
      const group = waiting.slice(0, MAX_GROUP);
      waiting = waiting.slice(MAX_GROUP);
      await commit(group);
    }
    draining = undefined;
  }

  /** Every write gets its own result or error, once all are on the disk. */
  async function commit(group: Queued[]): Promise<void> {
    const settled: (() => void)[] = [];
    try {
      const transaction = await beginWhenUnlocked(client);
      const execute: Write = async <R>(query: Compilable<R>) => {
        const { sql, parameters } = query.compile();
        return (await transaction.execute({ sql, args: parameters.map(storable) as never })).rows as R[];
      };
      try {
        for (const { work, resolve } of group) {
          const result = work(execute);
          await result.catch((error) => {
            if (transaction.closed) throw error; // such as a full disk: SQLite has rolled back all
          });
          settled.push(() => resolve(result));
        }
        await transaction.commit();
      } finally {
        transaction.close();
      }
    } catch (error) {
      await client.reconnect(); // libsql keeps a statement that has failed, perhaps as one in progress: then no transaction can be committed
      for (const { reject } of group) reject(error);
      return;
    }
    for (const settle of settled) settle();
  }

  return {
    add: <R>(work: (execute: Write) => Promise<R>) =>
      new Promise<R>((resolve, reject) => {
        waiting.push({ work, resolve: resolve as Queued['resolve'], reject });
        draining ??= drain();
      }),
    idle: async () => draining,
  };
}

/** Whether a process uses this data folder, which need not exist. */
export async function isFolderInUse(folder: string): Promise<boolean> {
  if (!existsSync(folder)) return false;
  const lock = await lockFolder(folder);
  lock?.close();
  return !lock;
}

/** Tells Kysely that SQLite creates tables transactionally. */
class TransactionalDialect extends LibsqlDialect {
  override createAdapter() {
    return Object.defineProperty(new SqliteAdapter(), 'supportsTransactionalDdl', { value: true });
  }
}

/**
 * Locks the folder while this process lives: two processes would look for each other's jobs at their own queue. The operating system
 * releases the lock even if the process crashes.
 * @returns undefined: another process holds the lock
 */
async function lockFolder(folder: string): Promise<{ close(): void } | undefined> {
  const client = createClient({ url: pathToFileURL(join(folder, 'lock.db')).href, timeout: 0 });
  try {
    const transaction = await client.transaction('write'); // never committed
    return {
      close() {
        transaction.close(); // closing the client releases it only at the next garbage collection
        client.close();
      },
    };
  } catch (error) {
    client.close();
    if ((error as { code?: string }).code?.startsWith('SQLITE_BUSY')) return undefined;
    throw error;
  }
}
