/** Queries of API keys, their accounts and the ledger. */
import { type Expression, type ExpressionWrapper, sql } from 'kysely';
import { DAY } from '../../core/time.ts';
import type { Dialect, Tables, Write } from './dialect.ts';
import {
  type Admission,
  type DailyUsage,
  dayOf,
  type GpuTime,
  type Key,
  type KeyChanges,
  LOCAL,
  latestArrival,
  monthOf,
  NEW_ACCOUNT,
  type NewKey,
  type Refusal,
  refusalOf,
} from './key.ts';
import { MEASURED } from './schema.ts';
import type { NewTask, Task } from './task.ts';

/** Keys in one query: SQLite has a limit on the parts of a compound select. */
const MAX_OWNERS = 100;

/** Thrown within a transaction, which it rolls back. */
export class AdmissionRefused extends Error {
  constructor(
    readonly reason: Refusal,
    readonly key: Key,
  ) {
    super(reason);
  }
}

interface AccountChange {
  reserved: number;
  active_tasks: number;
  upload_bytes: number;
  spent?: number;
  submissions_at?: Expression<number>;
}

/**
 * Adds to the account of a key, which stays locked until the end of the transaction.
 * @param now the account becomes that of its month. It becomes that of an earlier month only if its own is more than a day away, because
 * the clock of another replica may lag behind. Then a clock was ahead, and the ledger says what was spent.
 * @returns the key afterwards
 */
async function addToAccount(
  { db }: Dialect,
  write: Write,
  id: string,
  now: number,
  change: AccountChange,
): Promise<Key> {
  const { reserved, active_tasks, upload_bytes, spent = 0, ...submissions } = change;
  const month = monthOf(now);
  const [row] = await db
    .updateTable('keys')
    .set({
      month: sql`case when month < ${month} then ${month} else month end`,
      spent: sql`case when month < ${month} then 0 else spent end + ${spent}`,
      reserved: sql`reserved + ${reserved}`,
      active_tasks: sql`active_tasks + ${active_tasks}`,
      upload_bytes: sql`upload_bytes + ${upload_bytes}`,
      ...submissions,
    })
    .where('id', '=', id)
    .returningAll()
    .$call(write);
  if (!row) throw new Error(`there is no key ${id}`);
  if (row.month <= monthOf(now + DAY)) return fromRow(row);
  const settled = sql<number>`(select cast(coalesce(sum(amount), 0) as bigint) from ledger where owner = ${id} and day like ${`${month}-%`})`;
  return changeKey({ db }, write, id, { month, spent: settled });
}

/** @returns the key afterwards */
async function changeKey(
  { db }: Pick<Dialect, 'db'>,
  write: Write,
  id: string,
  change: { month: string; spent: Expression<number> } | { submissions_at: number },
): Promise<Key> {
  const [row] = await db.updateTable('keys').set(change).where('id', '=', id).returningAll().$call(write);
  return fromRow(row!);
}

/**
 * Reserves the highest cost of a new task in the account of its owner and writes the task's line in the ledger.
 * @returns the key afterwards
 * @throws AdmissionRefused
 */
export async function reserve(dialect: Dialect, write: Write, task: NewTask, admission: Admission): Promise<Key> {
  const { amount, now, submissions, expectedGpuTime: expected_gpu_time, uploadBytes: upload_bytes } = admission;
  const { id: task_id, owner, model } = task;
  const line = { task_id, owner, model, reserved: amount, expected_gpu_time, upload_bytes };
  await write(dialect.db.insertInto('ledger').values(line));
  const { interval, window } = submissions;
  // Last: other submissions with this key wait from here on.
  let key = await addToAccount(dialect, write, owner, now, {
    reserved: amount,
    active_tasks: 1,
    upload_bytes,
    submissions_at: sql`case when submissions_at < ${now} then ${now} else submissions_at end + ${interval}`,
  });
  // A separate statement for what a clock that was ahead has left: one for all cases takes a quarter longer.
  if (key.submissions_at - interval > latestArrival(now, window))
    key = await changeKey(dialect, write, owner, { submissions_at: now + interval });
  const reason = refusalOf(key, admission);
  if (reason === undefined) return key;
  throw new AdmissionRefused(reason, {
    ...key,
    reserved: key.reserved - amount,
    active_tasks: key.active_tasks - 1,
    upload_bytes: key.upload_bytes - upload_bytes,
    submissions_at: key.submissions_at - interval,
  });
}

/** Moves the cost of an ended task from reserved to spent, once per task: a settled line of the ledger stays as it is. */
export async function settle(dialect: Dialect, write: Write, task: Task): Promise<void> {
  const { id, owner, status, cost } = task;
  const settled_at = task.finished_at!;
  const amount = cost?.amount ?? 0;
  const gpu_time = cost && Math.round(cost.gpu_seconds * 1000);
  const [line] = await dialect.db
    .updateTable('ledger')
    .set({ settled_at, day: dayOf(settled_at), status, amount, gpu_time, stills: cost?.stills ?? 0 })
    .where('task_id', '=', id)
    .where('settled_at', 'is', null)
    .returning(['reserved', 'upload_bytes'])
    .$call(write);
  if (!line) return;
  await addToAccount(dialect, write, owner, settled_at, {
    spent: amount,
    reserved: -line.reserved,
    active_tasks: -1,
    upload_bytes: -line.upload_bytes,
  });
}

export function keyQueries({ db, write }: Dialect) {
  return {
    async getKey(id: string): Promise<Key | undefined> {
      const row = await db.selectFrom('keys').selectAll().where('id', '=', id).executeTakeFirst();
      return row && fromRow(row);
    },

    /** Writes, since a full disk can still be read. @throws Error nothing can be stored */
    async check(): Promise<void> {
      await write(
        db
          .updateTable('keys')
          .set((e) => ({ created_at: e.ref('created_at') }))
          .where('id', '=', LOCAL),
      );
    },

    listKeys: async (): Promise<Key[]> =>
      (await db.selectFrom('keys').selectAll().orderBy('created_at').orderBy('id').execute()).map(fromRow),

    /** Whether a key with a value was ever created; revoked ones count. */
    hasKeys: async (): Promise<boolean> =>
      (await db.selectFrom('keys').select('id').where('id', '!=', LOCAL).limit(1).execute()).length > 0,

    /** @returns false: there is a key with this id already */
    async addKey(key: NewKey): Promise<boolean> {
      const added = await db
        .insertInto('keys')
        .values({ ...toRow(key), ...NEW_ACCOUNT })
        .onConflict((conflict) => conflict.column('id').doNothing())
        .returning('id')
        .$call(write);
      return added.length > 0;
    },

    /** @returns the changed key; undefined: there is none */
    async updateKey(id: string, changes: KeyChanges): Promise<Key | undefined> {
      const [row] = await write(db.updateTable('keys').set(toRow(changes)).where('id', '=', id).returningAll());
      return row && fromRow(row);
    },

    /** Settled tasks of the days from `since` to `until`, such as 2026-11-29, both included; by day and status. */
    async getUsage(owner: string, since: string, until: string): Promise<DailyUsage[]> {
      const rows = await db
        .selectFrom('ledger')
        .select((e) => [
          'day',
          'status',
          e.fn.countAll<number>().as('tasks'),
          sql<number>`cast(sum(amount) as bigint)`.as('amount'),
          sql<number>`cast(coalesce(sum(gpu_time), 0) as bigint)`.as('gpu_time'),
          sql<number>`cast(coalesce(sum(stills), 0) as bigint)`.as('stills'),
        ])
        .where('owner', '=', owner)
        .where('day', '>=', since)
        .where('day', '<=', until)
        .groupBy(['day', 'status'])
        .orderBy('day')
        .orderBy('status')
        .execute();
      return rows as DailyUsage[];
    },

    /**
     * GPU times of a model's succeeded tasks.
     * @param limit the latest ones of each key; if there are very many keys, a random part of them counts
     */
    async listGpuTimes(model: string, limit: number): Promise<GpuTime[]> {
      const results = (owner: string | ExpressionWrapper<Tables, 'keys', string>) =>
        db
          .selectFrom('ledger')
          .select(['owner', 'gpu_time as took', 'expected_gpu_time as expected'])
          .where('model', '=', model)
          .where('owner', '=', owner)
          .where(MEASURED)
          .$narrowType<{ took: number; expected: number }>();
      const owners = await db
        .selectFrom('keys')
        .select('id')
        .where((e) => e.exists(results(e.ref('keys.id'))))
        .orderBy(sql`random()`)
        .limit(MAX_OWNERS)
        .execute();
      const latest = owners.map(({ id }) =>
        db.selectFrom(results(id).orderBy('settled_at', 'desc').limit(limit).as('latest')).selectAll(),
      );
      return latest.length === 0 ? [] : latest.reduce((all, query) => all.unionAll(query)).execute();
    },
  };
}

function toRow<K extends { scopes?: Key['scopes'] }>(key: K): Omit<K, 'scopes'> & { scopes: string } {
  const { scopes, ...rest } = key;
  return { ...rest, ...(scopes && { scopes: JSON.stringify(scopes) }) } as Omit<K, 'scopes'> & { scopes: string };
}

const fromRow = (row: Tables['keys']): Key => ({ ...row, scopes: JSON.parse(row.scopes) });
