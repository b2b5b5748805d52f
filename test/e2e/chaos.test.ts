import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { chaos } from '../soak/chaos.ts';

// The seed decides what befalls whom; what then happens first is up to the processes. Both kill a worker that is at the still, then an API:
// while it announces an end, or while it settles one. A prompt is paid for, and one is posted by who has not money enough for it.
const LIBSQL = 20;
const POSTGRES = 48;

/** The short form of `npm run soak -- chaos`. */
async function expectOrder(seed: number, postgres?: LocalPostgres) {
  const report = await chaos({ seed, tasks: 6, kills: 2, postgres });
  expect(report.found, report.logs).toEqual([]);
  expect(report.tasks).toBe(6);
  const total = (counts: Record<string, number>) => Object.values(counts).reduce((sum, n) => sum + n, 0);
  expect(total(report.kills)).toBe(2);
  expect(total(report.faults)).toBeGreaterThan(10);
  expect(report.ends.succeeded).toBeGreaterThan(2);
  expect(report.money.tight!.refused).toBeGreaterThan(0);
  expect(report.webhooks.heard).toBeGreaterThan(2);
}

test('one API on libSQL and two workers, killed and lied to, bring every task to one end, to the micro-unit, and leave no litter', async () => {
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
