/** An API key as the store keeps it, and what it costs to use. */
import type { TaskStatus } from '../../core/responses.ts';

export const SCOPES = ['submit', 'read', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** The key of whoever reaches the API while there are no others: its row is always there, and no text opens it. */
export const LOCAL = 'local';

/** Amounts are micro-units of CURRENCY, times milliseconds since 1970. */
export interface Key {
  /** also names the owner of its tasks */
  id: string;
  name: string;
  scopes: Scope[];
  /** SHA-256 of the key's text, in hexadecimal; null: no text opens it */
  hash: string | null;
  /** of the text before the last rotation, which is good until `old_until` */
  old_hash: string | null;
  old_until: number | null;
  /** the most that may be spent in a calendar month, UTC; null: any amount */
  budget: number | null;
  /** the month that `spent` is of, such as 2026-11 */
  month: string;
  spent: number;
  /** for tasks that have not ended, whichever month they are of */
  reserved: number;
  /** tasks that have not ended */
  active_tasks: number;
  /** limits of its own instead of the environment's */
  max_active: number | null;
  submissions_per_minute: number | null;
  requests_per_minute: number | null;
  /** when its accepted submissions would have come, had they come at an even rate (see keys/rate.ts) */
  submissions_at: number;
  /** whsec_ and base64: signs its webhooks */
  webhook_secret: string;
  /** the one before the last rotation, which signs beside it until `old_webhook_until` */
  old_webhook_secret: string | null;
  old_webhook_until: number | null;
  created_at: number;
  revoked_at: number | null;
}

/** A key's account before its first task. */
export const NEW_ACCOUNT = { month: '', spent: 0, reserved: 0, active_tasks: 0, submissions_at: 0 };

export type NewKey = Omit<Key, keyof typeof NEW_ACCOUNT>;
export type KeyChanges = Partial<Omit<NewKey, 'id' | 'created_at'>>;

/** What a task may cost, told to its key before it is accepted. */
export interface Admission {
  /** the most that it will cost */
  amount: number;
  /** milliseconds since 1970 */
  now: number;
  /** tasks that the key may have open, this one counted */
  maxActive: number;
  /** so many milliseconds between submissions at an even rate, and so far may they run ahead of it */
  submissions: { interval: number; window: number };
  /** by the parameters alone: how long a GPU would take, in milliseconds */
  expectedGpuTime: number;
}

/** A day of a key's, UTC. */
export interface DailyUsage {
  /** such as 2026-11-29 */
  day: string;
  status: TaskStatus;
  tasks: number;
  amount: number;
  gpu_time: number;
  stills: number;
}

export const monthOf = (ms: number) => new Date(ms).toISOString().slice(0, 7);
export const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);

/** What a task may cost, and, once it has ended, what it has. Amounts are micro-units. */
export interface LedgerEntry {
  task_id: string;
  owner: string;
  model: string;
  reserved: number;
  /** by the parameters alone; milliseconds */
  expected_gpu_time: number;
  settled_at: number | null;
  /** of that, UTC */
  day: string | null;
  status: string | null;
  amount: number | null;
  gpu_time: number | null;
  stills: number | null;
}
