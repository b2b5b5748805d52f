/** Postgres: any number of processes share one database. The one importer of pg. */
import { type Compilable, Kysely, PostgresDialect, type PostgresPool, type PostgresPoolClient, sql } from 'kysely';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of pg.
import pg from 'pg';
import { SECOND } from '../../core/time.ts';
import type { Dialect, Tables } from './dialect.ts';
import { migrate } from './schema.ts';

const OLDEST = 15;
const BIGINT = 20; // pg_type's number for it

/** @throws Error in one line: the server can't be reached, refuses, is too old, or the database is not in UTF8 */
export async function openPostgres(url: string, clockSkew: () => number, queryTimeout: number): Promise<Dialect> {
  const pool = new pg.Pool({
    connectionString: url,
    connectionTimeoutMillis: 10 * SECOND,
    query_timeout: queryTimeout,
    keepAlive: true,
    application_name: 'img2vid',
    // Our bigints are milliseconds and counts, far below 2^53; pg would give texts.
    types: { getTypeParser: (oid, format) => (oid === BIGINT ? Number : pg.types.getTypeParser(oid, format)) as never },
  });
  // A connection that breaks: the pool drops it and will open another, and a statement that it was at rejects by itself.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: discarding(pool) }) });
  try {
    await checkServer(pool);
    await migrate(db);
  } catch (error) {
    await db.destroy();
    throw error;
  }
  return {
    db,
    write: <R>(query: Compilable<R>) => db.executeQuery(query.compile()).then(({ rows }) => rows),
    writeAll: (work) =>
      db
        .transaction()
        .execute((transaction) => work((query) => transaction.executeQuery(query.compile()).then(({ rows }) => rows))),
    // now() and not clock_timestamp(): only what stands still during a statement can be looked up in an index.
    fromNow: (ms) =>
      sql<number>`((extract(epoch from now()) * 1000)::bigint + ${Math.round(clockSkew() + ms)}::bigint)`,
    forUpdate: (query) => query.forUpdate(),
    skipLocked: (query) => query.forUpdate().skipLocked(),
    isShared: true,
    close: () => db.destroy(),
  };
}

/** After an error that is no word of the server's, such as a time-out, the connection is closed: its answer may come to the next who asks. */
function discarding(pool: pg.Pool): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect();
      let isBroken = false;
      const query = (text: string, values: unknown[]) =>
        client.query(text, values).catch((error: unknown) => {
          isBroken ||= !(error instanceof pg.DatabaseError);
          throw error;
        });
      return { query: query as unknown as PostgresPoolClient['query'], release: () => client.release(isBroken) };
    },
    end: () => pool.end(),
  };
}

async function checkServer(pool: pg.Pool): Promise<void> {
  let server: { version: string; encoding: string };
  try {
    const settings = `current_setting('server_version') as version, current_setting('server_encoding') as encoding`;
    server = (await pool.query(`select ${settings}`)).rows[0];
  } catch (cause) {
    const error = cause instanceof AggregateError ? cause.errors[0] : cause; // a name with several addresses
    throw new Error(`DATABASE_URL: PostgreSQL can't be used: ${error.message}`, { cause });
  }
  if (Number.parseInt(server.version, 10) < OLDEST)
    throw new Error(`DATABASE_URL: PostgreSQL ${OLDEST} or newer is needed, this server is ${server.version}`);
  if (server.encoding !== 'UTF8')
    throw new Error(`DATABASE_URL: the database must be in UTF8, this one is in ${server.encoding}`);
}
