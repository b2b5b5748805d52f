/** Where tasks live. The queries are the same for both dialects, libSQL and Postgres; what differs is in `libsql.ts` and `postgres.ts`. */
import type { Expression, SelectQueryBuilder } from 'kysely';
import { sql } from 'kysely';
import { v7 } from 'uuid';
import type { TaskStatus } from '../../core/responses.ts';
import type { NewDelivery } from './delivery.ts';
import { deliveryQueries } from './delivery-queries.ts';
import { type Claim, JSON_COLUMNS, type Refusal, type Row, type Tables } from './dialect.ts';
import type { Admission, Key } from './key.ts';
import { AdmissionRefused, keyQueries } from './key-queries.ts';
import { openLibsql } from './libsql.ts';
import { openPostgres } from './postgres.ts';
import { ACTIVE, NOT_WAITING, SUBMITTED, WAITING } from './schema.ts';
import { type Changes, endsTask, LIST_COLUMNS, type ListedTask, type NewTask, type Task, type Timed } from './task.ts';

/** How long after its task's creation an idempotency key stands for it; milliseconds. */
export const IDEMPOTENCY_TTL = 24 * 3600 * 1000;

/** Some of an owner's tasks. */
export interface Selection {
  owner: string;
  status?: TaskStatus | undefined;
  /** ids from this one on, itself included */
  from?: string | undefined;
  /** ids below this one */
  before?: string | undefined;
}

/** Milliseconds since 1970, far away. */
const NEVER = Number.MAX_SAFE_INTEGER;

export interface StoreOptions {
  /** for tests: added to the database's clock; milliseconds */
  clockSkew?: (() => number) | undefined;
  /** of one statement in Postgres; milliseconds */
  queryTimeout?: number;
  /** false: other processes may use the same file, as the operator's tools do */
  exclusive?: boolean;
}

/** What became of a new task: stored, with its key's account as it is now; or there is one with its idempotency key; or refused. */
export type InsertResult =
  | { key: Key; existing?: undefined; refused?: undefined }
  | { existing: Task; refused?: undefined }
  | { refused: Refusal; key: Key; existing?: undefined };

/** Among how many owners a claim is shared out at most; SQLite puts some hundreds of selects together. */
const OWNERS = 100;

export type Store = Awaited<ReturnType<typeof openStore>>;

/**
 * @param url file:data/tasks.db (the folder is made, and this process alone uses it) or postgres://… (any number of processes)
 * @throws Error in one line, without the password: another process has the folder; the server can't be reached or is too old
 */
export async function openStore(
  url: string,
  { clockSkew = () => 0, queryTimeout = 30_000, exclusive = true }: StoreOptions = {},
) {
  const isFile = url.startsWith('file:');
  const dialect = await (isFile ? openLibsql(url, clockSkew, exclusive) : openPostgres(url, clockSkew, queryTimeout));
  const { db, write, writeAll, fromNow, skipLocked } = dialect;
  const keys = keyQueries(dialect);
  const deliveries = deliveryQueries(dialect);
  const now = () => fromNow(0);

  function toColumns({ nextRunIn, runNow, ...task }: Changes) {
    return {
      ...toRow(task),
      ...(runNow && { next_run_at: now() }),
      ...(nextRunIn !== undefined && { next_run_at: nextRunIn === null ? NEVER : fromNow(nextRunIn), leased_until: 0 }),
    };
  }

  const free = () => db.selectFrom('tasks').where('leased_until', '<=', now());
  function leased(lease: number) {
    const until = fromNow(lease);
    return { next_run_at: until, leased_until: until, version: sql<number>`version + 1` };
  }

  /** Changes tasks that no other process is just changing. */
  async function take(
    tasks: SelectQueryBuilder<Tables, 'tasks', { id: string }>,
    changes: { [K in keyof Row]?: Expression<Row[K]> },
  ): Promise<Task[]> {
    const rows = await write(
      db
        .with('due', () => skipLocked(tasks))
        .updateTable('tasks')
        .set(changes)
        .where('id', 'in', (e) => e.selectFrom('due').select('id'))
        .returningAll(),
    );
    return rows.map(fromRow);
  }

  /** Whose tasks wait for a job; of very many, some. From one owner to the next in the index, without reading what lies between. */
  async function waitingOwners(): Promise<string[]> {
    const { rows } = await sql<{ owner: string }>`
      with recursive owners(owner) as (
        select min(owner) from tasks where ${WAITING}
        union all
        select (select min(owner) from tasks where ${WAITING} and owner > owners.owner) from owners where owner is not null
      )
      select owner from owners where owner is not null`.execute(db);
    const first = Math.max(0, Math.floor(Math.random() * (rows.length - OWNERS + 1)));
    return rows.slice(first, first + OWNERS).map(({ owner }) => owner);
  }

  /** The task that the owner's key stands for at a time, in milliseconds since 1970. */
  const findByIdempotencyKey = (owner: string, key: string, at: number) =>
    first(
      db
        .selectFrom('tasks')
        .selectAll()
        .where('owner', '=', owner)
        .where('idempotency_key', '=', key)
        .where('created_at', '>', at - IDEMPOTENCY_TTL)
        .execute(),
    );

  return {
    /** Whether other processes may change tasks too. */
    isShared: dialect.isShared,

    ...keys.own,
    ...deliveries.own,

    /**
     * Stores the task, unless its idempotency key stands for an earlier one, or its key refuses the order. The task, its line in the
     * ledger and the key's account are written together; the account last, for others of the same key wait from there on.
     */
    async insert(task: NewTask, order: Admission): Promise<InsertResult> {
      const row = { ...toRow(task), next_run_at: now(), leased_until: 0 };
      const { owner, idempotency_key: idempotencyKey, created_at } = task;
      for (;;) {
        const inserted = await writeAll(async (write) => {
          const stored = await write(
            db
              .insertInto('tasks')
              .values(row)
              .onConflict((conflict) =>
                conflict.columns(['owner', 'idempotency_key']).where('idempotency_key', 'is not', null).doNothing(),
              )
              .returning('id'),
          );
          if (stored.length === 0) return undefined;
          await keys.writeLine(write, task, order);
          return { key: await keys.reserve(write, owner, order) };
        }).catch((error) => {
          if (error instanceof AdmissionRefused) return { refused: error.reason, key: error.key };
          throw error;
        });
        if (inserted) return inserted;
        const existing = await findByIdempotencyKey(owner, idempotencyKey!, created_at);
        if (existing) return { existing };
        // It has outlived its time: one of those who want it frees it, and the first to insert then has it.
        await write(
          db
            .updateTable('tasks')
            .set({ idempotency_key: null, idempotency_hash: null })
            .where('owner', '=', owner)
            .where('idempotency_key', '=', idempotencyKey)
            .where('created_at', '<=', created_at - IDEMPOTENCY_TTL),
        );
      }
    },

    findByIdempotencyKey,

    /** Whoever's it is: not for callers. */
    get: (id: string) => first(db.selectFrom('tasks').selectAll().where('id', '=', storable(id)).execute()),

    /** A task of this owner; of `columns` only those. */
    getOwn<C extends keyof Task>(
      owner: string,
      id: string,
      columns?: readonly C[],
    ): Promise<Pick<Task, C> | undefined> {
      const names = sql.raw(columns?.join(', ') ?? '*'); // as text: Kysely takes longer over many columns than SQLite over the row
      const query = sql<Pick<Row, C>>`select ${names} from tasks where owner = ${owner} and id = ${storable(id)}`;
      return first(query.execute(db).then(({ rows }) => rows));
    },

    getMany: async (ids: string[]): Promise<Task[]> =>
      ids.length === 0 ? [] : (await db.selectFrom('tasks').selectAll().where('id', 'in', ids).execute()).map(fromRow),

    findByCallbackToken: (token: string) =>
      first(db.selectFrom('tasks').selectAll().where('callback_token', '=', storable(token)).execute()),

    /** Newest first. */
    async list({ owner, status, from, before, limit }: Selection & { limit: number }): Promise<ListedTask[]> {
      let query = db
        .selectFrom('tasks')
        .select(LIST_COLUMNS)
        .where('owner', '=', owner)
        .orderBy('id', 'desc')
        .limit(limit);
      if (status !== undefined) query = query.where('status', '=', status);
      if (from !== undefined) query = query.where('id', '>=', storable(from));
      if (before !== undefined) query = query.where('id', '<', storable(before));
      return (await query.execute()).map(fromRow);
    },

    /**
     * Changes the task if nobody else has changed or leased it since it was read. With a change that ends it, its account is settled by
     * its `cost`, and its announcement put into the outbox, all or nothing.
     * @returns the changed task, or undefined
     */
    async update(task: Task, changes: Changes): Promise<Task | undefined> {
      const change = db
        .updateTable('tasks')
        .set({ ...toColumns(changes), version: task.version + 1 })
        .where('id', '=', task.id)
        .where('version', '=', task.version)
        .returningAll();
      if (!endsTask(task, changes)) return first(write(change));
      return writeAll(async (write) => {
        const ended = await first(write(change));
        if (!ended) return undefined;
        const delivery = announcementOf(ended);
        if (delivery) await deliveries.add(write, delivery);
        await keys.settle(write, ended);
        return ended;
      });
    },

    /**
     * Leases tasks that are due and not waiting for a job. A lease that nobody gives back runs out, so that whoever takes a task and dies
     * does not lose it.
     */
    claimDue: ({ lease, limit }: Claim) =>
      take(
        free().select('id').where(NOT_WAITING).where('next_run_at', '<=', now()).orderBy('next_run_at').limit(limit),
        leased(lease),
      ),

    /** Leases tasks that wait for a job and are due: of each owner the first, then of each the second, and so on. */
    async claimWaiting({ lease, limit }: Claim): Promise<Task[]> {
      const owners = await waitingOwners();
      if (owners.length === 0) return [];
      const lines = owners.map((owner) => {
        const due = free().where(WAITING).where('owner', '=', owner).where('next_run_at', '<=', now());
        return db
          .selectFrom(due.select(['id', 'owner', 'next_run_at']).orderBy('next_run_at').limit(limit).as('line'))
          .selectAll();
      });
      const ranked = db.selectFrom(lines.reduce((all, line) => all.unionAll(line)).as('lines')).select((e) => [
        'id',
        'next_run_at',
        e.fn
          .agg<number>('row_number')
          .over((rows) => rows.partitionBy('owner').orderBy('next_run_at'))
          .as('rank'),
      ]);
      const fairest = db
        .selectFrom(ranked.as('ranked'))
        .select('id')
        .orderBy('rank')
        .orderBy('next_run_at')
        .limit(limit);
      return take(free().select('id').where(WAITING).where('id', 'in', fairest), leased(lease));
    },

    /**
     * Leases those of the tasks that are nobody's; with `dueAfter`, only those whose turn is more milliseconds away; those that wait for a
     * job only if asked for.
     */
    async claim(
      ids: string[],
      { lease, dueAfter, waiting = false }: { lease: number; dueAfter?: number; waiting?: boolean },
    ): Promise<Task[]> {
      if (ids.length === 0) return [];
      let query = db.updateTable('tasks').set(leased(lease)).where('id', 'in', ids).where('leased_until', '<=', now());
      if (!waiting) query = query.where(NOT_WAITING);
      if (dueAfter !== undefined) query = query.where('next_run_at', '>', fromNow(dueAfter));
      return (await write(query.returningAll())).map(fromRow);
    },

    /** Gives back a lease, if it is still the one that came with `task`: its turn is now. */
    release: (task: Task) =>
      write(
        db
          .updateTable('tasks')
          .set({ next_run_at: now(), leased_until: 0 })
          .where('id', '=', task.id)
          .where('leased_until', '=', task.leased_until),
      ).then(() => undefined),

    /**
     * What there is to do: milliseconds until the next task is due, of those that wait for a job and of all others (below 0 if one already
     * is, undefined if there is none), and how many jobs are out.
     */
    async nextDue(): Promise<{ waiting: number | undefined; due: number | undefined; out: number }> {
      const soonest = (of: typeof WAITING) =>
        db
          .selectFrom('tasks')
          .select((e) => e(e.fn.min('next_run_at'), '-', now()).as('wait'))
          .where(of)
          .where('next_run_at', '<', NEVER);
      const row = await db
        .selectNoFrom((e) => [
          soonest(WAITING).as('waiting'),
          soonest(NOT_WAITING).as('due'),
          e
            .selectFrom('tasks')
            .select((e) => e.fn.countAll<number>().as('count'))
            .where(SUBMITTED)
            .as('out'),
        ])
        .executeTakeFirstOrThrow();
      return { waiting: row.waiting ?? undefined, due: row.due ?? undefined, out: row.out ?? 0 };
    },

    /** Whoever's they are: how many tasks are open, how many jobs are out, and when the oldest task without a job was created. */
    async countActive(): Promise<{ queued: number; running: number; out: number; oldest: number | undefined }> {
      const { oldest, ...counts } = await db
        .selectFrom('tasks')
        .select(({ fn }) => [
          fn.countAll<number>().filterWhere('status', '=', 'queued').as('queued'),
          fn.countAll<number>().filterWhere('status', '=', 'running').as('running'),
          fn.count<number>('job_id').as('out'),
          fn.min('created_at').filterWhere('job_id', 'is', null).as('oldest'),
        ])
        .where(ACTIVE)
        .executeTakeFirstOrThrow();
      return { ...counts, oldest: oldest ?? undefined };
    },

    /** Ended tasks whose files are kept longer than `retain`, milliseconds from their end, are due at once. */
    rescheduleExpiry: (retain: number, now: number) =>
      write(
        db
          .updateTable('tasks')
          .set({ next_run_at: 0 })
          .where('finished_at', '<', now - retain)
          .where('expired_at', 'is', null),
      ).then(() => undefined),

    check: () => sql`select 1`.execute(db).then(() => undefined),
    close: dialect.close,
  };
}

/** What its webhook is told of a task that has just ended. */
function announcementOf({ id, owner, status, input, finished_at }: Task): NewDelivery | undefined {
  if (input.webhook_url === undefined) return undefined;
  return { id: v7(), owner, task_id: id, type: `task.${status}`, url: input.webhook_url, created_at: finished_at! };
}

/** Postgres keeps no NUL in a text, so nothing is stored under one; U+FFFF stands in no id either. */
const storable = (text: string) => text.replaceAll('\0', '\uffff');

function toRow<T extends Partial<NewTask>>(task: T): T extends NewTask ? Omit<Row, Timed> : Partial<Omit<Row, Timed>> {
  const row: Record<string, unknown> = { ...task };
  for (const name of JSON_COLUMNS) {
    const value = row[name];
    if (value !== undefined && value !== null) row[name] = JSON.stringify(value);
  }
  return row as ReturnType<typeof toRow<T>>;
}

function fromRow<R extends Partial<Row>>(row: R): Pick<Task, keyof R & keyof Task> {
  const task: Record<string, unknown> = {};
  for (const name in row) task[name] = row[name]; // libSQL's rows are such that a spread takes eight times as long
  for (const name of JSON_COLUMNS) if (typeof row[name] === 'string') task[name] = JSON.parse(row[name]);
  return task as Pick<Task, keyof R & keyof Task>;
}

const first = async <R extends Partial<Row>>(
  rows: Promise<R[]>,
): Promise<Pick<Task, keyof R & keyof Task> | undefined> => {
  const [row] = await rows;
  return row && fromRow(row);
};
