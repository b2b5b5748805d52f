/** The tables and indexes. One definition serves both databases: SQLite takes Postgres' type names. Columns are described in task.ts, key.ts and delivery.ts. */
import { randomBytes } from 'node:crypto';
import { type Kysely, type Migration, Migrator, sql } from 'kysely';
import { LOCAL, NEW_ACCOUNT, SCOPES } from './key.ts';

// Conditions of partial indexes: such an index serves only queries with the very condition of the schema below.
/** Active, and without a job: to be submitted. */
export const WAITING = sql.raw<boolean>('(job_id is null and finished_at is null)');
export const NOT_WAITING = sql.raw<boolean>('(job_id is not null or finished_at is not null)');
export const ACTIVE = sql.raw<boolean>('(finished_at is null)');
/** A delivery with another attempt. */
export const SCHEDULED = sql.raw<boolean>('(next_attempt_at is not null)');
/** Active, with a job at RunPod. */
export const SUBMITTED = sql.raw<boolean>('(job_id is not null and finished_at is null)');

/** Of the ledger: tasks whose GPU time says something about other tasks. */
export const MEASURED = sql.raw<boolean>(
  "(status = 'succeeded' and gpu_time is not null and expected_gpu_time is not null)",
);

const SCHEMA = `
  create table tasks (
    id text primary key,
    owner text not null,
    idempotency_key text,
    idempotency_hash text,
    status text not null,
    stage text,
    step integer,
    steps integer,
    progress double precision not null,
    created_at bigint not null,
    started_at bigint,
    finished_at bigint,
    model text not null,
    input text not null,
    warnings text not null,
    image_key text,
    source_key text,
    still text,
    output text,
    usage text,
    error text,
    callback_token text not null unique,
    job_id text,
    submitted_at bigint,
    jobs integer not null,
    failures integer not null,
    next_run_at bigint not null,
    leased_until bigint not null,
    quote text,
    cost text,
    cancel_requested_at bigint,
    jobs_to_cancel text not null,
    expired_at bigint,
    version integer not null
  );
  create index tasks_owner on tasks (owner, id);
  create index tasks_status on tasks (owner, status, id);
  create unique index tasks_idempotency on tasks (owner, idempotency_key) where idempotency_key is not null;
  create index tasks_keyed on tasks (id) where (idempotency_key is not null);
  create index tasks_due on tasks (next_run_at) where (job_id is not null or finished_at is not null);
  create index tasks_waiting on tasks (next_run_at) where (job_id is null and finished_at is null);
  create index tasks_waiting_by_owner on tasks (owner, next_run_at) where (job_id is null and finished_at is null);
  create index tasks_submitted on tasks (owner) where (job_id is not null and finished_at is null);
  -- Covers all that the metrics count, so that they read no row.
  create index tasks_active on tasks (status, job_id, created_at) where (finished_at is null);

  create table keys (
    id text primary key,
    name text not null,
    scopes text not null,
    hash text,
    old_hash text,
    old_until bigint,
    budget bigint,
    month text not null,
    spent bigint not null,
    reserved bigint not null,
    active_tasks bigint not null,
    max_active bigint,
    submissions_per_minute bigint,
    requests_per_minute bigint,
    submissions_at bigint not null,
    upload_bytes bigint not null,
    webhook_secret text not null,
    old_webhook_secret text,
    old_webhook_until bigint,
    created_at bigint not null,
    revoked_at bigint
  );

  create table ledger (
    task_id text primary key,
    owner text not null,
    model text not null,
    reserved bigint not null,
    expected_gpu_time bigint,
    upload_bytes bigint not null,
    settled_at bigint,
    day text,
    status text,
    amount bigint,
    gpu_time bigint,
    stills bigint
  );
  create index ledger_day on ledger (owner, day);
  create index ledger_gpu_times on ledger (model, owner, settled_at) where (status = 'succeeded' and gpu_time is not null and expected_gpu_time is not null);

  -- Uploads that are being written: their tasks are not stored yet.
  create table uploads (
    task_id text primary key,
    created_at bigint not null
  );

  create table deliveries (
    id text primary key,
    owner text not null,
    task_id text,
    type text not null,
    url text not null,
    status text not null,
    created_at bigint not null,
    next_attempt_at bigint,
    started bigint not null,
    attempts bigint not null,
    attempted_at bigint,
    status_code bigint,
    error text,
    delivered_at bigint
  );
  create index deliveries_owner on deliveries (owner, id);
  create index deliveries_task on deliveries (task_id);
  create index deliveries_tests on deliveries (id) where (task_id is null);
  create index deliveries_due on deliveries (next_attempt_at) where (next_attempt_at is not null);
  create index deliveries_due_by_owner on deliveries (owner, next_attempt_at) where (next_attempt_at is not null);

  create table disabled_webhooks (
    owner text not null,
    url_hash text not null,
    disabled_at bigint not null,
    primary key (owner, url_hash)
  )`;

/** In the order of their names. Once released, a migration never changes. */
export const migrations: Record<string, Migration> = {
  '001_first_release': {
    // biome-ignore lint/suspicious/noExplicitAny: a migration does not know the tables of later ones
    async up(db: Kysely<any>) {
      for (const statement of SCHEMA.split(';\n')) await sql.raw(statement).execute(db);
      const local = { id: LOCAL, name: 'this machine', scopes: JSON.stringify(SCOPES), created_at: Date.now() };
      const webhook_secret = `whsec_${randomBytes(32).toString('base64')}`;
      await db
        .insertInto('keys')
        .values({ ...local, ...NEW_ACCOUNT, webhook_secret })
        .execute();
    },
  },
  '002_still_preview': {
    up: (db) => db.schema.alterTable('tasks').addColumn('still_preview', 'text').execute(),
  },
  '003_share_secret': {
    up: (db) => db.schema.alterTable('tasks').addColumn('share_secret', 'text').execute(),
  },
  '004_metadata': {
    async up(db) {
      await db.schema.alterTable('tasks').addColumn('metadata', 'text').execute();
      await sql`create index tasks_metadata on tasks (owner, id) where (metadata is not null)`.execute(db);
    },
  },
};

/**
 * Runs the migrations that have not run yet, all or none. Processes that start at the same time wait for one another.
 * @throws Error the database holds other tables of these names, such as those of a version before the first release
 */
export async function migrate<T>(db: Kysely<T>): Promise<void> {
  const provider = { getMigrations: async () => migrations };
  const { error } = await new Migrator({ db, provider }).migrateToLatest();
  if (/corrupted migrations|already exists/.test((error as Error | undefined)?.message ?? ''))
    throw new Error(
      'DATABASE_URL: the tables in this database are from another version, which this version cannot upgrade; ' +
        'move the file away (default DATA_DIR/tasks.db), or set DATABASE_URL to an empty database',
      { cause: error },
    );
  if (error) throw error;
}
