/** libSQL: one file, used by one process. The one importer of libsql. */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of libsql.
import { type Client, createClient } from '@libsql/client';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of libsql.
import { LibsqlDialect } from '@libsql/kysely-libsql';
import { type Compilable, CompiledQuery, Kysely, type Dialect as KyselyDialect, SqliteAdapter, sql } from 'kysely';
import type { Dialect, Tables, Write } from './dialect.ts';
import { migrate } from './schema.ts';

/** Statements in one transaction: the process does nothing else meanwhile, some 10 ms. */
const GROUP = 200;

/**
 * SQLite has one writer, and each commit waits for the disk. So writes queue up here, not inside it, and those that wait are committed
 * together. Two connections, one for writing: whoever reads while a transaction is open sees what was before it.
 * @param exclusive whether to lock the folder, and to end the leases that a dead process left; false: another process may use the file
 * @throws Error exclusive, and another process uses the folder
 */
export async function openLibsql(url: string, clockSkew: () => number, exclusive: boolean): Promise<Dialect> {
  const folder = dirname(url.replace(/^file:(\/\/)?/, ''));
  await mkdir(folder, { recursive: true });
  const lock = exclusive ? await lockFolder(folder) : undefined;
  const writer = await connect(url);
  await migrate(new Kysely<Tables>({ dialect: transactional(new LibsqlDialect({ client: writer })) }));
  if (lock) await writer.execute('update tasks set next_run_at = 0, leased_until = 0 where leased_until > 0'); // of a process that has died
  const reader = await connect(url);
  const queue = createQueue(writer);

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
    forUpdate: (query) => query,
    skipLocked: (query) => query,
    isShared: false,
    async close() {
      await queue.idle();
      for (const client of [reader, writer, lock]) client?.close();
    },
  };
}

const statement = <R>(text: string): Compilable<R> => ({ compile: () => CompiledQuery.raw(text) as CompiledQuery<R> });

/** One connection; `timeout` for whoever looks into the file from outside. */
async function connect(url: string): Promise<Client> {
  const client = createClient({ url, timeout: 5000, concurrency: 1 });
  await client.execute('pragma journal_mode = wal');
  await client.execute('pragma synchronous = full');
  return client;
}

interface Queued {
  work(execute: Write): Promise<unknown>;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

function createQueue(client: Client) {
  let waiting: Queued[] = [];
  let draining: Promise<void> | undefined;

  async function drain(): Promise<void> {
    while (waiting.length > 0) {
      // The requests that have come by now bring their writes first; a commit then holds up everything.
      await new Promise((resolve) => setImmediate(resolve));
      const group = waiting.slice(0, GROUP);
      waiting = waiting.slice(GROUP);
      await commit(group);
    }
    draining = undefined;
  }

  /** Each write has its own result or error, told after all are on the disk. Nothing but this client is awaited in between. */
  async function commit(group: Queued[]): Promise<void> {
    const told: (() => void)[] = [];
    try {
      await client.execute('pragma synchronous = full'); // the client may have opened another connection after an error
      const transaction = await client.transaction('write');
      const execute: Write = async <R>(query: Compilable<R>) => {
        const { sql, parameters } = query.compile();
        return (await transaction.execute({ sql, args: parameters as never })).rows as R[];
      };
      try {
        for (const { work, resolve, reject } of group) {
          try {
            const result = await work(execute);
            told.push(() => resolve(result));
          } catch (error) {
            if (transaction.closed) throw error; // such as a full disk: SQLite has taken all of it back
            told.push(() => reject(error));
          }
        }
        await transaction.commit();
      } finally {
        transaction.close();
      }
    } catch (error) {
      for (const { reject } of group) reject(error);
      return;
    }
    for (const tell of told) tell();
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

/** SQLite's tables are made in transactions too; Kysely's adapter is careful because MySQL's are not. */
function transactional(dialect: KyselyDialect): KyselyDialect {
  const adapter = Object.defineProperty(new SqliteAdapter(), 'supportsTransactionalDdl', { value: true });
  return {
    createAdapter: () => adapter,
    createDriver: () => dialect.createDriver(),
    createIntrospector: (db) => dialect.createIntrospector(db),
    createQueryCompiler: () => dialect.createQueryCompiler(),
  };
}

/**
 * Keeps other processes out of the folder as long as this one lives: two would each look for the other's jobs at their own queue.
 * The operating system lets go of the lock when the process dies, however it dies.
 * @throws Error if another process has it
 */
async function lockFolder(folder: string): Promise<{ close(): void }> {
  const client = createClient({ url: `file:${join(folder, 'lock.db')}`, timeout: 0 });
  try {
    const transaction = await client.transaction('write'); // never committed
    return {
      close() {
        transaction.close(); // closing the client alone lets go only when garbage is collected
        client.close();
      },
    };
  } catch (cause) {
    client.close();
    throw new Error(`${folder} is in use by another process: give each its own DATA_DIR`, { cause });
  }
}
