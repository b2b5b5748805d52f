/** Postgres: any number of processes share one database. The one importer of pg. */
import { Kysely, PostgresDialect, type PostgresPool, type PostgresPoolClient, sql } from 'kysely';
// biome-ignore lint/style/noRestrictedImports: This module is the only importer of pg.
import pg from 'pg';
import { SECOND } from '../../core/time.ts';
import { type Dialect, storable, type Tables, type Write } from './dialect.ts';
import { migrate } from './schema.ts';

const MIN_VERSION = 15;
const BIGINT = 20; // its oid in pg_type
/** Classes of SQLSTATE: data exception, integrity constraint violation, program limit exceeded. */
const DATA_ERROR = /^(22|23|54)/;

/** @throws Error in one line: the server can't be reached, refuses, is too old, or the database is not in UTF8 */
export async function openPostgres(url: string, clockSkew: () => number, queryTimeout: number): Promise<Dialect> {
  const pool = new pg.Pool({
    connectionString: url,
    connectionTimeoutMillis: 10 * SECOND,
    query_timeout: queryTimeout,
    keepAlive: true,
    application_name: 'img2vid',
    // Our bigints are below 2^53; pg would return them as strings.
    types: { getTypeParser: (oid, format) => (oid === BIGINT ? Number : pg.types.getTypeParser(oid, format)) as never },
  });
  // The pool replaces a broken connection, and its current statement rejects by itself.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: discardBroken(pool) }) });
  try {
    await checkServer(pool);
    await migrate(db);
  } catch (error) {
    await db.destroy();
    throw error;
  }
  return {
    db,
    write: writeOn(db),
    writeAll: (work) => db.transaction().execute((transaction) => work(writeOn(transaction))),
    // now(), not clock_timestamp(): an index serves only values that are constant during a statement.
    fromNow: (ms) =>
      sql<number>`((extract(epoch from now()) * 1000)::bigint + ${Math.round(clockSkew() + ms)}::bigint)`,
    skipLocked: (query) => query.forUpdate().skipLocked(),
    isDataError: (error) => error instanceof pg.DatabaseError && DATA_ERROR.test(error.code ?? ''),
    isShared: true,
    close: () => db.destroy(),
  };
}

const writeOn =
  (executor: Kysely<Tables>): Write =>
  async (query) =>
    (await executor.executeQuery(query)).rows;

/** Closes a connection after an error that is not the server's, such as a timeout: a late response would reach the next query. */
function discardBroken(pool: pg.Pool): PostgresPool {
  return {
    async connect() {
      const client = await pool.connect();
      let isBroken = false;
      const query = (text: string, values: unknown[]) =>
        client.query(text, values.map(storable)).catch((error: unknown) => {
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
    const error = cause instanceof AggregateError ? cause.errors[0] : cause; // of a host with several addresses
    throw new Error(`DATABASE_URL: PostgreSQL can't be used: ${error.message}`, { cause });
  }
  if (Number.parseInt(server.version, 10) < MIN_VERSION)
    throw new Error(`DATABASE_URL: PostgreSQL ${MIN_VERSION} or newer is needed, this server is ${server.version}`);
  if (server.encoding !== 'UTF8')
    throw new Error(`DATABASE_URL: the database must be in UTF8, this one is in ${server.encoding}`);
}
