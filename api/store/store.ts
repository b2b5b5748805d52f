/** The database of tasks, keys and deliveries. The queries serve both databases; their differences are in libsql.ts and postgres.ts. */
import { SECOND } from '../../core/time.ts';
import { deliveryQueries, webhookQueries } from './delivery-queries.ts';
import type { StoreLog } from './dialect.ts';
import { keyQueries } from './key-queries.ts';
import { leaseQueries } from './lease-queries.ts';
import { openLibsql } from './libsql.ts';
import { openPostgres } from './postgres.ts';
import { pruneQueries } from './prune-queries.ts';
import { taskQueries, taskWrites } from './task-queries.ts';

export interface StoreOptions {
  /** gets what is skipped because the database refuses it or it can't be read */
  log?: StoreLog;
  /** for tests: added to the database's clock; milliseconds */
  clockSkew?: (() => number) | undefined;
  /** of one statement in Postgres; milliseconds */
  queryTimeout?: number;
  /** false: other processes may use the same file, as the operator's tools do */
  exclusive?: boolean;
}

export type Store = Awaited<ReturnType<typeof openStore>>;

/**
 * @param url `file:data/tasks.db` (creates the folder) or `postgres://…` (for any number of processes)
 * @throws Error in one line, without the password: another process uses the folder; the server can't be reached or is too old; the
 * database has other tables
 */
export async function openStore(
  url: string,
  {
    log = { error: () => undefined },
    clockSkew = () => 0,
    queryTimeout = 30 * SECOND,
    exclusive = true,
  }: StoreOptions = {},
) {
  const dialect = url.startsWith('file:')
    ? await openLibsql(url, clockSkew, exclusive)
    : await openPostgres(url, clockSkew, queryTimeout);
  return {
    ...taskQueries(dialect),
    ...taskWrites(dialect, log),
    ...leaseQueries(dialect, log),
    ...keyQueries(dialect),
    ...deliveryQueries(dialect),
    ...webhookQueries(dialect),
    ...pruneQueries(dialect),
    /** whether other processes may change tasks too */
    isShared: dialect.isShared,
    close: dialect.close,
  };
}
