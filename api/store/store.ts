/** The database of tasks, keys and deliveries. The queries serve both databases; their differences are in libsql.ts and postgres.ts. */
import { SECOND } from '../../core/time.ts';
import { deliveryQueries, webhookQueries } from './delivery-queries.ts';
import type { Dialect, StoreLog } from './dialect.ts';
import { keyQueries } from './key-queries.ts';
import { leaseQueries } from './lease-queries.ts';
import { openLibsql } from './libsql.ts';
import { openPostgres } from './postgres.ts';
import { pruneQueries } from './prune-queries.ts';
import { scheduleQueries } from './schedule-queries.ts';
import { taskQueries, taskWrites } from './task-queries.ts';
import { uploadQueries } from './upload-queries.ts';

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

/** The database can't be reached, or can't execute a statement now; the same call may succeed later. */
export class StoreError extends Error {
  /** the database's error code, such as SQLITE_FULL or 57P01, or the network's, such as ECONNREFUSED */
  readonly code: unknown;
  constructor(cause: Error & { code?: unknown }) {
    super(cause.message, { cause });
    this.name = 'StoreError';
    this.code = cause.code;
  }
}

export type Store = Awaited<ReturnType<typeof openStore>>;

/**
 * @param url `file:data/tasks.db` (creates the folder) or `postgres://…` (for any number of processes)
 * @throws Error in one line, without the password: another process uses the folder; the server can't be reached or is too old; the
 * database has other tables. Each function of the store may throw StoreError
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
  const store = {
    ...taskQueries(dialect, log),
    ...taskWrites(dialect, log),
    ...leaseQueries(dialect, log),
    ...scheduleQueries(dialect),
    ...uploadQueries(dialect),
    ...keyQueries(dialect),
    ...deliveryQueries(dialect),
    ...webhookQueries(dialect),
    ...pruneQueries(dialect),
    /** whether other processes may change tasks too */
    isShared: dialect.isShared,
    close: dialect.close,
  };
  return withStoreErrors(store, dialect.isDataError);
}

type Call = (...args: never[]) => Promise<unknown>;

/** Makes every error of the functions a StoreError, but for errors about values, unreadable rows and mistakes in the program. */
function withStoreErrors<T extends { [K in keyof T]: boolean | Call }>(
  store: T,
  isDataError: Dialect['isDataError'],
): T {
  const toStoreError = (error: Error) => {
    const isLasting = isDataError(error) || [SyntaxError, TypeError, RangeError].some((type) => error instanceof type);
    throw isLasting ? error : new StoreError(error);
  };
  const wrap =
    (call: Call): Call =>
    (...args) =>
      call(...args).catch(toStoreError);
  const entries = Object.entries<boolean | Call>(store);
  return Object.fromEntries(entries.map(([name, f]) => [name, typeof f === 'function' ? wrap(f) : f])) as T;
}
