/** What the queries need of a database: its tables, and how the two dialects, libSQL and Postgres, differ. */
import type { Compilable, Expression, Kysely, SelectQueryBuilder } from 'kysely';
import type { Delivery } from './delivery.ts';
import type { Key, LedgerEntry } from './key.ts';
import type { Task } from './task.ts';

export const JSON_COLUMNS = ['input', 'warnings', 'output', 'error', 'jobs_to_cancel', 'quote', 'cost'] as const;
export type Row = {
  [K in keyof Task]: K extends (typeof JSON_COLUMNS)[number] ? string | (null extends Task[K] ? null : never) : Task[K];
};
export interface Tables {
  tasks: Row;
  keys: Omit<Key, 'scopes'> & { scopes: string };
  ledger: LedgerEntry;
  deliveries: Delivery;
  /** receivers that have answered 410 */
  disabled_webhooks: { owner: string; url: string };
}

/** Executes one statement. @returns its rows */
export type Write = <R>(query: Compilable<R>) => Promise<R[]>;

/** What differs between the databases. */
export interface Dialect {
  /** for reading */
  db: Kysely<Tables>;
  /** Executes one statement that writes. What it wrote is on the disk when it resolves. */
  write: Write;
  /** Several such, all or, if `work` rejects, none. It awaits nothing but them, for others wait meanwhile. */
  writeAll<R>(work: (write: Write) => Promise<R>): Promise<R>;
  /** The database's clock, so many milliseconds from now. */
  fromNow(ms: number): Expression<number>;
  /** Passes over rows that another process is just changing. */
  skipLocked<T extends keyof Tables, R>(query: SelectQueryBuilder<Tables, T, R>): SelectQueryBuilder<Tables, T, R>;
  /** whether other processes may use the same database */
  isShared: boolean;
  close(): Promise<void>;
}

/** Why a task was not stored, in the order in which it is looked at. */
export type Refusal = 'rate' | 'active' | 'budget';

export interface Claim {
  /** milliseconds */
  lease: number;
  limit: number;
}
