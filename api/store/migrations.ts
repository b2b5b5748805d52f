import { type Kysely, type Migration, Migrator } from 'kysely';

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
};

/** Runs what has not run yet, all or nothing; processes that start at once wait for one another. */
export async function migrate<T>(db: Kysely<T>): Promise<void> {
  const provider = { getMigrations: async () => migrations };
  const { error } = await new Migrator({ db, provider }).migrateToLatest();
  if (error) throw error;
}
