/** What a start makes of the database that it finds: it creates the tables, keeps its own, and refuses those of another version. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from '@libsql/client';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';
import { migrations } from './schema.ts';
import { openStore } from './store.ts';

/** What remains of an unreleased 0.1.0: its tables, with and without its migrations' names. */
const OLD = {
  'tables without migrations': ['create table tasks (id text primary key)'],
  'migrations of other names': [
    'create table kysely_migration (name varchar(255) primary key, timestamp varchar(255) not null)',
    "insert into kysely_migration values ('001_tasks', '2026-11-01T00:00:00.000Z')",
    'create table tasks (id text primary key)',
  ],
};
const REFUSAL =
  /^DATABASE_URL: the tables in this database are from another version, .* set DATABASE_URL to an empty database$/;

interface Database {
  url: string;
  /** @returns the rows' first columns */
  query(statement: string): Promise<string[]>;
}

function behavesWith(open: () => Promise<Database>) {
  let database: Database;
  beforeEach(async () => {
    database = await open();
  });

  test('an empty database gets the tables, and a later start keeps what is in them', async () => {
    const store = await openStore(database.url);
    const { webhook_secret } = (await store.getKey('local'))!;
    const task = newTask();
    await insertTask(store, task);
    await store.close();
    const next = await openStore(database.url);
    expect(await next.getKey('local')).toMatchObject({ hash: null, active_tasks: 1, webhook_secret });
    expect(await next.get(task.id)).toMatchObject({ id: task.id });
    expect(await database.query('select name from kysely_migration')).toEqual(Object.keys(migrations));
    await next.close();
  });

  test.each(Object.entries(OLD))('%s are refused, and left as they are', async (_name, statements) => {
    for (const statement of statements) await database.query(statement);
    await database.query("insert into tasks values ('kept')");
    await expect(openStore(database.url)).rejects.toThrow(REFUSAL);
    expect(await database.query('select id from tasks')).toEqual(['kept']);
  });
}

describe('libSQL', () => {
  let folder: string;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'schema-'));
  });
  afterEach(() => rm(folder, { recursive: true }));
  const url = () => `file:${join(folder, 'tasks.db')}`;

  behavesWith(async () => ({
    url: url(),
    async query(statement) {
      const client = createClient({ url: url() });
      const { rows } = await client.execute(statement);
      client.close();
      return rows.map((row) => String(row[0]));
    },
  }));

  test('two that start at the same time on an empty file make its tables once', async () => {
    const stores = await Promise.all([0, 1].map(() => openStore(url(), { exclusive: false })));
    for (const store of stores) {
      expect(await store.listKeys()).toHaveLength(1);
      await store.close();
    }
  });
});

describe.skipIf(!hasPostgres)(`PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  behavesWith(async () => {
    const { name, url } = await postgres.database();
    const lines = async (statement: string) => (await postgres.query(name, statement)).split('\n').filter(Boolean);
    return { url, query: lines };
  });
});
