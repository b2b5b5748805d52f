/** Runs tests of the store over each database. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe } from 'vitest';
import { openStore, type Store } from '../../api/store/store.ts';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';

export interface TestStores {
  /** empty before each test */
  store: Store;
  /** the same database, as another process has it; with libSQL, which one process uses alone, `store` again */
  other: Store;
  /** milliseconds that the stores' clock is ahead of the database's */
  ahead: number;
}

/** @param tests defines the tests; it gets an object whose fields are set before each of them */
export function forEachDatabase(tests: (stores: TestStores) => void): void {
  function withStores(openBoth: (clockSkew: () => number) => Promise<[Store, Store]>) {
    const stores = {} as TestStores;
    beforeEach(async () => {
      stores.ahead = 0;
      [stores.store, stores.other] = await openBoth(() => stores.ahead);
    });
    afterEach(async () => void (await Promise.allSettled([stores.store.close(), stores.other.close()])));
    tests(stores);
  }

  describe('libSQL', () => {
    let folder: string;
    withStores(async (clockSkew) => {
      folder = await mkdtemp(join(tmpdir(), 'store-'));
      const store = await openStore(`file:${folder}/tasks.db`, { clockSkew });
      return [store, store];
    });
    afterEach(() => rm(folder, { recursive: true }));
  });

  describe.skipIf(!hasPostgres)(`PostgreSQL${skipped}`, () => {
    let postgres: LocalPostgres;
    beforeAll(async () => {
      postgres = await startPostgres();
    });
    afterAll(() => postgres?.stop());
    withStores(async (clockSkew) => {
      const { url } = await postgres.database();
      return Promise.all([openStore(url, { clockSkew }), openStore(url, { clockSkew })]);
    });
  });
}
