/** An API key and its account, as the store keeps them. */
import type { TaskStatus } from '../../core/task-status.ts';

export const SCOPES = ['submit', 'read', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** Implicit principal of requests from loopback while there is no other key; has no secret. Its row always exists. */
export const LOCAL = 'local';

/** Amounts are micro-units of CURRENCY, times milliseconds since 1970. */
export interface Key {
  /** also the owner of its tasks */
  id: string;
  name: string;
  scopes: Scope[];
  /** SHA-256 of the key's value, in hexadecimal; null: no secret */
  hash: string | null;
  /** of the value before the last rotation, valid until `old_until` */
  old_hash: string | null;
  old_until: number | null;
  /** highest spending in a calendar month, UTC; null: unlimited */
  budget: number | null;
  /** the month that `spent` refers to, such as 2026-11 */
  month: string;
  spent: number;
  /** for active tasks, of any month */
  reserved: number;
  active_tasks: number;
  /** of the uploaded pictures of active tasks; an upload is deleted when its task ends */
  upload_bytes: number;
  /** limits that replace those of the environment */
  max_active: number | null;
  submissions_per_minute: number | null;
  requests_per_minute: number | null;
  /** theoretical arrival time of the next submission (see keys/rate.ts) */
  submissions_at: number;
  /** whsec_ and base64: signs its webhooks */
  webhook_secret: string;
  /** the one before the last rotation, which also signs until `old_webhook_until` */
  old_webhook_secret: string | null;
  old_webhook_until: number | null;
  created_at: number;
  revoked_at: number | null;
}

/** A key's account before its first task. */
export const NEW_ACCOUNT = { month: '', spent: 0, reserved: 0, active_tasks: 0, upload_bytes: 0, submissions_at: 0 };

export type KeyChanges = Partial<Omit<Key, 'id' | 'created_at' | keyof typeof NEW_ACCOUNT>>;
export type NewKey = Pick<Key, 'id' | 'created_at' | 'name' | 'scopes' | 'webhook_secret'> & KeyChanges;

/** The conditions under which a key may create a task. */
export interface Admission {
  /** highest cost of the task */
  amount: number;
  /** milliseconds since 1970 */
  now: number;
  /** limit of the key's active tasks, this one included */
  maxActive: number;
  /** rate limit, in milliseconds: between submissions at an even rate, and how far they may run ahead of it */
  submissions: { interval: number; window: number };
  /** estimate from the parameters alone; milliseconds; null: the task is too short to say anything about others */
  expectedGpuTime: number | null;
  /** size of its upload; 0: it has none */
  uploadBytes: number;
  /** limit of the uploads of the key's active tasks, this one included; bytes */
  maxUploadBytes: number;
}

/** Why a task was refused, in the order of the checks: too many submissions, too many active tasks, too little budget, too many bytes. */
export type Refusal = 'rate' | 'active' | 'budget' | 'uploads';

/** Settled tasks of one key, day (UTC) and status. */
export interface DailyUsage {
  /** such as 2026-11-29 */
  day: string;
  status: TaskStatus;
  tasks: number;
  amount: number;
  gpu_time: number;
  stills: number;
}

/** GPU time of a succeeded task; milliseconds. */
export interface GpuTime {
  owner: string;
  took: number;
  /** by the parameters alone */
  expected: number;
}

export const monthOf = (ms: number) => new Date(ms).toISOString().slice(0, 7);
export const dayOf = (ms: number) => new Date(ms).toISOString().slice(0, 10);

/** What a key has spent this month; micro-units. */
export const spentOf = ({ month, spent }: Key, now: number) => (month === monthOf(now) ? spent : 0);
/** What is left of the key's budget for this month; micro-units; null: unlimited. */
export const leftOf = (key: Key, now: number) =>
  key.budget === null ? null : Math.max(0, key.budget - key.reserved - spentOf(key, now));

/** A submission's theoretical arrival time later than this comes from a clock that was ahead. Another replica's may be, by one window. */
export const latestArrival = (now: number, window: number) => now + 2 * window;

/** The account with one more task, as `reserve` changes it in the database. */
export const withTask = (
  key: Key,
  { amount, now, submissions: { interval, window }, uploadBytes }: Admission,
): Key => ({
  ...key,
  spent: spentOf(key, now),
  reserved: key.reserved + amount,
  active_tasks: key.active_tasks + 1,
  upload_bytes: key.upload_bytes + uploadBytes,
  submissions_at:
    (key.submissions_at > latestArrival(now, window) ? now : Math.max(key.submissions_at, now)) + interval,
});

/** Why a new task is refused. @param key its key, whose account contains the task already */
export function refusalOf(key: Key, admission: Admission): Refusal | undefined {
  const { now, maxActive, submissions, uploadBytes, maxUploadBytes } = admission;
  if (key.submissions_at > now + submissions.window) return 'rate';
  if (key.active_tasks > maxActive) return 'active';
  if (key.budget !== null && key.spent + key.reserved > key.budget) return 'budget';
  if (uploadBytes > 0 && key.upload_bytes > maxUploadBytes) return 'uploads';
  return undefined;
}

/** The cost of one task: reserved, and settled once the task has ended. Amounts are micro-units. */
export interface LedgerEntry {
  task_id: string;
  owner: string;
  model: string;
  reserved: number;
  /** estimate from the parameters alone; milliseconds; null: the task is too short to say anything about others */
  expected_gpu_time: number | null;
  upload_bytes: number;
  settled_at: number | null;
  /** of `settled_at`, UTC */
  day: string | null;
  status: string | null;
  amount: number | null;
  /** milliseconds */
  gpu_time: number | null;
  stills: number | null;
}
