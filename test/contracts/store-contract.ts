/** What the store must do over either database, as tests: each dialect's own test file calls this. */
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Store } from '../../api/store/store.ts';
import type { ListedTask, NewTask, Task } from '../../api/store/task.ts';
import { insertTask, newKey, newTask } from '../support/test-store.ts';

export interface Opened {
  store: Store;
  /** the same tasks, as another process has them; `store` again where one process alone may have them */
  other: Store;
  /** afterwards nothing of it is left */
  close: () => Promise<void>;
}

const LEASE = 60_000;
const MANY = { lease: LEASE, limit: 1000 };

/**
 * @param name of the dialect
 * @param open makes an empty store whose clock runs ahead by what `ahead` says, in milliseconds
 */
export function contract(name: string, open: (ahead: () => number) => Promise<Opened>, after = async () => {}) {
  describe(`${name}: what every store does`, () => {
    let store: Store;
    let other: Store;
    let close: () => Promise<void>;
    let ahead: number;
    beforeEach(async () => {
      ahead = 0;
      ({ store, other, close } = await open(() => ahead));
    });
    afterEach(() => close());
    afterAll(after);

    async function insert(changes: Partial<NewTask> = {}): Promise<Task> {
      const task = newTask(changes);
      await insertTask(store, task);
      return (await store.get(task.id))!;
    }
    const insertMany = async (count: number) => Promise.all(Array.from({ length: count }, () => insert()));
    const ids = (tasks: { id: string }[]) => tasks.map(({ id }) => id).sort();

    test('what is inserted is there, by id and by token, with numbers as numbers', async () => {
      const task = newTask({
        progress: 0.123456789,
        created_at: 1_795_551_510_174,
        submitted_at: 9_007_199_254_740_991,
        warnings: [{ field: 'H', message: '"quoted"' }],
        error: { code: 'lost', message: 'x', retryable: true },
        still: 'tasks/ü/still.png',
      });
      await insertTask(store, task);
      const got = (await other.get(task.id))!;
      expect(got).toMatchObject(task);
      expect(got).toMatchObject({ leased_until: 0, cost: null });
      expect(Math.abs(got.next_run_at - Date.now())).toBeLessThan(5000);
      expect(await other.findByCallbackToken(task.callback_token)).toEqual(got);
      expect(await other.getMany([task.id, 'none'])).toEqual([got]);
      expect(await other.getMany([])).toEqual([]);
    });

    test('what is not there is undefined, whatever it is called', async () => {
      for (const id of ['none', '', '\0', 'a\0b', "'; drop table tasks; --", 'ü', '\ud800', 'x'.repeat(10_000)]) {
        expect(await store.get(id)).toBeUndefined();
        expect(await store.findByCallbackToken(id)).toBeUndefined();
        expect(Array.isArray(await store.list({ owner: 'local', before: id, limit: 1 }))).toBe(true);
      }
    });

    test('an id or token is taken once', async () => {
      const task = await insert();
      await expect(insertTask(store, newTask({ id: task.id }))).rejects.toThrow();
      await expect(insertTask(store, newTask({ callback_token: task.callback_token }))).rejects.toThrow();
      expect(await store.get(task.id)).toEqual(task);
    });

    test('of one owner’s tasks with the same idempotency key the first is stored, for a day', async () => {
      const DAY = 86_400_000;
      const at = Date.now();
      const keyed = (changes: Partial<NewTask> = {}) =>
        newTask({ owner: 'a', idempotency_key: 'key', idempotency_hash: 'x', created_at: at, ...changes });
      const tasks = Array.from({ length: 12 }, () => keyed());
      const results = await Promise.all(tasks.map((task, i) => insertTask([store, other][i % 2]!, task)));
      const [first, ...more] = tasks.filter((_, i) => results[i]!.existing === undefined);
      expect(more).toEqual([]);
      const stored = (await store.get(first!.id))!;
      expect(results.map(({ existing }) => existing).filter(Boolean)).toEqual(Array(11).fill(stored));
      expect(await other.findByIdempotencyKey('a', 'key', at + DAY - 1)).toEqual(stored);
      expect(await other.findByIdempotencyKey('a', 'key', at + DAY)).toBeUndefined();
      expect(await other.findByIdempotencyKey('b', 'key', at)).toBeUndefined();
      expect(await other.findByIdempotencyKey('a', 'KEY', at)).toBeUndefined();

      for (const others of [
        { owner: 'b' },
        { idempotency_key: 'KEY' },
        { idempotency_key: null },
        { idempotency_key: null },
      ])
        expect((await insertTask(store, keyed(others))).existing).toBeUndefined();
      expect(await insertTask(other, keyed({ created_at: at + DAY - 1 }))).toEqual({ existing: stored });
      await expect(insertTask(store, keyed({ id: stored.id, idempotency_key: 'new' }))).rejects.toThrow();

      const late = Array.from({ length: 12 }, () => keyed({ created_at: at + DAY }));
      const again = await Promise.all(late.map((task, i) => insertTask([store, other][i % 2]!, task)));
      const [next, ...rest] = late.filter((_, i) => again[i]!.existing === undefined);
      expect(rest).toEqual([]);
      expect(await other.findByIdempotencyKey('a', 'key', at + DAY)).toMatchObject({ id: next!.id });
      expect(again.filter(({ existing }) => existing && existing.id !== next!.id)).toEqual([]);
      expect(await store.get(stored.id)).toEqual({ ...stored, idempotency_key: null, idempotency_hash: null });
    });

    test('of writes at once each has its own result or error', async () => {
      const tasks = Array.from({ length: 40 }, () => newTask());
      const results = await Promise.allSettled(
        tasks.flatMap((task, i) => [insertTask(store, task), ...(i % 4 === 0 ? [insertTask(store, task)] : [])]),
      );
      expect(results.filter(({ status }) => status === 'rejected')).toHaveLength(10);
      expect(ids(await other.list({ owner: 'local', limit: 100 }))).toEqual(ids(tasks));
      const changed = await Promise.all(
        tasks.map(async ({ id }, i) => store.update((await store.get(id))!, { progress: i / 40 })),
      );
      expect(changed.map((task) => task!.progress)).toEqual(tasks.map((_, i) => i / 40));
      expect(changed.map((task) => task!.id)).toEqual(tasks.map(({ id }) => id));
    });

    test('a change happens only to the version that was read', async () => {
      const task = await insert();
      const changed = await store.update(task, { status: 'running', progress: 0.5 });
      expect(changed).toEqual({ ...task, status: 'running', progress: 0.5, version: 2 });
      expect(await other.update(task, { progress: 1 })).toBeUndefined();
      expect(await store.get(task.id)).toEqual(changed);
      const many = await Promise.all(
        Array.from({ length: 8 }, (_, i) => [store, other][i % 2]!.update(changed!, { step: i })),
      );
      expect(many.filter(Boolean)).toHaveLength(1);
      expect((await store.get(task.id))!.version).toBe(3);
    });

    test('lists by key ranges, newest first, also while tasks are inserted', async () => {
      const tasks = await insertMany(60);
      const seen: ListedTask[] = [];
      for (let before: string | undefined; ; before = seen.at(-1)!.id) {
        const [page] = await Promise.all([other.list({ owner: 'local', before, limit: 7 }), insert()]);
        seen.push(...page);
        if (page.length < 7) break;
      }
      const listed = seen.map(({ id }) => id);
      expect(listed).toEqual([...new Set(listed)].sort().reverse());
      const old = new Set(tasks.map(({ id }) => id));
      expect(listed.filter((id) => old.has(id))).toHaveLength(60);
    });

    test('an owner’s tasks are found and listed for the owner alone', async () => {
      const mine = [await insert({ owner: 'a' }), await insert({ owner: 'a' })];
      const theirs = await insert({ owner: 'b' });
      const last = await insert({ owner: 'a' });
      expect(await other.getOwn('a', mine[0]!.id)).toEqual(mine[0]);
      expect(await other.getOwn('b', theirs.id)).toEqual(theirs);
      for (const [owner, id] of [
        ['a', theirs.id],
        ['b', last.id],
        ['', last.id],
        ['a', '\0'],
      ] as const)
        expect(await other.getOwn(owner, id)).toBeUndefined();
      const list = async (owner: string, more = {}) =>
        (await other.list({ owner, limit: 10, ...more })).map(({ id }) => id);
      expect(await list('a')).toEqual([last, ...mine.reverse()].map(({ id }) => id));
      expect(await list('a', { before: theirs.id })).toEqual(mine.map(({ id }) => id)); // another’s id opens nothing
      expect(await list('b', { before: last.id })).toEqual([theirs.id]);
      expect(await list('b', { from: last.id })).toEqual([]);
      expect(await list('c')).toEqual([]);
    });

    test('lists a range of ids, and one status', async () => {
      const tasks = await insertMany(9);
      const ids = tasks.map(({ id }) => id).sort();
      for (const id of ids.slice(3, 6)) await store.update((await store.get(id))!, { status: 'failed', nextRunIn: 0 });
      const list = async (more: object) =>
        (await other.list({ owner: 'local', limit: 10, ...more })).map(({ id }) => ids.indexOf(id));
      expect(await list({ from: ids[2], before: ids[5] })).toEqual([4, 3, 2]);
      expect(await list({ from: ids[5], before: ids[5] })).toEqual([]);
      expect(await list({ status: 'failed' })).toEqual([5, 4, 3]);
      expect(await list({ status: 'failed', from: ids[4] })).toEqual([5, 4]);
      expect(await list({ status: 'failed', before: ids[5], limit: 1 })).toEqual([4]);
      expect(await list({ status: 'queued', before: ids[4] })).toEqual([2, 1, 0]);
      expect(await list({ status: 'canceled' })).toEqual([]);
    });

    test('of many claimers each due task goes to exactly one', async () => {
      const tasks = await insertMany(100);
      const claimers = Array.from({ length: 8 }, async (_, i) => {
        const mine: Task[] = [];
        for (;;) {
          const claimed = await [store, other][i % 2]!.claimWaiting({ lease: LEASE, limit: 5 });
          if (claimed.length === 0) return mine;
          expect(claimed.length).toBeLessThanOrEqual(5);
          mine.push(...claimed);
        }
      });
      const claimed = (await Promise.all(claimers)).flat();
      expect(ids(claimed)).toEqual(ids(tasks));
      expect(claimed.every((task) => task.version === 2 && task.leased_until === task.next_run_at)).toBe(true);
    });

    test('of many who want one task one gets it', async () => {
      const task = await insert();
      const claims = await Promise.all([
        ...Array.from({ length: 8 }, (_, i) =>
          [store, other][i % 2]!.claim([task.id], { lease: LEASE, waiting: true }),
        ),
        store.claimWaiting(MANY),
        other.claimWaiting(MANY),
      ]);
      expect(claims.flat()).toHaveLength(1);
    });

    /** With a job, so that it does not wait for one. */
    async function insertOut(changes: Partial<NewTask> = {}): Promise<Task> {
      return insert({ job_id: 'job', ...changes });
    }

    test('a lease keeps others out until it is given back by a change, or by release', async () => {
      const { id } = await insertOut();
      const [task] = await store.claim([id], { lease: LEASE });
      ahead = LEASE - 5000;
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

    test('a lease that nobody gives back runs out, and who had it can change nothing any more', async () => {
      const { id } = await insert();
      const [dead] = await store.claimWaiting(MANY);
      ahead = LEASE + 5000;
      const [task] = await other.claimWaiting(MANY);
      expect(task).toMatchObject({ id, version: 3 });
      expect(await store.update(dead!, { job_id: 'late', nextRunIn: 0 })).toBeUndefined();
      await store.release(dead!);
      expect(await store.claimWaiting(MANY)).toEqual([]);
      expect(await other.update(task!, { job_id: 'job', nextRunIn: 0 })).toMatchObject({ job_id: 'job' });
    });

    test('a change by who has no lease leaves it, and makes itself known to who has', async () => {
      const { id } = await insertOut();
      const [task] = await store.claimDue(MANY);
      const changed = await other.update((await other.get(id))!, { progress: 0.5, runNow: true });
      expect(changed).toMatchObject({ leased_until: task!.leased_until });
      expect(changed!.next_run_at).toBeLessThan(task!.next_run_at);
      expect(await other.claimDue(MANY)).toEqual([]);
      expect(await store.update(task!, { stage: 'still', nextRunIn: 0 })).toBeUndefined();
      await store.release(task!);
      expect(await other.claim([id], { lease: LEASE })).toMatchObject([{ id, progress: 0.5 }]);
    });

    test('who waits for a job is taken by claimWaiting, and by claim only if that is asked for; all others by claimDue', async () => {
      const [waiting, out, ended] = [
        await insert(),
        await insertOut(),
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

    test('claimWaiting takes the first of each owner before the second of any', async () => {
      const of = (owner: string, count: number) => Array.from({ length: count }, () => insert({ owner }));
      await Promise.all(of('greedy', 30));
      await Promise.all([...of('b', 2), ...of('c', 1)]);
      const owners = (tasks: Task[]) => tasks.map(({ owner }) => owner).sort();
      const claim = { lease: LEASE, limit: 5 };
      expect(owners(await store.claimWaiting(claim))).toEqual(['b', 'b', 'c', 'greedy', 'greedy']);
      expect(owners(await other.claimWaiting(claim))).toEqual(Array(5).fill('greedy'));
    });

    test('claim with dueAfter takes only what is far off', async () => {
      const [soon, late] = [await insertOut(), await insertOut()];
      await store.update(soon, { nextRunIn: 1000 });
      await store.update(late, { nextRunIn: 20_000 });
      const both = [soon.id, late.id];
      expect(ids(await store.claim(both, { lease: LEASE, dueAfter: 5000 }))).toEqual([late.id]);
      expect(ids(await store.claim(both, { lease: LEASE }))).toEqual([soon.id]);
      expect(await store.claim([], { lease: LEASE })).toEqual([]);
    });

    test('tells how long it is until the next is due, and how many jobs are out', async () => {
      expect(await store.nextDue()).toEqual({ waiting: undefined, due: undefined, out: 0 });
      await store.update(await insert(), { nextRunIn: 90_000 });
      await store.update(await insert(), { nextRunIn: 30_000 });
      const out = [await insertOut(), await insertOut()];
      await store.update(out[0]!, { nextRunIn: 50_000 });
      await store.update(out[1]!, { nextRunIn: 60_000 });
      const ended = (await store.update(await insert(), { status: 'failed', finished_at: 1, nextRunIn: 40_000 }))!;
      const near = (wait: number | undefined, expected: number) =>
        expect(Math.abs(wait! - expected)).toBeLessThan(9000);
      const first = await other.nextDue();
      near(first.waiting, 30_000);
      near(first.due, 40_000);
      expect(first.out).toBe(2);
      await store.update(ended, { nextRunIn: null }); // nothing is left to do
      near((await other.nextDue()).due, 50_000);
      ahead = 59_000;
      expect(await other.nextDue()).toMatchObject({ waiting: expect.toSatisfy((wait: number) => wait < 0) });
      expect(ids(await other.claimDue(MANY))).toEqual([out[0]!.id]);
    });

    test('counts what is open, of all owners', async () => {
      expect(await store.countActive()).toEqual({ queued: 0, running: 0, out: 0, oldest: undefined });
      const [first, second] = [
        await insert({ created_at: 5000, owner: 'a' }),
        await insert({ created_at: 7000, owner: 'b' }),
      ];
      const third = await insert({ status: 'running', created_at: 6000 }); // its job was lost
      await insert({ created_at: 1000, job_id: 'out' });
      await insert({ status: 'running', created_at: 2000, job_id: 'also out' });
      await insert({ status: 'canceled', created_at: 3000, finished_at: 4000 });
      await insert({ status: 'succeeded', created_at: 3000, finished_at: 4000, job_id: 'done' });
      expect(await other.countActive()).toEqual({ queued: 3, running: 2, out: 2, oldest: 5000 });
      await store.update(first, { job_id: 'new' });
      expect(await other.countActive()).toEqual({ queued: 3, running: 2, out: 3, oldest: 6000 });
      await store.update(second, { status: 'failed', finished_at: 8000 });
      await store.update(third, { status: 'failed', finished_at: 8000 });
      expect(await other.countActive()).toEqual({ queued: 2, running: 1, out: 3, oldest: undefined });
    });

    test('whose files are kept too long by now is due at once', async () => {
      const DAY = 86_400_000;
      const ended = (finished_at: number, more = {}) => insert({ status: 'failed', finished_at, ...more });
      const tasks = [
        await ended(DAY),
        await ended(3 * DAY),
        await ended(DAY, { expired_at: 2 * DAY }),
        await insertOut(),
      ];
      for (const task of tasks) await store.update(task, { nextRunIn: 30 * DAY });
      await store.rescheduleExpiry(2 * DAY, 4 * DAY);
      expect(ids(await store.claimDue(MANY))).toEqual([tasks[0]!.id]);
    });

    describe('keys and money', () => {
      const NOV = Date.parse('2026-11-30T23:59:59Z');
      const DEC = Date.parse('2026-12-01T00:00:00Z');
      const end = { status: 'succeeded', nextRunIn: 0 } as const;
      const cost = (amount: number, gpu_seconds = 0) => ({ amount, currency: 'USD', gpu_seconds, stills: 1 });
      const output = {} as never;
      /** Stores a task that is reserved an amount for. */
      const order = async (amount: number, now = NOV, at = store) => {
        const task = newTask({ owner: 'k' });
        const { refused } = await insertTask(at, task, { amount, now });
        return { refused, task: (await store.get(task.id))! };
      };
      const account = async () => {
        const { month, spent, reserved, active_tasks } = (await other.getKey('k'))!;
        return { month, spent, reserved, active_tasks };
      };

      test('a key is added once, found, changed; the one of this machine is always there', async () => {
        expect(await store.hasKeys()).toBe(false);
        expect(await store.getKey('local')).toMatchObject({
          hash: null,
          budget: null,
          scopes: ['submit', 'read', 'admin'],
        });
        const key = newKey({ id: 'k', hash: 'x', budget: 9_007_199_254_740_991 });
        const added = await Promise.all([store, other, store].map((one, i) => one.addKey({ ...key, name: String(i) })));
        expect(added.filter(Boolean)).toHaveLength(1);
        expect(await store.hasKeys()).toBe(true);
        const fresh = { ...key, name: String(added.indexOf(true)), month: '', spent: 0, reserved: 0, active_tasks: 0 };
        expect(await other.getKey('k')).toEqual({ ...fresh, submissions_at: 0 });
        expect(await store.updateKey('k', { scopes: ['admin'], revoked_at: 5 })).toMatchObject({ revoked_at: 5 });
        expect(await other.getKey('k')).toMatchObject({ scopes: ['admin'], name: fresh.name });
        expect(await store.updateKey('none', { revoked_at: 5 })).toBeUndefined();
        expect(await store.getKey('none')).toBeUndefined();
        expect((await other.listKeys()).map(({ id }) => id).sort()).toEqual(['k', 'local']);
      });

      test('of many at once as many are taken as the budget holds, and of the others nothing is left', async () => {
        await store.addKey(newKey({ id: 'k', budget: 1000 }));
        const orders = await Promise.all(Array.from({ length: 50 }, (_, i) => order(100, NOV, [store, other][i % 2])));
        expect(orders.filter(({ refused }) => refused === undefined)).toHaveLength(10);
        expect(orders.filter(({ refused }) => refused === 'budget')).toHaveLength(40);
        expect(orders.filter(({ task }) => task !== undefined)).toHaveLength(10);
        expect(await account()).toEqual({ month: '2026-11', spent: 0, reserved: 1000, active_tasks: 10 });
        expect((await order(1)).refused).toBe('budget');
        expect((await order(0)).refused).toBeUndefined();
      });

      test('an end settles a task once: what was reserved is free again, and what it cost is spent', async () => {
        await store.addKey(newKey({ id: 'k', budget: 1000 }));
        const [a, b] = [await order(600), await order(400)];
        expect((await order(1)).refused).toBe('budget');
        const ended = { ...end, output, cost: cost(250, 2.5), finished_at: NOV };
        const ends = await Promise.all([store, other, store].map((one) => one.update(a.task, ended)));
        expect(ends.filter(Boolean)).toHaveLength(1);
        expect(ends.find(Boolean)!.cost).toEqual(cost(250, 2.5));
        expect(await account()).toEqual({ month: '2026-11', spent: 250, reserved: 400, active_tasks: 1 });
        await store.update((await store.get(a.task.id))!, { expired_at: 1 }); // no further end
        await store.update(b.task, { status: 'canceled', finished_at: NOV, nextRunIn: 0 }); // free
        expect(await account()).toEqual({ month: '2026-11', spent: 250, reserved: 0, active_tasks: 0 });
        expect([(await order(750)).refused, (await order(1)).refused]).toEqual([undefined, 'budget']);
        expect(await store.getUsage('k', '2026-11-01', '2026-11-30')).toEqual([
          { day: '2026-11-30', status: 'canceled', tasks: 1, amount: 0, gpu_time: 0, stills: 0 },
          { day: '2026-11-30', status: 'succeeded', tasks: 1, amount: 250, gpu_time: 2500, stills: 1 },
        ]);
        expect(await store.getUsage('another', '2026-11-01', '2026-11-30')).toEqual([]);
        expect(await store.getUsage('k', '2026-12-01', '2026-12-31')).toEqual([]);
      });

      test('a month begins with nothing spent; what is reserved stays so, and counts where it ends', async () => {
        await store.addKey(newKey({ id: 'k', budget: 1000 }));
        const [a, b] = [await order(500), await order(500)];
        await store.update(a.task, { ...end, cost: cost(500), finished_at: NOV });
        expect((await order(1)).refused).toBe('budget');
        expect((await order(501, DEC)).refused).toBe('budget');
        expect((await order(500, DEC)).refused).toBeUndefined();
        expect(await account()).toEqual({ month: '2026-12', spent: 0, reserved: 1000, active_tasks: 2 });
        await store.update(b.task, { ...end, cost: cost(300), finished_at: NOV }); // by a clock that is behind
        expect(await account()).toEqual({ month: '2026-12', spent: 300, reserved: 500, active_tasks: 1 });
        expect((await order(200, NOV)).refused).toBeUndefined();
        expect((await order(1, NOV)).refused).toBe('budget');
      });

      test('open tasks and submissions have their limits, and what is refused counts for nothing', async () => {
        await store.addKey(newKey({ id: 'k' }));
        const submissions = { interval: 6000, window: 60_000 };
        const submit = async (now: number, maxActive = 100) =>
          (await insertTask(store, newTask({ owner: 'k' }), { now, maxActive, submissions })).refused;
        const many = async (now: number) => Promise.all(Array.from({ length: 30 }, () => submit(now)));
        expect((await many(NOV)).filter((refused) => refused === undefined)).toHaveLength(10);
        expect(await submit(NOV + 5999)).toBe('rate');
        expect(await submit(NOV + 6000)).toBeUndefined();
        expect(await submit(NOV + 6000)).toBe('rate');
        expect(await submit(NOV + 12_000, 11)).toBe('active');
        expect(await submit(NOV + 12_000, 12)).toBeUndefined(); // the refused one had taken nothing
        expect((await many(NOV + 200_000)).filter((refused) => refused === undefined)).toHaveLength(10);
      });

      test('a repeat is found, not refused, also when there is no budget left for it', async () => {
        await store.addKey(newKey({ id: 'k', budget: 100 }));
        const keyed = () => newTask({ owner: 'k', idempotency_key: 'once', idempotency_hash: 'x' });
        const each = Array.from({ length: 12 }, (_, i) => insertTask([store, other][i % 2]!, keyed(), { amount: 100 }));
        const results = await Promise.all(each);
        expect(results.filter(({ existing }) => existing)).toHaveLength(11);
        expect(results.filter(({ refused }) => refused)).toHaveLength(0);
        expect(await account()).toMatchObject({ reserved: 100, active_tasks: 1 });
      });

      test('the latest results tell how long a GPU took', async () => {
        for (const [i, gpu] of [1, 2, 3].entries()) {
          const { task } = await order(0);
          await store.update(task, { ...end, output, cost: cost(0, gpu), finished_at: NOV + i });
        }
        const { task } = await order(0);
        await store.update(task, { status: 'failed', cost: cost(0, 0), finished_at: NOV + 9, nextRunIn: 0 });
        expect(await other.listGpuTimes('camera', 2)).toEqual([
          { took: 3000, expected: 1000 },
          { took: 2000, expected: 1000 },
        ]);
        expect(await other.listGpuTimes('svd', 2)).toEqual([]);
      });
    });

    describe('the outbox', () => {
      const URL = 'https://example.com/hook';
      /** A task that has ended, and its delivery. */
      async function announced(url = URL) {
        const task = await insert({ input: { webhook_url: url } as never });
        expect(await store.update(task, { status: 'failed', finished_at: 7, nextRunIn: 0 })).toBeDefined();
        expect(await store.update(task, { status: 'canceled', finished_at: 8, nextRunIn: 0 })).toBeUndefined();
        const [delivery, ...more] = await other.listDeliveries({ owner: 'local', task: task.id, limit: 9 });
        expect(more).toEqual([]);
        return delivery!;
      }
      const attempt = { attempted_at: 1, status_code: 500, error: null, delivered_at: null };
      const claim = (at = store, except: string[] = []) => at.claimDeliveries({ ...MANY, except });

      test('an end puts one announcement into it, which is due, taken by one, and put off', async () => {
        expect(await store.nextDeliveryDue([])).toBeUndefined();
        const made = [];
        for (let i = 0; i < 20; i++) made.push(await announced());
        const { task_id, next_attempt_at, id } = made[0]!;
        const status = { status: 'pending', attempts: 0, attempted_at: null, status_code: null, error: null };
        const facts = { owner: 'local', type: 'task.failed', url: URL, created_at: 7, delivered_at: null };
        expect(made[0]).toEqual({ ...facts, ...status, id, task_id, next_attempt_at });
        expect(await other.nextDeliveryDue([])).toBeLessThanOrEqual(0);
        expect(await other.nextDeliveryDue(['local'])).toBeUndefined();
        expect(await claim(store, ['local', 'a'])).toEqual([]);
        const claims = await Promise.all(
          Array.from({ length: 8 }, (_, i) =>
            [store, other][i % 2]!.claimDeliveries({ lease: LEASE, limit: 4, except: ['a'] }),
          ),
        );
        expect(claims.every((claimed) => claimed.length <= 4)).toBe(true);
        claims.push(await claim());
        expect(ids(claims.flat())).toEqual(ids(made));
        for (const one of made.slice(1))
          await store.recordAttempt(one, { ...attempt, status: 'delivered', attempts: 1, nextAttemptIn: null });
        await store.recordAttempt(made[0]!, { ...attempt, status: 'pending', attempts: 1, nextAttemptIn: 5 * LEASE });
        await store.recordAttempt(made[0]!, { ...attempt, status: 'failed', attempts: 1, nextAttemptIn: null }); // somebody was sooner
        ahead = 2 * LEASE;
        expect(await claim(other)).toEqual([]);
        ahead = 6 * LEASE;
        expect(await claim(other)).toMatchObject([{ id, attempts: 1, status_code: 500 }]);
      });

      test('a task without webhook_url is announced to nobody', async () => {
        const task = await insert({ input: {} as never });
        await store.update(task, { status: 'failed', finished_at: 7, nextRunIn: 0 });
        expect(await store.listDeliveries({ owner: 'local', limit: 9 })).toEqual([]);
      });

      test('they are listed by owner, status and task, newest first', async () => {
        const made = [await announced(), await announced(), await announced()].reverse();
        await store.recordAttempt(made[1]!, { ...attempt, status: 'failed', attempts: 1, nextAttemptIn: null });
        const list = async (by: object) => ids(await other.listDeliveries({ owner: 'local', limit: 9, ...by }));
        expect((await other.listDeliveries({ owner: 'local', limit: 2 })).map(({ id }) => id)).toEqual([
          made[0]!.id,
          made[1]!.id,
        ]);
        expect(await list({ before: made[0]!.id })).toEqual(ids(made.slice(1)));
        expect(await list({ status: 'failed' })).toEqual([made[1]!.id]);
        expect(await list({ task: made[2]!.task_id })).toEqual([made[2]!.id]);
        expect(await list({ owner: 'another' })).toEqual([]);
        expect(await other.getDelivery('local', made[1]!.id)).toMatchObject({ status: 'failed' });
        expect(await other.getDelivery('another', made[1]!.id)).toBeUndefined();
      });

      test('a receiver that is gone hears nothing more until it is wanted again', async () => {
        const [a, b, elsewhere] = [await announced(), await announced(), await announced(`${URL}2`)];
        await Promise.all([store.disableWebhook('local', URL), other.disableWebhook('local', URL)]);
        const late = await announced();
        for (const { id } of [a, b, late])
          expect(await other.getDelivery('local', id)).toMatchObject({ status: 'disabled', next_attempt_at: null });
        expect(ids(await claim())).toEqual([elsewhere.id]);
        expect([await other.isWebhookDisabled('local', URL), await other.isWebhookDisabled('another', URL)]).toEqual([
          true,
          false,
        ]);
        await store.enableWebhook('local', URL);
        expect(await other.isWebhookDisabled('local', URL)).toBe(false);
        expect(await store.resetDelivery(late)).toMatchObject({ id: late.id, status: 'pending', attempts: 0 });
        expect(ids(await claim(other))).toEqual([late.id]);
      });

      test('what is due at an overloaded receiver waits, and nothing comes sooner by that', async () => {
        const [a, b, elsewhere] = [await announced(), await announced(), await announced(`${URL}2`)];
        await store.recordAttempt(b, { ...attempt, status: 'pending', attempts: 1, nextAttemptIn: 9 * LEASE });
        await store.postponeWebhook('local', URL, 2 * LEASE);
        expect(ids(await claim())).toEqual([elsewhere.id]);
        ahead = 3 * LEASE;
        expect(ids(await claim())).toEqual(ids([a, elsewhere]));
      });
    });

    test('check', async () => {
      await store.check();
      await store.close();
      await expect(store.check()).rejects.toThrow();
    });
  });
}
