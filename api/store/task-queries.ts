/** Queries of tasks by id, owner or token, and their creation and change. */
import { sql } from 'kysely';
import { v7 } from 'uuid';
import { isActive } from '../../core/task-status.ts';
import { DAY } from '../../core/time.ts';
import { isNotified } from '../../core/webhook-events.ts';
import type { NewDelivery } from './delivery.ts';
import { insertDelivery } from './delivery-queries.ts';
import { type Dialect, JSON_COLUMNS, type StoreLog, type TaskRow } from './dialect.ts';
import type { Admission } from './key.ts';
import { AdmissionRefused, reserve, settle } from './key-queries.ts';
import { ACTIVE } from './schema.ts';
import {
  type Changes,
  endsTask,
  type InsertResult,
  type NewTask,
  PUBLIC_COLUMNS,
  type PublicTask,
  startsTask,
  type Task,
  type TaskSelection,
} from './task.ts';

/** How long an idempotency key stands for its task, from the task's creation; milliseconds. */
export const IDEMPOTENCY_TTL = DAY;
/** `next_run_at` of a task without a next step. */
export const NEVER = Number.MAX_SAFE_INTEGER;

type PublicRow = Pick<TaskRow, keyof PublicTask>;
const PUBLIC_COLUMNS_SQL = sql.raw(PUBLIC_COLUMNS.join(', '));

export function taskQueries({ db }: Dialect, log: StoreLog) {
  const tasks = () => db.selectFrom('tasks').selectAll();
  const first = async (query: ReturnType<typeof tasks>) => fromOptionalRow(await query.executeTakeFirst());

  /** A row that can't be read is skipped, and the next one takes its place: fewer than `limit` tasks are the last. */
  async function list(selection: TaskSelection & { limit: number }): Promise<PublicTask[]> {
    const { owner, status, from, before, after, order = 'desc', isKept, metadata = {}, limit } = selection;
    const rows = await db
      .selectFrom('tasks')
      .select(PUBLIC_COLUMNS)
      .where('owner', '=', owner)
      .$if(status !== undefined, (query) => query.where('status', '=', status!))
      .$if(from !== undefined, (query) => query.where('id', '>=', from!))
      .$if(before !== undefined, (query) => query.where('id', '<', before!))
      .$if(after !== undefined, (query) => query.where('id', '>', after!))
      .$if(isKept === true, (query) => query.where('expired_at', 'is', null))
      .where((e) => e.and(Object.entries(metadata).map(hasPair)))
      .orderBy('id', order)
      .limit(limit)
      .execute();
    const tasks = readRows(rows, log);
    const skipped = rows.length - tasks.length;
    if (skipped === 0 || rows.length < limit) return tasks;
    const position = { [order === 'asc' ? 'after' : 'before']: rows.at(-1)!.id };
    return [...tasks, ...(await list({ ...selection, ...position, limit: skipped }))];
  }

  return {
    list,

    /** Not scoped to an owner; internal only. */
    get: (id: string) => first(tasks().where('id', '=', id)),

    getOwn: (owner: string, id: string) => first(tasks().where('owner', '=', owner).where('id', '=', id)),

    /** Plain SQL: Kysely takes longer to build a query of so many columns than SQLite to run it. */
    async getPublic(owner: string, id: string): Promise<PublicTask | undefined> {
      const query = sql<PublicRow>`select ${PUBLIC_COLUMNS_SQL} from tasks where owner = ${owner} and id = ${id}`;
      const { rows } = await query.execute(db);
      return rows[0] && fromRow(rows[0]);
    },

    /** Not scoped to an owner; internal only. */
    getMany: async (ids: string[]): Promise<Task[]> =>
      ids.length === 0 ? [] : readRows(await tasks().where('id', 'in', ids).execute(), log),

    findByCallbackToken: (token: string) => first(tasks().where('callback_token', '=', token)),

    /** The task that an owner's idempotency key stands for at a time, in milliseconds since 1970. */
    findByIdempotencyKey: (owner: string, key: string, at: number) =>
      first(
        tasks()
          .where((e) => e.and({ owner, idempotency_key: key }))
          .where('created_at', '>', at - IDEMPOTENCY_TTL),
      ),

    /** Active tasks of all owners, their jobs at RunPod, and when the oldest task without a job was created. */
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
  };
}

export function taskWrites(dialect: Dialect, log: StoreLog) {
  const { db, write, writeAll, fromNow, isDataError } = dialect;
  const { findByIdempotencyKey } = taskQueries(dialect, log);

  /** One transaction writes the task, its line in the ledger, and its key's account. @returns undefined: the idempotency key is taken */
  const insertOnce = (task: NewTask, admission: Admission) =>
    writeAll(async (write): Promise<InsertResult | undefined> => {
      const stored = await db
        .insertInto('tasks')
        .values({ ...toRow(task), next_run_at: fromNow(0), leased_until: 0 })
        .onConflict((conflict) =>
          conflict.columns(['owner', 'idempotency_key']).where('idempotency_key', 'is not', null).doNothing(),
        )
        .returning('id')
        .$call(write);
      if (stored.length === 0) return undefined;
      if (task.image_key !== null) await write(db.deleteFrom('uploads').where('task_id', '=', task.id));
      return { key: await reserve(dialect, write, task, admission) };
    }).catch((error): InsertResult => {
      if (error instanceof AdmissionRefused) return { refused: error.reason, key: error.key };
      throw error;
    });

  /** Of several processes that release the key at once, the first to insert gets it. */
  const releaseIdempotencyKey = ({ owner, idempotency_key, created_at }: NewTask) =>
    db
      .updateTable('tasks')
      .set({ idempotency_key: null, idempotency_hash: null })
      .where((e) => e.and({ owner, idempotency_key }))
      .where('created_at', '<=', created_at - IDEMPOTENCY_TTL)
      .$call(write);

  return {
    /** Stores the task, unless its idempotency key stands for an existing one or its API key refuses it. */
    async insert(task: NewTask, admission: Admission): Promise<InsertResult> {
      for (;;) {
        const inserted = await insertOnce(task, admission);
        if (inserted) return inserted;
        const existing = await findByIdempotencyKey(task.owner, task.idempotency_key!, task.created_at);
        if (existing) return { existing };
        await releaseIdempotencyKey(task);
      }
    },

    /**
     * Changes the task, unless another process changed or leased it since it was read. A change that ends it also settles its account
     * and adds its delivery, in one transaction. So does one that starts it, if the webhook is notified of that. A delivery that the
     * database refuses is dropped, and the task goes on without it.
     * @returns the changed task, or undefined
     */
    async update(task: Task, { nextRunIn, runNow, ...changes }: Changes): Promise<Task | undefined> {
      // A lease that another step holds is kept: until it expires nobody can claim the task.
      const now = sql<number>`case when leased_until > ${fromNow(0)} then leased_until else ${fromNow(0)} end`;
      const next_run_at = nextRunIn === undefined ? now : nextRunIn === null ? NEVER : fromNow(nextRunIn);
      const change = db
        .updateTable('tasks')
        .set({ ...toRow(changes), version: task.version + 1 })
        .$if(runNow || nextRunIn !== undefined, (query) => query.set({ next_run_at }))
        .$if(nextRunIn !== undefined, (query) => query.set({ leased_until: 0 }))
        .where((e) => e.and({ id: task.id, version: task.version }))
        .returningAll();
      const isEnd = endsTask(task, changes);
      const isStart = startsTask(task, changes) && isNotified(task.input, 'started');
      if (!isEnd && !isStart) return fromOptionalRow((await write(change))[0]);
      const save = (withDelivery: boolean) =>
        writeAll(async (write) => {
          const changed = fromOptionalRow((await write(change))[0]);
          if (!changed) return undefined;
          const delivery = withDelivery && deliveryOf(changed);
          if (delivery) await insertDelivery(dialect, write, delivery);
          if (isEnd) await settle(dialect, write, changed);
          return changed;
        });
      return save(true).catch((error) => {
        if (!isDataError(error)) throw error;
        log.error({ task: task.id, error }, 'the database refuses the webhook delivery; the task goes on without it');
        return save(false);
      });
    },

    /** Gives the ended tasks of one owner to another. @returns how many there were */
    async transfer(from: string, owner: string): Promise<number> {
      const moved = await db
        .updateTable('tasks')
        .set({ owner, idempotency_key: null, idempotency_hash: null, version: sql`version + 1` })
        .where('owner', '=', from)
        .where('finished_at', 'is not', null)
        .returning('id')
        .$call(write);
      return moved.length;
    },
  };
}

/**
 * Whether a task's metadata has this pair. A key has no quotes, and those in a value are escaped, so the pair's JSON text occurs only where
 * the pair is. Both databases have `replace`, and it is case-sensitive.
 */
function hasPair([key, value]: [string, string]) {
  const text = `${JSON.stringify(key)}:${JSON.stringify(value)}`;
  return sql<boolean>`(metadata is not null) and replace(metadata, ${text}, '') <> metadata`;
}

/** The webhook delivery of a task that has just started or ended. */
function deliveryOf({ id, owner, status, input, started_at, finished_at }: Task): NewDelivery | undefined {
  const isStart = isActive(status);
  if (!isNotified(input, isStart ? 'started' : 'ended')) return undefined;
  const type = isStart ? 'task.started' : `task.${status}`;
  return { id: v7(), owner, task_id: id, type, url: input.webhook_url!, created_at: (finished_at ?? started_at)! };
}

function toRow<T extends Partial<NewTask>>(task: T): { [K in keyof T & keyof TaskRow]: TaskRow[K] } {
  const row: Record<string, unknown> = { ...task };
  for (const name of JSON_COLUMNS) if (row[name] != null) row[name] = JSON.stringify(row[name]);
  return row as ReturnType<typeof toRow<T>>;
}

function fromRow<R extends Partial<TaskRow>>(row: R): Pick<Task, keyof R & keyof Task> {
  const task: Record<string, unknown> = {};
  for (const name in row) task[name] = row[name]; // a spread of libSQL's rows takes eight times as long
  for (const name of JSON_COLUMNS) if (typeof row[name] === 'string') task[name] = parseColumn(name, row[name]);
  return task as Pick<Task, keyof R & keyof Task>;
}

function parseColumn(name: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new SyntaxError(`column ${name} is not JSON`); // the parser's own message contains a part of the prompt
  }
}

/** The tasks of all rows that can be read. The others are logged and skipped, so that they hide no other task. */
export function readRows<R extends Partial<TaskRow>>(rows: R[], log: StoreLog): Pick<Task, keyof R & keyof Task>[] {
  return rows.flatMap((row) => {
    try {
      return [fromRow(row)];
    } catch (error) {
      log.error({ task: row.id, error }, 'the row of a task can’t be read; it is skipped');
      return [];
    }
  });
}

const fromOptionalRow = (row: TaskRow | undefined): Task | undefined => row && fromRow(row);
