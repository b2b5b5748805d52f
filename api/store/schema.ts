import { randomBytes } from 'node:crypto';
import { type ColumnBuilderCallback, type Kysely, type Migration, Migrator, sql } from 'kysely';
import { LOCAL, SCOPES } from './key.ts';

/** Open, and without a job: to be submitted. As SQL, for an index over such rows serves only a query that says the very same. */
export const WAITING = sql<boolean>`(job_id is null and finished_at is null)`;
export const NOT_WAITING = sql<boolean>`(job_id is not null or finished_at is not null)`;
/** Not ended: with a job or without. */
export const NOT_ENDED = sql<boolean>`(finished_at is null)`;
/** Open, with a job at RunPod. */
export const OUT = sql<boolean>`(job_id is not null and finished_at is null)`;

/** In the order of their names; one that has run is never changed. */
export const migrations: Record<string, Migration> = {
  '001_tasks': {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('tasks')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('status', 'text', (column) => column.notNull())
        .addColumn('stage', 'text')
        .addColumn('step', 'integer')
        .addColumn('steps', 'integer')
        .addColumn('progress', 'double precision', (column) => column.notNull())
        .addColumn('created_at', 'bigint', (column) => column.notNull())
        .addColumn('started_at', 'bigint')
        .addColumn('finished_at', 'bigint')
        .addColumn('model', 'text', (column) => column.notNull())
        .addColumn('input', 'text', (column) => column.notNull())
        .addColumn('warnings', 'text', (column) => column.notNull())
        .addColumn('image_key', 'text')
        .addColumn('source_key', 'text')
        .addColumn('still', 'text')
        .addColumn('output', 'text')
        .addColumn('error', 'text')
        .addColumn('callback_token', 'text', (column) => column.notNull().unique())
        .addColumn('job_id', 'text')
        .addColumn('submitted_at', 'bigint')
        .addColumn('jobs', 'integer', (column) => column.notNull())
        .addColumn('failures', 'integer', (column) => column.notNull())
        .addColumn('due_at', 'bigint', (column) => column.notNull())
        .addColumn('webhook_due_at', 'bigint')
        .addColumn('webhook_attempts', 'integer', (column) => column.notNull())
        .addColumn('version', 'integer', (column) => column.notNull())
        .execute();
      await db.schema.createIndex('tasks_due').on('tasks').columns(['status', 'due_at']).execute();
      await db.schema.createIndex('tasks_webhook').on('tasks').column('webhook_due_at').execute();
    },
  },
  '002_leases': {
    async up(db: Kysely<unknown>) {
      await db.schema
        .alterTable('tasks')
        .addColumn('leased_until', 'bigint', (column) => column.notNull().defaultTo(0))
        .execute();
      await db.schema
        .createTable('secrets')
        .addColumn('name', 'text', (column) => column.primaryKey())
        .addColumn('value', 'text', (column) => column.notNull())
        .execute();
    },
  },
  '003_lifecycle': {
    async up(db: Kysely<unknown>) {
      const columns: [string, 'text' | 'bigint', ColumnBuilderCallback?][] = [
        ['owner', 'text', (column) => column.notNull().defaultTo('local')],
        ['idempotency_key', 'text'],
        ['idempotency_hash', 'text'],
        ['cancel_requested_at', 'bigint'],
        ['strays', 'text', (column) => column.notNull().defaultTo('[]')],
        ['expired_at', 'bigint'],
      ];
      for (const [name, type, build] of columns)
        await db.schema.alterTable('tasks').addColumn(name, type, build).execute();
      await db.schema.createIndex('tasks_owner').on('tasks').columns(['owner', 'id']).execute();
      await db.schema
        .createIndex('tasks_idempotency')
        .on('tasks')
        .columns(['owner', 'idempotency_key'])
        .unique()
        .where(sql.ref('idempotency_key'), 'is not', null)
        .execute();
      await db.schema.dropIndex('tasks_due').execute();
      await db.schema.createIndex('tasks_due').on('tasks').column('due_at').where(NOT_WAITING).execute();
      await db.schema.createIndex('tasks_waiting').on('tasks').column('due_at').where(WAITING).execute();
      await db.schema.createIndex('tasks_line').on('tasks').columns(['owner', 'due_at']).where(WAITING).execute();
      await db.schema.createIndex('tasks_out').on('tasks').column('job_id').where(OUT).execute();
    },
  },
  '004_list': {
    async up(db: Kysely<unknown>) {
      await db.schema.createIndex('tasks_status').on('tasks').columns(['owner', 'status', 'id']).execute();
    },
  },
  '005_keys': {
    // biome-ignore lint/suspicious/noExplicitAny: it reads and writes tables of several ages
    async up(db: Kysely<any>) {
      await db.schema
        .createTable('keys')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('name', 'text', (column) => column.notNull())
        .addColumn('scopes', 'text', (column) => column.notNull())
        .addColumn('hash', 'text')
        .addColumn('old_hash', 'text')
        .addColumn('old_until', 'bigint')
        .addColumn('budget', 'bigint')
        .addColumn('month', 'text', (column) => column.notNull().defaultTo(''))
        .addColumn('spent', 'bigint', (column) => column.notNull().defaultTo(0))
        .addColumn('reserved', 'bigint', (column) => column.notNull().defaultTo(0))
        .addColumn('open', 'bigint', (column) => column.notNull().defaultTo(0))
        .addColumn('max_open', 'bigint')
        .addColumn('submissions_per_minute', 'bigint')
        .addColumn('requests_per_minute', 'bigint')
        .addColumn('submissions_at', 'bigint', (column) => column.notNull().defaultTo(0))
        .addColumn('webhook_secret', 'text', (column) => column.notNull())
        .addColumn('old_webhook_secret', 'text')
        .addColumn('old_webhook_until', 'bigint')
        .addColumn('created_at', 'bigint', (column) => column.notNull())
        .addColumn('revoked_at', 'bigint')
        .execute();
      await db.schema
        .createTable('ledger')
        .addColumn('task_id', 'text', (column) => column.primaryKey())
        .addColumn('owner', 'text', (column) => column.notNull())
        .addColumn('model', 'text', (column) => column.notNull())
        .addColumn('reserved', 'bigint', (column) => column.notNull())
        .addColumn('expected_gpu_time', 'bigint', (column) => column.notNull())
        .addColumn('settled_at', 'bigint')
        .addColumn('day', 'text')
        .addColumn('status', 'text')
        .addColumn('amount', 'bigint')
        .addColumn('gpu_time', 'bigint')
        .addColumn('stills', 'bigint')
        .execute();
      await db.schema.createIndex('ledger_day').on('ledger').columns(['owner', 'day']).execute();
      const hasResult = sql<boolean>`(gpu_time is not null)`;
      await db.schema
        .createIndex('ledger_history')
        .on('ledger')
        .columns(['model', 'settled_at'])
        .where(hasResult)
        .execute();
      await db.schema
        .createTable('deliveries')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('owner', 'text', (column) => column.notNull())
        .addColumn('task_id', 'text')
        .addColumn('type', 'text', (column) => column.notNull())
        .addColumn('url', 'text', (column) => column.notNull())
        .addColumn('status', 'text', (column) => column.notNull())
        .addColumn('created_at', 'bigint', (column) => column.notNull())
        .addColumn('due_at', 'bigint')
        .addColumn('attempts', 'bigint', (column) => column.notNull().defaultTo(0))
        .addColumn('attempted_at', 'bigint')
        .addColumn('status_code', 'bigint')
        .addColumn('error', 'text')
        .addColumn('delivered_at', 'bigint')
        .execute();
      await db.schema.createIndex('deliveries_owner').on('deliveries').columns(['owner', 'id']).execute();
      await db.schema.createIndex('deliveries_task').on('deliveries').columns(['task_id']).execute();
      await db.schema
        .createIndex('deliveries_due')
        .on('deliveries')
        .column('due_at')
        .where('due_at', 'is not', null)
        .execute();
      await db.schema
        .createTable('gone_webhooks')
        .addColumn('owner', 'text', (column) => column.notNull())
        .addColumn('url', 'text', (column) => column.notNull())
        .addPrimaryKeyConstraint('gone_webhooks_key', ['owner', 'url'])
        .execute();

      const secret = await db.selectFrom('secrets').select('value').where('name', '=', 'webhook').executeTakeFirst();
      await db
        .insertInto('keys')
        .values({
          id: LOCAL,
          name: 'this machine',
          scopes: JSON.stringify(SCOPES),
          webhook_secret: secret?.value ?? `whsec_${randomBytes(32).toString('base64')}`,
          created_at: Date.now(),
        })
        .execute();
      await db.schema.dropTable('secrets').execute();

      for (const name of ['quote', 'cost']) await db.schema.alterTable('tasks').addColumn(name, 'text').execute();
      const due = await db.selectFrom('tasks').selectAll().where('webhook_due_at', 'is not', null).execute();
      for (const { id, owner, status, input, finished_at, webhook_due_at, webhook_attempts } of due)
        await db
          .insertInto('deliveries')
          .values({
            ...{
              id,
              owner,
              task_id: id,
              type: `task.${status}`,
              url: JSON.parse(input).webhook_url,
              status: 'pending',
            },
            ...{ created_at: finished_at, due_at: webhook_due_at, attempts: webhook_attempts },
          })
          .execute();
      await db.schema.dropIndex('tasks_webhook').execute();
      for (const name of ['webhook_due_at', 'webhook_attempts'])
        await db.schema.alterTable('tasks').dropColumn(name).execute();
    },
  },
  '006_open': {
    async up(db: Kysely<unknown>) {
      // All that the metrics count is in the index: no row is read.
      const columns = ['status', 'job_id', 'created_at'];
      await db.schema.createIndex('tasks_open').on('tasks').columns(columns).where(NOT_ENDED).execute();
    },
  },
};

/** Runs what has not run yet, all or nothing; processes that start at once wait for one another. */
export async function migrate<T>(db: Kysely<T>): Promise<void> {
  const provider = { getMigrations: async () => migrations };
  const { error } = await new Migrator({ db, provider }).migrateToLatest();
  if (error) throw error;
}
