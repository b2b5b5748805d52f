/**
 * Leases of tasks. Only the holder of a task's lease advances it. A lease ends with an update that sets `nextRunIn`, with `release`, or
 * when it expires; so a process that dies blocks its tasks only for a while. Every claim raises the task's version.
 */
import { type SelectQueryBuilder, sql } from 'kysely';
import type { Claim, Dialect, StoreLog, Tables, TaskRow } from './dialect.ts';
import { NOT_WAITING, SUBMITTED, WAITING } from './schema.ts';
import type { Task } from './task.ts';
import { fromRow, NEVER } from './task-queries.ts';

/** Owners that share one claim: SQLite has a limit on the parts of a compound select. */
const MAX_OWNERS = 100;

export function leaseQueries(dialect: Dialect, log: StoreLog) {
  const { db, write, fromNow, skipLocked } = dialect;
  const unleased = () => db.selectFrom('tasks').where('leased_until', '<=', fromNow(0));
  const leased = (ms: number) => ({
    next_run_at: fromNow(ms),
    leased_until: fromNow(ms),
    version: sql<number>`version + 1`,
  });

  /** A row that can't be read keeps its lease, so that it blocks nobody else's task. */
  const readable = (row: TaskRow): Task[] => {
    try {
      return [fromRow(row)];
    } catch (error) {
      log.error({ task: row.id, error }, 'the row of a task can’t be read; it is skipped');
      return [];
    }
  };

  async function lease(tasks: SelectQueryBuilder<Tables, 'tasks', { id: string }>, ms: number): Promise<Task[]> {
    const rows = await db
      .with('chosen', () => skipLocked(tasks))
      .updateTable('tasks')
      .set(leased(ms))
      .where('id', 'in', (e) => e.selectFrom('chosen').select('id'))
      .returningAll()
      .$call(write);
    return rows.flatMap(readable);
  }

  return {
    /** Leases due tasks, except those that wait for a job. */
    claimDue({ lease: ms, limit }: Claim): Promise<Task[]> {
      const due = unleased().select('id').where(NOT_WAITING).where('next_run_at', '<=', fromNow(0));
      return lease(due.orderBy('next_run_at').limit(limit), ms);
    },

    /** Leases due tasks that wait for a job: the first of each owner, then the second of each, and so on. */
    async claimWaiting({ lease: ms, limit }: Claim): Promise<Task[]> {
      const owners = await waitingOwners(dialect);
      if (owners.length === 0) return [];
      const fairest = fairestWaiting(dialect, owners, limit);
      return lease(unleased().select('id').where(WAITING).where('id', 'in', fairest), ms);
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
      return rows.flatMap(readable);
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
     * is due; undefined: there is none. `out` counts the jobs at RunPod.
     */
    async nextDue(): Promise<{ waiting: number | undefined; due: number | undefined; out: number }> {
      const soonest = (condition: typeof WAITING) =>
        db
          .selectFrom('tasks')
          .select((e) => e(e.fn.min('next_run_at'), '-', fromNow(0)).as('wait'))
          .where(condition)
          .where('next_run_at', '<', NEVER);
      const submitted = db.selectFrom('tasks').select((e) => e.fn.countAll<number>().as('count'));
      const { waiting, due, out } = await db
        .selectNoFrom([
          soonest(WAITING).as('waiting'),
          soonest(NOT_WAITING).as('due'),
          submitted.where(SUBMITTED).as('out'),
        ])
        .executeTakeFirstOrThrow();
      return { waiting: waiting ?? undefined, due: due ?? undefined, out: out! };
    },
  };
}

/** Owners of waiting tasks; a random part of them if there are very many. Skips from owner to owner in the index. */
async function waitingOwners({ db }: Dialect): Promise<string[]> {
  const { rows } = await sql<{ owner: string }>`
    with recursive owners(owner) as (
      select min(owner) from tasks where ${WAITING}
      union all
      select (select min(owner) from tasks where ${WAITING} and owner > owners.owner) from owners where owner is not null
    )
    select owner from owners where owner is not null`.execute(db);
  const first = Math.max(0, Math.floor(Math.random() * (rows.length - MAX_OWNERS + 1)));
  return rows.slice(first, first + MAX_OWNERS).map(({ owner }) => owner);
}

/** The ids of due waiting tasks, ordered by their position among the tasks of their owner. */
function fairestWaiting({ db, fromNow }: Dialect, owners: string[], limit: number) {
  const queues = owners.map((owner) => {
    const queue = db
      .selectFrom('tasks')
      .select(['id', 'owner', 'next_run_at'])
      .where(WAITING)
      .where('owner', '=', owner);
    const due = queue.where('leased_until', '<=', fromNow(0)).where('next_run_at', '<=', fromNow(0));
    return db.selectFrom(due.orderBy('next_run_at').limit(limit).as('queue')).selectAll();
  });
  const ranked = db.selectFrom(queues.reduce((all, queue) => all.unionAll(queue)).as('queues')).select((e) => [
    'id',
    'next_run_at',
    e.fn
      .agg<number>('row_number')
      .over((rows) => rows.partitionBy('owner').orderBy('next_run_at'))
      .as('rank'),
  ]);
  return db.selectFrom(ranked.as('ranked')).select('id').orderBy('rank').orderBy('next_run_at').limit(limit);
}
