/** What the queries need of a database: its tables, and the differences between libSQL and Postgres. */
import type { Compilable, Expression, Kysely, SelectQueryBuilder } from 'kysely';
import type { Delivery } from './delivery.ts';
import type { Key, LedgerEntry } from './key.ts';
import type { Task } from './task.ts';

export const JSON_COLUMNS = ['input', 'warnings', 'output', 'error', 'jobs_to_cancel', 'quote', 'cost'] as const;
export type TaskRow = {
  [K in keyof Task]: K extends (typeof JSON_COLUMNS)[number] ? string | (null extends Task[K] ? null : never) : Task[K];
};
export interface Tables {
  tasks: TaskRow;
  keys: Omit<Key, 'scopes'> & { scopes: string };
  ledger: LedgerEntry;
  deliveries: Delivery;
  /** webhooks that answered 410 */
  disabled_webhooks: { owner: string; url: string };
}

/** Executes one statement. @returns its rows */
export type Write = <R>(query: Compilable<R>) => Promise<R[]>;

type Select = <T extends keyof Tables, R>(query: SelectQueryBuilder<Tables, T, R>) => SelectQueryBuilder<Tables, T, R>;

export interface Dialect {
  /** for reading */
  db: Kysely<Tables>;
  /** Executes one statement that writes. It is on the disk when the promise resolves. */
  write: Write;
  /** A transaction; a rejection of `work` rolls it back. `work` awaits nothing but its writes, since other writers wait meanwhile. */
  writeAll<R>(work: (write: Write) => Promise<R>): Promise<R>;
  /** The database's clock, plus `ms` milliseconds. */
  fromNow(ms: number): Expression<number>;
  /** Locks the selected rows, without those that another process has locked. */
  skipLocked: Select;
  /** whether other processes may use the same database */
  isShared: boolean;
  close(): Promise<void>;
}

export interface Claim {
  /** milliseconds */
  lease: number;
  limit: number;
}
