import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../local/postgres.ts';
import { chaos } from '../soak/chaos.ts';

// The seed decides what befalls whom; what then happens first is up to the processes. Both begin with a worker, then an API.
const LIBSQL = 43;
const POSTGRES = 10;

/** The short form of `npm run soak -- chaos`. */
async function expectOrder(seed: number, postgres?: LocalPostgres) {
  const report = await chaos({ seed, tasks: 6, kills: 2, postgres });
  expect(report.found, report.logs).toEqual([]);
  expect(report.tasks).toBe(6);
  const total = (counts: Record<string, number>) => Object.values(counts).reduce((sum, n) => sum + n, 0);
  expect(total(report.kills)).toBe(2);
  expect(total(report.faults)).toBeGreaterThan(10);
  expect(report.ends.succeeded).toBeGreaterThan(2);
}

test('one API on libSQL and two workers, killed and lied to, bring every task to one end and leave no litter', async () => {
  await expectOrder(LIBSQL);
}, 120_000);

describe.skipIf(!hasPostgres)(`on PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  test('two APIs and two workers do', async () => {
    await expectOrder(POSTGRES, postgres);
  }, 120_000);
});
