/** Databases of earlier versions, as they are found at a start. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from '@libsql/client';
import { LibsqlDialect } from '@libsql/kysely-libsql';
import { Kysely, type Dialect as KyselyDialect, Migrator, PostgresDialect } from 'kysely';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { migrations } from './schema.ts';
import { openStore } from './store.ts';

const SECRET = 'whsec_of-before';

/** Without keys, money and an outbox: an open task, one that is announced for the third time, and one that was heard. */
async function before(dialect: KyselyDialect): Promise<void> {
  // biome-ignore lint/suspicious/noExplicitAny: its tables are of an earlier version
  const db = new Kysely<any>({ dialect });
  const provider = { getMigrations: async () => migrations };
  const { error } = await new Migrator({ db, provider }).migrateTo('004_list');
  if (error) throw error;
  await db.insertInto('secrets').values({ name: 'webhook', value: SECRET }).execute();
  const task = {
    progress: 0,
    created_at: 1,
    model: 'camera',
    warnings: '[]',
    jobs: 1,
    failures: 0,
    version: 1,
    due_at: 0,
  };
  const input = JSON.stringify({ prompt: 'x', webhook_url: 'https://example.com/' });
  const all = { ...task, input, webhook_attempts: 0 };
  const ended = { ...all, status: 'failed', finished_at: 5 };
  await db
    .insertInto('tasks')
    .values([
      {
        ...all,
        id: 'open',
        callback_token: 'a',
        status: 'running',
        finished_at: null,
        webhook_due_at: null,
        job_id: 'j',
      },
      { ...ended, id: 'announced', callback_token: 'b', webhook_due_at: 7, webhook_attempts: 2, job_id: null },
      { ...ended, id: 'heard', callback_token: 'c', webhook_due_at: null, webhook_attempts: 1, job_id: null },
    ])
    .execute();
  await db.destroy();
}

async function expectKept(url: string): Promise<void> {
  const store = await openStore(url);
  expect(await store.key('local')).toMatchObject({
    webhook_secret: SECRET,
    hash: null,
    open: 0,
    reserved: 0,
    spent: 0,
  });
  expect(await store.deliveries({ owner: 'local', limit: 9 })).toMatchObject([
    { id: 'announced', task_id: 'announced', type: 'task.failed', url: 'https://example.com/', attempts: 2, due_at: 7 },
  ]);
  const open = (await store.get('open'))!;
  expect(open).toMatchObject({ quote: null, cost: null, status: 'running' });
  await store.update(open, { status: 'succeeded', finished_at: 9, cost: null, due_in: 0 });
  expect(await store.deliveries({ owner: 'local', task: 'open', limit: 9 })).toHaveLength(1);
  expect(await store.key('local')).toMatchObject({ open: 0, reserved: 0, spent: 0 }); // nothing was reserved for it
  expect(await store.usage('local', '1970-01-01', '2100-01-01')).toEqual([]);
  await store.close();
}

test('a libSQL file', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'migrations-'));
  const url = `file:${join(folder, 'tasks.db')}`;
  await before(new LibsqlDialect({ client: createClient({ url }) }));
  await expectKept(url);
  await rm(folder, { recursive: true });
});

describe.skipIf(!hasPostgres)(`PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  test('a database', async () => {
    const { url } = await postgres.database();
    await before(new PostgresDialect({ pool: new pg.Pool({ connectionString: url }) }));
    await expectKept(url);
  });
});
