/** Leases of tasks, over each database. */
import { beforeEach, expect, test, vi } from 'vitest';

import { DAY } from '../../core/time.ts';
import { forEachDatabase } from '../../test/support/each-database.ts';
import { ids, insertAndGet } from '../../test/support/test-store.ts';
import type { Store } from './store.ts';
import type { NewTask, Task } from './task.ts';

const LEASE = 60_000;
const MANY = { lease: LEASE, limit: 1000, free: 1e6, share: 1 };

forEachDatabase((stores) => {
  let store: Store;
  let other: Store;
  beforeEach(() => {
    ({ store, other } = stores);
  });
  const insert = (changes: Partial<NewTask> = {}) => insertAndGet(store, changes);
  const insertMany = async (count: number) => Promise.all(Array.from({ length: count }, () => insert()));
  /** With a job, so that it does not wait for one. */
  const insertSubmitted = (changes: Partial<NewTask> = {}) => insert({ job_id: 'job', ...changes });

  test('of many concurrent claimers exactly one gets each due task', async () => {
    const tasks = await insertMany(100);
    const claimers = Array.from({ length: 8 }, async (_, i) => {
      const mine: Task[] = [];
      for (;;) {
        const claimed = await [store, other][i % 2]!.claimWaiting({ ...MANY, limit: 5 });
        if (claimed.length === 0) return mine;
        expect(claimed.length).toBeLessThanOrEqual(5);
        mine.push(...claimed);
      }
    });
    const claimed = (await Promise.all(claimers)).flat();
    expect(ids(claimed)).toEqual(ids(tasks));
    expect(claimed.every((task) => task.version === 2 && task.leased_until === task.next_run_at)).toBe(true);
  });

  test('of many concurrent claims of one task exactly one succeeds', async () => {
    const task = await insert();
    const claims = await Promise.all([
      ...Array.from({ length: 8 }, (_, i) => [store, other][i % 2]!.claim([task.id], { lease: LEASE, waiting: true })),
      store.claimWaiting(MANY),
      other.claimWaiting(MANY),
    ]);
    expect(claims.flat()).toHaveLength(1);
  });
  test('a claimed task runs next when its lease expires, even if the clock ticks during the claim', async () => {
    const { id } = await insert();
    const { id: submitted } = await insertSubmitted();
    let ticks = 0;
    const now = Date.now;
    const clock = vi.spyOn(Date, 'now').mockImplementation(() => now() + ticks++);
    const claimed = [
      ...(await store.claimWaiting(MANY)),
      ...(await store.claimDue(MANY)),
      ...(await store.claim([(await insert()).id], { lease: LEASE, waiting: true })),
    ];
    clock.mockRestore();
    expect(ids(claimed)).toEqual(expect.arrayContaining([id, submitted]));
    for (const task of claimed) expect(task.leased_until).toBe(task.next_run_at);
  });
  test('a lease excludes others until an update or a release ends it', async () => {
    const { id } = await insertSubmitted();
    const [task] = await store.claim([id], { lease: LEASE });
    stores.ahead = LEASE - 5000;
    expect([await other.claimDue(MANY), await other.claim([id], { lease: LEASE })]).toEqual([[], []]);
    const changed = (await store.update(task!, { nextRunIn: 5000 }))!;
    expect(changed).toMatchObject({ leased_until: 0, version: 3 });
    expect(await other.claimDue(MANY)).toEqual([]); // free, but not due
    const [again] = await other.claim([id], { lease: LEASE });
    expect(again).toMatchObject({ id, version: 4 });
    await store.release(task!); // of a lease that was given back: nothing
    expect(await store.claim([id], { lease: LEASE })).toEqual([]);
    await other.release(again!);
    expect(ids(await store.claimDue(MANY))).toEqual([id]);
  });

  test('a lease expires, and its former holder can change nothing', async () => {
    const { id } = await insert();
    const [dead] = await store.claimWaiting(MANY);
    stores.ahead = LEASE + 5000;
    const [task] = await other.claimWaiting(MANY);
    expect(task).toMatchObject({ id, version: 3 });
    expect(await store.update(dead!, { job_id: 'late', nextRunIn: 0 })).toBeUndefined();
    await store.release(dead!);
    expect(await store.claimWaiting(MANY)).toEqual([]);
    expect(await other.update(task!, { job_id: 'job', nextRunIn: 0 })).toMatchObject({ job_id: 'job' });
  });

  test('an update by another process keeps the lease, and makes the holder’s update fail', async () => {
    const { id } = await insertSubmitted();
    const [task] = await store.claimDue(MANY);
    const changed = await other.update((await other.get(id))!, { progress: 0.5, runNow: true });
    expect(changed).toMatchObject({ leased_until: task!.leased_until, next_run_at: task!.leased_until });
    expect(await other.claimDue(MANY)).toEqual([]);
    expect(await store.update(task!, { stage: 'still', nextRunIn: 0 })).toBeUndefined();
    await store.release(task!);
    expect(await other.claim([id], { lease: LEASE })).toMatchObject([{ id, progress: 0.5 }]);
  });

  test('claimWaiting leases only tasks that wait for a job, claimDue only others, and claim both if told to', async () => {
    const [waiting, out, ended] = [
      await insert(),
      await insertSubmitted(),
      await insert({ status: 'canceled', finished_at: 1 }),
    ];
    const all = [waiting.id, out.id, ended.id];
    const taken = async (claimed: Promise<Task[]>) => {
      const tasks = await claimed;
      for (const task of tasks) await store.release(task);
      return ids(tasks);
    };
    expect(await taken(store.claimDue(MANY))).toEqual([out.id, ended.id]);
    expect(await taken(store.claimWaiting(MANY))).toEqual([waiting.id]);
    expect(await taken(store.claim(all, { lease: LEASE }))).toEqual([out.id, ended.id]);
    expect(await taken(store.claim(all, { lease: LEASE, waiting: true }))).toEqual(all);
  });

  test('a task whose row can’t be read blocks the claim of no other task, and is logged once a lease', async () => {
    const waiting = [await insert(), await insert()];
    const submitted = [await insertSubmitted(), await insertSubmitted()];
    await stores.execute(`update tasks set input = '{' where id in ('${waiting[0]!.id}', '${submitted[0]!.id}')`);
    for (let i = 0; i < 2; i++) {
      const claimed = [...(await store.claimWaiting(MANY)), ...(await other.claimDue(MANY))];
      expect(ids(claimed)).toEqual(i === 0 ? ids([waiting[1]!, submitted[1]!]) : []);
    }
    expect(stores.logged).toEqual(Array(2).fill('the row of a task can’t be read; it is skipped'));
  });

  test('claimWaiting leases the first task of each owner before the second of any', async () => {
    const of = (owner: string, count: number) => Array.from({ length: count }, () => insert({ owner }));
    await Promise.all(of('greedy', 30));
    await Promise.all([...of('b', 2), ...of('c', 1)]);
    const owners = (tasks: Task[]) => tasks.map(({ owner }) => owner).sort();
    const claim = { ...MANY, limit: 5 };
    expect(owners(await store.claimWaiting(claim))).toEqual(['b', 'b', 'c', 'greedy', 'greedy']);
    expect(owners(await other.claimWaiting(claim))).toEqual(Array(5).fill('greedy'));
  });

  test('claimWaiting keeps places for owners who have none under way, also while jobs are submitted', async () => {
    const of = (owner: string, count: number) => Promise.all(Array.from({ length: count }, () => insert({ owner })));
    await of('greedy', 120);
    const places = async () => ({ ...MANY, limit: 50, share: 9, free: 100 - (await store.nextDue()).out });
    const claimAll = async () => {
      const claimed: Task[] = [];
      for (;;) {
        const some = await other.claimWaiting(await places());
        if (some.length === 0) return claimed;
        claimed.push(...some);
      }
    };
    const first = await claimAll();
    expect(first).toHaveLength(90);
    for (const task of first.slice(0, 50)) await store.update(task, { job_id: task.id, nextRunIn: LEASE });
    expect(await claimAll()).toEqual([]);
    await of('late', 9);
    await of('later', 1);
    const owners = (await claimAll()).map(({ owner }) => owner).sort();
    expect(owners).toEqual([...Array(owners.length - 1).fill('late'), 'later']);
    expect(owners.length).toBeGreaterThan(5);
  });

  test('claim with dueAfter leases only tasks that are due later', async () => {
    const [soon, late] = [await insertSubmitted(), await insertSubmitted()];
    await store.update(soon, { nextRunIn: 1000 });
    await store.update(late, { nextRunIn: 20_000 });
    const both = [soon.id, late.id];
    expect(ids(await store.claim(both, { lease: LEASE, dueAfter: 5000 }))).toEqual([late.id]);
    expect(ids(await store.claim(both, { lease: LEASE }))).toEqual([soon.id]);
    expect(await store.claim([], { lease: LEASE })).toEqual([]);
  });

  test('what was scheduled while a clock was years ahead becomes due, and nothing else', async () => {
    const ended = () => insertSubmitted({ status: 'failed', finished_at: 1 });
    stores.ahead = 3650 * DAY;
    const waiting = await insert();
    const [leased, expiring, finished] = [await insertSubmitted(), await ended(), await ended()];
    await store.claim([leased.id], { lease: LEASE });
    await store.update(expiring, { nextRunIn: 30 * DAY });
    await store.update(finished, { nextRunIn: null });
    stores.ahead = 0;
    await store.update(await ended(), { nextRunIn: 30 * DAY });
    await store.update(await insertSubmitted(), { nextRunIn: LEASE });
    expect([await other.claimDue(MANY), await other.claimWaiting(MANY)]).toEqual([[], []]);
    await other.rescheduleFarTasks(30 * DAY);
    expect(ids(await other.claimDue(MANY))).toEqual(ids([leased, expiring]));
    expect(ids(await other.claimWaiting(MANY))).toEqual([waiting.id]);
  });

  test('nextDue tells the time until the next task is due, and the number of jobs at RunPod', async () => {
    expect(await store.nextDue()).toEqual({ waiting: undefined, due: undefined, out: 0 });
    await store.update(await insert(), { nextRunIn: 90_000 });
    await store.update(await insert(), { nextRunIn: 30_000 });
    const out = [await insertSubmitted(), await insertSubmitted()];
    await store.update(out[0]!, { nextRunIn: 50_000 });
    await store.update(out[1]!, { nextRunIn: 60_000 });
    const ended = (await store.update(await insert(), { status: 'failed', finished_at: 1, nextRunIn: 40_000 }))!;
    const near = (wait: number | undefined, expected: number) => expect(Math.abs(wait! - expected)).toBeLessThan(9000);
    const first = await other.nextDue();
    near(first.waiting, 30_000);
    near(first.due, 40_000);
    expect(first.out).toBe(2);
    await store.update(ended, { nextRunIn: null }); // nothing is left to do
    near((await other.nextDue()).due, 50_000);
    stores.ahead = 59_000;
    expect(await other.nextDue()).toMatchObject({ waiting: expect.toSatisfy((wait: number) => wait < 0) });
    expect(ids(await other.claimDue(MANY))).toEqual([out[0]!.id]);
  });
});
