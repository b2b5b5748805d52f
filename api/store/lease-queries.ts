/**
 * Leases of tasks. Only the holder of a task's lease advances it. A lease ends with an update that sets `nextRunIn`, with `release`, or
 * when it expires; so a process that dies blocks its tasks only for a while. Every claim raises the task's version.
 */
import { type Selectable, type SelectQueryBuilder, sql } from 'kysely';
import { HOUR } from '../../core/time.ts';
import type { Claim, Dialect, StoreLog, Tables } from './dialect.ts';
import { dueOwners, type FairClaim, fairest, inTurn, type Queue } from './fair-claim.ts';
import { NOT_WAITING, SUBMITTED, WAITING } from './schema.ts';
import type { Task } from './task.ts';
import { NEVER, readRows } from './task-queries.ts';

/** A task as the queue's order and its times need it. */
export type QueuedTask = Pick<Task, 'id' | 'status' | 'progress' | 'input'>;

const QUEUE: Queue = { table: 'tasks', condition: WAITING, due: 'next_run_at' };

const OF_OWNER = sql`and owner = owners.owner`;

/**
 * Tasks with a job at RunPod, and leased tasks that wait for one; a lease's expiry is also the next run.
 * @param condition names the owner, without which SQLite would scan an index with all ended tasks
 */
const countOut = ({ fromNow }: Dialect, condition = sql`and owner >= ''`) => sql<number>`(
  (select count(*) from tasks where ${SUBMITTED} ${condition}) + (select count(*) from tasks
    where ${WAITING} ${condition} and next_run_at > ${fromNow(0)} and leased_until > ${fromNow(0)}))`;

/**
 * Active tasks, at most `limit` with a job and `limit` without one: those with a job in the order of its submission, then those that wait
 * for one in the order in which they get it.
 */
async function listQueue(dialect: Dialect, log: StoreLog, limit: number): Promise<QueuedTask[]> {
  const waiting = await listWaiting(dialect, limit);
  const submitted = await dialect.db // later than the others, so that a task which gets its job meanwhile is not missing
    .selectFrom('tasks')
    .select(['id', 'status', 'progress', 'input'])
    .where(SUBMITTED)
    .orderBy('submitted_at')
    .limit(limit)
    .execute();
  const ids = new Set(submitted.map(({ id }) => id));
  return readRows([...submitted, ...waiting.filter(({ id }) => !ids.has(id))], log);
}

async function listWaiting(dialect: Dialect, limit: number) {
  const within = HOUR; // longer than any lease or backoff
  const owners = await dueOwners(dialect, QUEUE, countOut(dialect, OF_OWNER), within);
  if (owners.length === 0) return [];
  const { rows } = await sql<Selectable<Pick<Tables['tasks'], 'id' | 'status' | 'progress' | 'input'>>>`
    select tasks.id, status, progress, input from ${inTurn(dialect, QUEUE, owners, limit, within)} as positioned
    join tasks on tasks.id = positioned.id where position <= ${limit} order by position`.execute(dialect.db);
  return rows;
}

export function leaseQueries(dialect: Dialect, log: StoreLog) {
  const { db, write, fromNow, skipLocked } = dialect;
  const unleased = () => db.selectFrom('tasks').where('leased_until', '<=', fromNow(0));
  const leased = (ms: number) => {
    const expiry = fromNow(ms); // once, since another call may give a later time
    return { next_run_at: expiry, leased_until: expiry, version: sql<number>`version + 1` };
  };

  async function lease(tasks: SelectQueryBuilder<Tables, 'tasks', { id: string }>, ms: number): Promise<Task[]> {
    const rows = await db
      .with('chosen', () => skipLocked(tasks))
      .updateTable('tasks')
      .set(leased(ms))
      .where('id', 'in', (e) => e.selectFrom('chosen').select('id'))
      .returningAll()
      .$call(write);
    return readRows(rows, log); // a row that can't be read keeps its lease
  }

  return {
    listQueue: (limit: number) => listQueue(dialect, log, limit),

    /** Leases due tasks, except those that wait for a job. */
    claimDue({ lease: ms, limit }: Claim): Promise<Task[]> {
      const due = unleased().select('id').where(NOT_WAITING).where('next_run_at', '<=', fromNow(0));
      return lease(due.orderBy('next_run_at').limit(limit), ms);
    },

    /** Leases due tasks that wait for a job, fairly among owners. Under way are tasks with a job, and those that get one now. */
    async claimWaiting(claim: FairClaim): Promise<Task[]> {
      const owners = await dueOwners(dialect, QUEUE, countOut(dialect, OF_OWNER));
      if (owners.length === 0) return [];
      const ids = fairest(dialect, QUEUE, owners, claim);
      return lease(unleased().select('id').where(WAITING).where('id', 'in', ids), claim.lease);
    },

    /**
     * Leases those of the tasks that nobody has leased.
     * @param dueAfter only tasks whose next step is further away; milliseconds
     * @param waiting whether to include tasks that wait for a job
     */
    async claim(
      ids: string[],
      { lease: ms, dueAfter, waiting = false }: { lease: number; dueAfter?: number; waiting?: boolean },
    ): Promise<Task[]> {
      if (ids.length === 0) return [];
      const rows = await db
        .updateTable('tasks')
        .set(leased(ms))
        .where('id', 'in', ids)
        .where('leased_until', '<=', fromNow(0))
        .$if(!waiting, (query) => query.where(NOT_WAITING))
        .$if(dueAfter !== undefined, (query) => query.where('next_run_at', '>', fromNow(dueAfter!)))
        .returningAll()
        .$call(write);
      return readRows(rows, log);
    },

    /** Ends the lease that came with `task`, if it still lasts. The task is due at once. */
    async release({ id, leased_until }: Task): Promise<void> {
      await db
        .updateTable('tasks')
        .set({ next_run_at: fromNow(0), leased_until: 0 })
        .where((e) => e.and({ id, leased_until }))
        .$call(write);
    },

    /**
     * Milliseconds until the next task is due, among those that wait for a job (`waiting`) and among all others (`due`). Below 0: one
     * may be claimed now; undefined: there is none. `out` counts the jobs at RunPod, and the tasks that get one now.
     */
    async nextDue(): Promise<{ waiting: number | undefined; due: number | undefined; out: number }> {
      const soonest = (condition: typeof WAITING) =>
        db
          .selectFrom('tasks')
          .select((e) => e(e.fn.min('next_run_at'), '-', fromNow(0)).as('wait'))
          .where(condition)
          .where('next_run_at', '<', NEVER);
      const { waiting, due, out } = await db
        .selectNoFrom([soonest(WAITING).as('waiting'), soonest(NOT_WAITING).as('due'), countOut(dialect).as('out')])
        .executeTakeFirstOrThrow();
      return { waiting: waiting ?? undefined, due: due ?? undefined, out };
    },
  };
}
