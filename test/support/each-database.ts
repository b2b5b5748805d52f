/** Runs tests of the store over each database. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createClient } from '@libsql/client';
import { afterAll, afterEach, beforeAll, beforeEach, describe } from 'vitest';
import { openStore, type Store, type StoreOptions } from '../../api/store/store.ts';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';

export interface TestStores {
  /** empty before each test */
  store: Store;
  /** the same database, as another process has it; with libSQL, which one process uses alone, `store` again */
  other: Store;
  /** milliseconds that the stores' clock is ahead of the database's */
  ahead: number;
  /** messages that the stores have logged */
  logged: string[];
  /** executes a statement on the database itself */
  execute(statement: string): Promise<unknown>;
}

/** @param tests defines the tests; it gets an object whose fields are set before each of them */
export function forEachDatabase(tests: (stores: TestStores) => void): void {
  function withStores(openBoth: (options: StoreOptions) => Promise<[Store, Store, TestStores['execute']]>) {
    const stores = {} as TestStores;
    const log = { error: (_: object, message: string) => void stores.logged.push(message) };
    beforeEach(async () => {
      stores.ahead = 0;
      stores.logged = [];
      [stores.store, stores.other, stores.execute] = await openBoth({ clockSkew: () => stores.ahead, log });
    });
    afterEach(async () => void (await Promise.allSettled([stores.store.close(), stores.other.close()])));
    tests(stores);
  }

  describe('libSQL', () => {
    let folder: string;
    withStores(async (options) => {
      folder = await mkdtemp(join(tmpdir(), 'store-'));
      const url = `file:${folder}/tasks.db`;
      const store = await openStore(url, options);
      return [store, store, (statement) => createClient({ url }).execute(statement)];
    });
    afterEach(() => rm(folder, { recursive: true }));
  });

  describe.skipIf(!hasPostgres)(`PostgreSQL${skipped}`, () => {
    let postgres: LocalPostgres;
    beforeAll(async () => {
      postgres = await startPostgres();
    });
    afterAll(() => postgres?.stop());
    withStores(async (options) => {
      const { name, url } = await postgres.database();
      const stores = await Promise.all([openStore(url, options), openStore(url, options)]);
      return [...stores, (statement) => postgres.query(name, statement)];
    });
  });
}
