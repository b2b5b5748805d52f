/** Keys, their accounts and the ledger, over each database. */
import { beforeEach, expect, test } from 'vitest';

import { forEachDatabase } from '../../test/support/each-database.ts';
import { insertTask, newKey, newTask, UNLIMITED } from '../../test/support/test-store.ts';
import { refusalOf, withTask } from './key.ts';
import type { Store } from './store.ts';

forEachDatabase((stores) => {
  let store: Store;
  let other: Store;
  beforeEach(() => {
    ({ store, other } = stores);
  });

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

  test('a key is added once, found and changed; the key of this machine always exists', async () => {
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
    const account = { month: '', spent: 0, reserved: 0, active_tasks: 0, upload_bytes: 0, submissions_at: 0 };
    const limits = { max_active: null, submissions_per_minute: null, requests_per_minute: null };
    const old = { old_hash: null, old_until: null, old_webhook_secret: null, old_webhook_until: null };
    const fresh = { ...key, name: String(added.indexOf(true)), ...account, ...limits, ...old, revoked_at: null };
    expect(await other.getKey('k')).toEqual(fresh);
    expect(await store.updateKey('k', { scopes: ['admin'], revoked_at: 5 })).toMatchObject({ revoked_at: 5 });
    expect(await other.getKey('k')).toMatchObject({ scopes: ['admin'], name: fresh.name });
    expect(await store.updateKey('none', { revoked_at: 5 })).toBeUndefined();
    expect(await store.getKey('none')).toBeUndefined();
    expect((await other.listKeys()).map(({ id }) => id).sort()).toEqual(['k', 'local']);
  });

  test('of many concurrent tasks only those within the budget are stored, and the others leave no trace', async () => {
    await store.addKey(newKey({ id: 'k', budget: 1000 }));
    const orders = await Promise.all(Array.from({ length: 50 }, (_, i) => order(100, NOV, [store, other][i % 2])));
    expect(orders.filter(({ refused }) => refused === undefined)).toHaveLength(10);
    expect(orders.filter(({ refused }) => refused === 'budget')).toHaveLength(40);
    expect(orders.filter(({ task }) => task !== undefined)).toHaveLength(10);
    expect(await account()).toEqual({ month: '2026-11', spent: 0, reserved: 1000, active_tasks: 10 });
    expect((await order(1)).refused).toBe('budget');
    expect((await order(0)).refused).toBeUndefined();
  });

  test('of many concurrent uploads only those within the limit are stored, and the end of a task releases its bytes', async () => {
    await store.addKey(newKey({ id: 'k' }));
    const order = async (at: typeof store, uploadBytes = 300) => {
      const task = newTask({ owner: 'k', image_key: 'upload' });
      await at.addUpload(task.id, 5);
      const { refused } = await at.insert(task, { ...UNLIMITED, now: NOV, uploadBytes, maxUploadBytes: 1000 });
      return { id: task.id, refused };
    };
    const orders = await Promise.all(Array.from({ length: 10 }, (_, i) => order([store, other][i % 2]!)));
    const [stored, refused] = [undefined, 'uploads'].map((reason) =>
      orders.filter(({ refused }) => refused === reason),
    );
    expect([stored!.length, refused!.length]).toEqual([3, 7]);
    const ids = refused!.map(({ id }) => id).sort();
    expect((await other.listUploads(6)).sort()).toEqual(ids); // a stored task has no record any more
    expect(await store.listUploads(5)).toEqual([]);
    for (const id of ids) await store.removeUpload(id);
    expect(await other.listUploads(6)).toEqual([]);
    expect((await order(store, 0)).refused).toBeUndefined();
    expect((await store.getKey('k'))!.upload_bytes).toBe(900);
    const task = (await store.get(stored![0]!.id))!;
    await store.update(task, { status: 'canceled', finished_at: NOV, nextRunIn: 0 });
    expect((await other.getKey('k'))!.upload_bytes).toBe(600);
    expect((await order(other)).refused).toBeUndefined();
  });

  test('the end of a task settles it once: its reservation is released and its cost is spent', async () => {
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

  test('a new month starts with nothing spent; a reservation stays, and counts for the month of the end', async () => {
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

  test('active tasks and submissions have limits, and a refused task does not count', async () => {
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

  test('a retry gets the existing task, also without budget', async () => {
    await store.addKey(newKey({ id: 'k', budget: 100 }));
    const keyed = () => newTask({ owner: 'k', idempotency_key: 'once', idempotency_hash: 'x' });
    const each = Array.from({ length: 12 }, (_, i) => insertTask([store, other][i % 2]!, keyed(), { amount: 100 }));
    const results = await Promise.all(each);
    expect(results.filter(({ existing }) => existing)).toHaveLength(11);
    expect(results.filter(({ refused }) => refused)).toHaveLength(0);
    expect(await account()).toMatchObject({ reserved: 100, active_tasks: 1 });
  });

  test('listGpuTimes returns the latest GPU times of each key, of succeeded tasks that say something', async () => {
    const settle = async (owner: string, gpu: number, changes: object = {}, admission: object = {}) => {
      const task = newTask({ owner });
      await insertTask(store, task, admission);
      const stored = (await store.get(task.id))!;
      await store.update(stored, { ...end, output, cost: cost(0, gpu), finished_at: NOV + gpu, ...changes });
    };
    for (const gpu of [1, 2, 3]) await settle('many', gpu);
    await settle('few', 1);
    await settle('few', 8, { status: 'failed', output: null });
    await settle('few', 9, {}, { expectedGpuTime: null });
    const times = await other.listGpuTimes('camera', 2);
    const expected = 1000;
    expect(times.sort((a, b) => a.took - b.took)).toEqual([
      { owner: 'few', took: 1000, expected },
      { owner: 'many', took: 2000, expected },
      { owner: 'many', took: 3000, expected },
    ]);
    expect(await other.listGpuTimes('svd', 2)).toEqual([]);
  });

  test('a clock that was years ahead leaves no rate limit and no month behind, and what was spent stays spent', async () => {
    await store.addKey(newKey({ id: 'k', budget: 1000 }));
    const submissions = { interval: 1000, window: 60_000 };
    const submit = async (now: number, amount = 0) => {
      const task = newTask({ owner: 'k' });
      const admission = { ...UNLIMITED, amount, now, submissions };
      const early = refusalOf(withTask((await store.getKey('k'))!, admission), admission);
      const { refused } = await insertTask(store, task, admission);
      expect(early).toBe(refused); // so that a picture is neither decoded nor stored in vain
      return { refused, key: (await other.getKey('k'))!, task: (await store.get(task.id))! };
    };
    const YEARS_AHEAD = Date.parse('2036-11-30T12:00:00Z');
    const { task } = await submit(NOV - 5000, 400);
    await store.update(task, { ...end, output, cost: cost(300), finished_at: NOV - 4000 });
    const ahead = await submit(YEARS_AHEAD, 500);
    expect(ahead.key).toMatchObject({ month: '2036-11', spent: 0, submissions_at: YEARS_AHEAD + 1000 });

    const { refused, key } = await submit(NOV, 100);
    expect(refused).toBeUndefined();
    expect(key).toMatchObject({ month: '2026-11', spent: 300, reserved: 600, submissions_at: NOV + 1000 });
    expect((await submit(NOV, 101)).refused).toBe('budget');
    for (let i = 0; i < 59; i++) await submit(NOV);
    expect((await submit(NOV)).refused).toBe('rate');
    expect((await submit(NOV - 50_000)).refused).toBe('rate'); // another process, whose clock lags behind

    await submit(YEARS_AHEAD);
    await store.update(ahead.task, { ...end, output, cost: cost(250), finished_at: NOV });
    expect(await account()).toMatchObject({ month: '2026-11', spent: 550, reserved: 100 });
    await submit(DEC);
    expect(await account()).toMatchObject({ month: '2026-12', spent: 0 });
    await submit(NOV);
    expect(await account()).toMatchObject({ month: '2026-12', spent: 0 }); // a clock that lags behind
  });
});
