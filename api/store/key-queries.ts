/** API keys and their accounts: what each may spend, has reserved and has spent, and the ledger with a line a task. */
import { sql } from 'kysely';
import type { Dialect, Refusal, Tables, Write } from './dialect.ts';
import {
  type Admission,
  type DailyUsage,
  dayOf,
  type Key,
  type KeyChanges,
  LOCAL,
  monthOf,
  NEW_ACCOUNT,
  type NewKey,
} from './key.ts';
import type { NewTask, Task } from './task.ts';

/** Takes back all that was written with it. */
export class AdmissionRefused extends Error {
  constructor(
    readonly reason: Refusal,
    readonly key: Key,
  ) {
    super(reason);
  }
}

export function keyQueries({ db, write }: Dialect) {
  const read = async (id: string): Promise<Key | undefined> => {
    const row = await db.selectFrom('keys').selectAll().where('id', '=', id).executeTakeFirst();
    return row && fromRow(row);
  };

  /** Of a month that is over nothing counts any more; a clock that is behind another replica's takes no month back. */
  const spentIn = (month: string) => sql<number>`(case when month < ${month} then 0 else spent end)`;
  const monthNow = (month: string) => sql<string>`(case when month < ${month} then ${month} else month end)`;

  /** @throws Refused */
  async function reserve(
    write: Write,
    owner: string,
    { amount, now, maxActive, submissions }: Admission,
  ): Promise<Key> {
    const month = monthOf(now);
    const { interval, window } = submissions;
    const next = sql<number>`(case when submissions_at < ${now} then ${now} else submissions_at end) + ${interval}`;
    for (;;) {
      const [row] = await write(
        db
          .updateTable('keys')
          .set({
            month: monthNow(month),
            spent: spentIn(month),
            reserved: sql<number>`reserved + ${amount}`,
            active_tasks: sql<number>`active_tasks + 1`,
            submissions_at: next,
          })
          .where('id', '=', owner)
          .where(sql<boolean>`(budget is null or ${spentIn(month)} + reserved + ${amount} <= budget)`)
          .where('active_tasks', '<', maxActive)
          .where(sql<boolean>`${next} <= ${now + window}`)
          .returningAll(),
      );
      if (row) return fromRow(row);
      const [refusing] = await write(db.selectFrom('keys').selectAll().where('id', '=', owner));
      if (!refusing) throw new Error(`there is no key ${owner}`);
      const key = fromRow(refusing);
      if (Math.max(key.submissions_at, now) + interval > now + window) throw new AdmissionRefused('rate', key);
      if (key.active_tasks >= maxActive) throw new AdmissionRefused('active', key);
      const spent = key.month < month ? 0 : key.spent;
      if (key.budget !== null && spent + key.reserved + amount > key.budget) throw new AdmissionRefused('budget', key);
      // What refused it has changed in between.
    }
  }

  return {
    reserve,

    writeLine: (write: Write, { id, owner, model }: NewTask, { amount, expectedGpuTime }: Admission) =>
      write(
        db
          .insertInto('ledger')
          .values({ task_id: id, owner, model, reserved: amount, expected_gpu_time: expectedGpuTime }),
      ),

    /** Of a task that has ended. Once a task: a line that is settled stays as it is. */
    async settle(write: Write, { id, owner, status, cost, finished_at, output }: Task) {
      const at = finished_at!;
      const month = monthOf(at);
      const amount = cost?.amount ?? 0;
      const gpu_time = output && cost && Math.round(cost.gpu_seconds * 1000);
      const [line] = await write(
        db
          .updateTable('ledger')
          .set({ settled_at: at, day: dayOf(at), status, amount, gpu_time, stills: cost?.stills ?? 0 })
          .where('task_id', '=', id)
          .where('settled_at', 'is', null)
          .returning('reserved'),
      );
      if (!line) return;
      await write(
        db
          .updateTable('keys')
          .set({
            month: monthNow(month),
            spent: sql<number>`${spentIn(month)} + ${amount}`,
            reserved: sql<number>`reserved - ${line.reserved}`,
            active_tasks: sql<number>`active_tasks - 1`,
          })
          .where('id', '=', owner),
      );
    },

    /** For whoever has the store. */
    own: {
      getKey: read,

      listKeys: async (): Promise<Key[]> =>
        (await db.selectFrom('keys').selectAll().orderBy('created_at').orderBy('id').execute()).map(fromRow),

      /** Whether there was ever a key that a text opens, revoked ones too. */
      hasKeys: async (): Promise<boolean> =>
        (await db.selectFrom('keys').select('id').where('id', '!=', LOCAL).limit(1).execute()).length > 0,

      /** @returns whether it was added: of keys with the same id the first is kept */
      async addKey(key: NewKey): Promise<boolean> {
        const added = await write(
          db
            .insertInto('keys')
            .values({ ...toRow(key), ...NEW_ACCOUNT })
            .onConflict((conflict) => conflict.column('id').doNothing())
            .returning('id'),
        );
        return added.length > 0;
      },

      /** @returns the changed key; undefined if there is none */
      async updateKey(id: string, changes: KeyChanges): Promise<Key | undefined> {
        const [row] = await write(db.updateTable('keys').set(toRow(changes)).where('id', '=', id).returningAll());
        return row && fromRow(row);
      },

      /** What was settled on days from `since` to `until`, such as 2026-11-29, both included; by day and how tasks ended. */
      getUsage: async (owner: string, since: string, until: string): Promise<DailyUsage[]> => {
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

      /** Of a model's latest results: how many milliseconds a GPU took, and how many were expected. */
      listGpuTimes: async (model: string, limit: number): Promise<{ took: number; expected: number }[]> =>
        (await db
          .selectFrom('ledger')
          .select(['gpu_time as took', 'expected_gpu_time as expected'])
          .where('model', '=', model)
          .where(sql<boolean>`(gpu_time is not null)`)
          .orderBy('settled_at', 'desc')
          .limit(limit)
          .execute()) as { took: number; expected: number }[],
    },
  };
}

function toRow<K extends { scopes?: Key['scopes'] }>(key: K): Omit<K, 'scopes'> & { scopes: string } {
  const { scopes, ...rest } = key;
  return { ...rest, ...(scopes && { scopes: JSON.stringify(scopes) }) } as Omit<K, 'scopes'> & { scopes: string };
}

const fromRow = (row: Tables['keys']): Key => ({ ...row, scopes: JSON.parse(row.scopes) });
