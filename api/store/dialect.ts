/** What the queries need of a database: its tables, and the differences between libSQL and Postgres. */
import type { Compilable, Expression, Kysely, SelectQueryBuilder } from 'kysely';
import type { Delivery } from './delivery.ts';
import type { Key, LedgerEntry } from './key.ts';
import type { Task } from './task.ts';

export const JSON_COLUMNS = [
  'input',
  'warnings',
  'metadata',
  'output',
  'usage',
  'error',
  'jobs_to_cancel',
  'quote',
  'cost',
] as const;
export type TaskRow = {
  [K in keyof Task]: K extends (typeof JSON_COLUMNS)[number] ? string | (null extends Task[K] ? null : never) : Task[K];
};
export interface Tables {
  tasks: TaskRow;
  keys: Omit<Key, 'scopes'> & { scopes: string };
  ledger: LedgerEntry;
  uploads: { task_id: string; created_at: number };
  deliveries: Delivery;
  /** webhooks that answered 410. An index takes no text as long as a URL may be, so the key has the URL's SHA-256 */
  disabled_webhooks: { owner: string; url_hash: string; disabled_at: number };
}

export type StoreLog = { error(fields: object, message: string): void };

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
  /** Whether the database refused a write because of its values. The same write fails again. */
  isDataError(error: unknown): boolean;
  /** whether other processes may use the same database */
  isShared: boolean;
  close(): Promise<void>;
}

/** A value that both databases store and return unchanged: Postgres refuses NUL, libSQL cuts text there, and UTF-8 has no lone surrogates. */
export const storable = <T>(value: T) =>
  typeof value === 'string' ? value.replaceAll('\0', '\ufffd').toWellFormed() : value;

export interface Claim {
  /** milliseconds */
  lease: number;
  limit: number;
}
