/** Where tasks live: Kysely over a libSQL file. */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createClient } from '@libsql/client';
import { LibsqlDialect } from '@libsql/kysely-libsql';
import { Kysely, Migrator, sql } from 'kysely';
import type { JobErrorData, JobOutput, Stage } from '../../handler/job.ts';
import type { Input } from '../../handler/parameters.ts';
import type { FieldNote } from '../../handler/request.ts';
import type { ModelName } from '../../handler/svd/presets.ts';
import { migrations } from './migrations.ts';

export const OPEN = ['queued', 'running'] as const;
export const ENDED = ['succeeded', 'failed', 'canceled'] as const;
export type TaskStatus = (typeof OPEN)[number] | (typeof ENDED)[number];
export const isOpen = (status: TaskStatus) => (OPEN as readonly string[]).includes(status);

/** A task as it is kept. Times are milliseconds since 1970. */
export interface Task {
  /** UUIDv7: ids sort by creation */
  id: string;
  status: TaskStatus;
  stage: Stage | null;
  /** of the stage: the sampling step or the frame that is done, and how many there are */
  step: number | null;
  steps: number | null;
  /** 0–1, never falls */
  progress: number;
  created_at: number;
  started_at: number | null;
  finished_at: number | null;
  model: ModelName;
  input: Input;
  warnings: FieldNote[];
  /** bucket key of the picture that came with the request */
  image_key: string | null;
  /** bucket key of an earlier task's picture */
  source_key: string | null;
  /** bucket key of the still, once there is one */
  still: string | null;
  output: JobOutput | null;
  error: JobErrorData | null;
  /** in the address that RunPod calls back */
  callback_token: string;
  /** RunPod's id of the job that is out for this task */
  job_id: string | null;
  submitted_at: number | null;
  /** jobs submitted so far */
  jobs: number;
  /** attempts to reach RunPod that failed in a row */
  failures: number;
  /** when the task is to be looked at next; meaningless once it has ended */
  due_at: number;
  /** when the end of the task is to be announced to its webhook_url; null: there is nothing to announce (any more) */
  webhook_due_at: number | null;
  /** deliveries tried */
  webhook_attempts: number;
  /** counts changes: each update names the version that it changes */
  version: number;
}

const JSON_COLUMNS = ['input', 'warnings', 'output', 'error'] as const;
type Row = {
  [K in keyof Task]: K extends (typeof JSON_COLUMNS)[number] ? string | (null extends Task[K] ? null : never) : Task[K];
};
interface Database {
  tasks: Row;
}

export type Changes = Partial<Omit<Task, 'id' | 'version' | 'created_at'>>;
export type Store = Awaited<ReturnType<typeof openStore>>;

/** @param url such as file:data/tasks.db; folder and tables are made if they are not there */
export async function openStore(url: string) {
  const path = url.replace(/^file:(\/\/)?/, '');
  await mkdir(dirname(path), { recursive: true });
  const lock = await lockFolder(dirname(path));
  const client = createClient({ url, timeout: 5000 });
  await client.execute('pragma journal_mode = wal'); // kept in the file; synchronous is FULL by default
  const db = new Kysely<Database>({ dialect: new LibsqlDialect({ client }) });
  const { error } = await new Migrator({ db, provider: { getMigrations: async () => migrations } }).migrateToLatest();
  if (error) throw error;
  const write = oneAtATime();

  return {
    insert: (task: Task) => write(() => db.insertInto('tasks').values(toRow(task)).execute()).then(() => undefined),

    get: (id: string) => first(db.selectFrom('tasks').selectAll().where('id', '=', id).execute()),

    byCallbackToken: (token: string) =>
      first(db.selectFrom('tasks').selectAll().where('callback_token', '=', token).execute()),

    /** Newest first, from below `before`. */
    async list({ before, limit }: { before?: string | undefined; limit: number }): Promise<Task[]> {
      let query = db.selectFrom('tasks').selectAll().orderBy('id', 'desc').limit(limit);
      if (before !== undefined) query = query.where('id', '<', before);
      return (await query.execute()).map(fromRow);
    },

    /** Changes the task if nobody else has since it was read. @returns the changed task, or undefined */
    update: (task: Task, changes: Changes) =>
      first(
        write(() =>
          db
            .updateTable('tasks')
            .set({ ...toRow(changes), version: task.version + 1 })
            .where('id', '=', task.id)
            .where('version', '=', task.version)
            .returningAll()
            .execute(),
        ),
      ),

    /** Takes open tasks that are due, and puts their next turn off, so that whoever takes one and dies does not lose it. */
    async claimDue(now: number, { lease, limit }: { lease: number; limit: number }): Promise<Task[]> {
      const due = db
        .selectFrom('tasks')
        .select('id')
        .where('status', 'in', OPEN)
        .where('due_at', '<=', now)
        .orderBy('due_at')
        .limit(limit);
      const rows = await write(() =>
        db
          .updateTable('tasks')
          .set({ due_at: now + lease })
          .where('id', 'in', due)
          .returningAll()
          .execute(),
      );
      return rows.map(fromRow);
    },

    /** When the next open task is due, or undefined if there is none. */
    async nextDue(): Promise<number | undefined> {
      const row = await db
        .selectFrom('tasks')
        .select((e) => e.fn.min('due_at').as('due'))
        .where('status', 'in', OPEN)
        .executeTakeFirst();
      return row?.due ?? undefined;
    },

    /** Ended tasks whose announcement is due, each put off like `claimDue`'s. */
    async claimWebhooks(now: number, { lease, limit }: { lease: number; limit: number }): Promise<Task[]> {
      const due = db
        .selectFrom('tasks')
        .select('id')
        .where('webhook_due_at', '<=', now)
        .orderBy('webhook_due_at')
        .limit(limit);
      const rows = await write(() =>
        db
          .updateTable('tasks')
          .set({ webhook_due_at: now + lease })
          .where('id', 'in', due)
          .returningAll()
          .execute(),
      );
      return rows.map(fromRow);
    },

    async nextWebhook(): Promise<number | undefined> {
      const row = await db
        .selectFrom('tasks')
        .select((e) => e.fn.min('webhook_due_at').as('due'))
        .executeTakeFirst();
      return row?.due ?? undefined;
    },

    setWebhook: (id: string, changes: Pick<Task, 'webhook_due_at' | 'webhook_attempts'>) =>
      write(() => db.updateTable('tasks').set(changes).where('id', '=', id).execute()).then(() => undefined),

    /** For the start: whatever a process that died had taken is due at once. One process alone uses the file. */
    releaseAll: (now: number) =>
      write(async () => {
        await db.updateTable('tasks').set({ due_at: now }).where('status', 'in', OPEN).execute();
      }),

    check: () => sql`select 1`.execute(db).then(() => undefined),
    close: () =>
      write(async () => {
        client.close();
        lock.close();
      }),
  };
}

/**
 * Keeps other processes out of the folder as long as this one lives: two would each look for the other's jobs at their own queue.
 * The operating system lets go of the lock when the process dies, however it dies.
 * @throws Error if another process has it
 */
async function lockFolder(folder: string): Promise<{ close(): void }> {
  const client = createClient({ url: `file:${join(folder, 'lock.db')}`, timeout: 0 });
  try {
    await client.transaction('write'); // never committed
    return client;
  } catch (cause) {
    client.close();
    throw new Error(`${folder} is in use by another process: give each its own DATA_DIR`, { cause });
  }
}

/** SQLite has one writer: writes queue up here, not inside it. */
function oneAtATime() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work);
    last = result.catch(() => undefined); // the caller of `work` hears of its failure
    return result;
  };
}

function toRow<T extends Changes>(task: T): T extends Task ? Row : Partial<Row> {
  const row: Record<string, unknown> = { ...task };
  for (const name of JSON_COLUMNS) {
    const value = row[name];
    if (value !== undefined && value !== null) row[name] = JSON.stringify(value);
  }
  return row as T extends Task ? Row : Partial<Row>;
}

function fromRow(row: Row): Task {
  const task: Record<string, unknown> = { ...row };
  for (const name of JSON_COLUMNS) if (row[name] !== null) task[name] = JSON.parse(row[name]);
  return task as unknown as Task;
}

const first = async (rows: Promise<Row[]>): Promise<Task | undefined> => {
  const [row] = await rows;
  return row && fromRow(row);
};
