import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../local/postgres.ts';
import { type ChaosOptions, chaos } from '../soak/chaos.ts';

const SEED = Number(process.env.CHAOS_SEED ?? 1);

/** The short form of `npm run soak -- chaos`. */
async function expectOrder(options: Partial<ChaosOptions>) {
  const report = await chaos({ seed: SEED, tasks: 8, kills: 3, ...options });
  expect(report.found, `seed ${SEED}\n${report.logs}`).toEqual([]);
  expect(report.tasks).toBe(8);
  const total = (counts: Record<string, number>) => Object.values(counts).reduce((sum, n) => sum + n, 0);
  expect(total(report.kills)).toBe(3);
  expect(total(report.faults)).toBeGreaterThan(10);
  expect(report.ends.succeeded).toBeGreaterThan(2);
}

test(`one API on libSQL, two workers, seed ${SEED}: killed and lied to, they bring every task to one end`, async () => {
  await expectOrder({});
}, 120_000);

describe.skipIf(!hasPostgres)(`on PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  test(`two APIs and two workers, seed ${SEED}: the same`, async () => {
    await expectOrder({ postgres });
  }, 120_000);
});
