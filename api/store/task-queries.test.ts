/** Tasks: creation, change, reads and lists, over each database. */
import { beforeEach, expect, test } from 'vitest';
import { DAY } from '../../core/time.ts';
import { forEachDatabase } from '../../test/support/each-database.ts';
import { ids, insertAndGet, insertTask, newTask } from '../../test/support/test-store.ts';
import type { Store } from './store.ts';
import type { NewTask, PublicTask } from './task.ts';

forEachDatabase((stores) => {
  let store: Store;
  let other: Store;
  beforeEach(() => {
    ({ store, other } = stores);
  });
  const insert = (changes: Partial<NewTask> = {}) => insertAndGet(store, changes);
  const insertMany = async (count: number) => Promise.all(Array.from({ length: count }, () => insert()));

  test('an inserted task is found by id and by callback token, with numbers as numbers', async () => {
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

  test('an unknown id or token of any form gives undefined', async () => {
    for (const id of ['none', '', '\0', 'a\0b', "'; drop table tasks; --", 'ü', '\ud800', 'x'.repeat(10_000)]) {
      expect(await store.get(id)).toBeUndefined();
      expect(await store.findByCallbackToken(id)).toBeUndefined();
      expect(Array.isArray(await store.list({ owner: 'local', before: id, limit: 1 }))).toBe(true);
    }
  });

  test('a task whose row can’t be read hides no other task, and the log does not show what is in it', async () => {
    const tasks = await insertMany(6);
    await Promise.all(
      [1, 2, 5].map((i) => stores.execute(`update tasks set input = '{"prompt"' where id = '${tasks[i]!.id}'`)),
    );
    const [a, , , b, c] = ids(tasks) as [string, string, string, string, string];
    const list = async (selection: { before?: string; limit: number }) =>
      (await store.list({ owner: 'local', ...selection })).map(({ id }) => id);
    expect(await list({ limit: 10 })).toEqual([c, b, a]);
    expect(await list({ limit: 3 })).toEqual([c, b, a]);
    expect(await list({ limit: 2 })).toEqual([c, b]);
    expect(await list({ before: c, limit: 2 })).toEqual([b, a]);
    expect(ids(await store.getMany(ids(tasks))).sort()).toEqual([a, b, c].sort());
    expect(new Set(stores.logged)).toEqual(new Set(['the row of a task can’t be read; it is skipped']));
    await expect(store.get(tasks[1]!.id)).rejects.toThrow('column input is not JSON');
  });

  test('text of any characters is stored and read whole, and NUL and lone surrogates are replaced', async () => {
    const task = await insert({ image_key: 'a\0b', callback_token: `${'é'.repeat(50)}\0 ${Math.random()}` });
    expect(task.image_key).toBe('a\ufffdb');
    const changes = { job_id: 'job \0 \ud800 \u202e', still: `tasks/${'👁'.repeat(500)}\0`, nextRunIn: 0 };
    const changed = (await store.update(task, changes))!;
    expect(changed).toMatchObject({ job_id: 'job \ufffd \ufffd \u202e', still: `tasks/${'👁'.repeat(500)}\ufffd` });
    expect(await other.get(task.id)).toEqual(changed);
  });

  test('a second task with the same id or token is rejected', async () => {
    const task = await insert();
    await expect(insertTask(store, newTask({ id: task.id }))).rejects.toThrow();
    await expect(insertTask(store, newTask({ callback_token: task.callback_token }))).rejects.toThrow();
    expect(await store.get(task.id)).toEqual(task);
  });

  test('of one owner’s tasks with the same idempotency key only the first is stored, for 24 hours', async () => {
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

  test('each of many concurrent writes has its own result or error', async () => {
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

  test('an update changes only the version that was read', async () => {
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

  test('pages of the list are complete and newest first, also while tasks are inserted', async () => {
    const tasks = await insertMany(60);
    const seen: PublicTask[] = [];
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

  test('a task is found and listed only for its owner', async () => {
    const mine = [await insert({ owner: 'a' }), await insert({ owner: 'a' })];
    const theirs = await insert({ owner: 'b' });
    const last = await insert({ owner: 'a' });
    expect(await other.getOwn('a', mine[0]!.id)).toEqual(mine[0]);
    expect(await other.getOwn('b', theirs.id)).toEqual(theirs);
    expect(theirs).toMatchObject((await other.getPublic('b', theirs.id))!);
    for (const [owner, id] of [
      ['a', theirs.id],
      ['b', last.id],
      ['', last.id],
      ['a', '\0'],
    ] as const) {
      expect(await other.getOwn(owner, id)).toBeUndefined();
      expect(await other.getPublic(owner, id)).toBeUndefined();
    }
    const list = async (owner: string, more = {}) =>
      (await other.list({ owner, limit: 10, ...more })).map(({ id }) => id);
    expect(await list('a')).toEqual([last, ...mine.reverse()].map(({ id }) => id));
    expect(await list('a', { before: theirs.id })).toEqual(mine.map(({ id }) => id)); // another’s id opens nothing
    expect(await list('b', { before: last.id })).toEqual([theirs.id]);
    expect(await list('b', { from: last.id })).toEqual([]);
    expect(await list('c')).toEqual([]);
  });

  test('the list can be limited to a range of ids and to one status', async () => {
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
    await store.update((await store.get(ids[7]!))!, { expired_at: 1000 });
    expect(await list({ order: 'asc', after: ids[5], isKept: true })).toEqual([6, 8]);
    expect(await list({ isKept: true, limit: 2 })).toEqual([8, 6]);
  });
  test('the list can be limited to metadata, of any text', async () => {
    const values = ['4', '42', 'x","order":"42', '"', '\\', "'; --", 'größer 👁', '', '%', 'A', 'a', '$&'];
    for (const order of values) await insert({ metadata: { 'a key': 'x', order } });
    await insert({ metadata: { reorder: '42' } });
    await insert();
    const found = async (metadata: Record<string, string>) =>
      (await store.list({ owner: 'local', metadata, limit: 100 })).map((task) => task.metadata!.order);
    for (const order of values) expect(await found({ order }), order).toEqual([order]);
    expect(await found({ 'a key': 'x' })).toEqual(values.toReversed());
    expect(await found({ 'a key': 'x', order: '42' })).toEqual(['42']);
    expect(await found({ 'a key': 'y', order: '42' })).toEqual([]);
  });

  test('countActive counts the active tasks of all owners', async () => {
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

  test('rescheduleExpiry makes tasks due whose files are older than the retention', async () => {
    const ended = (finished_at: number, more = {}) => insert({ status: 'failed', finished_at, ...more });
    const tasks = [
      await ended(DAY),
      await ended(3 * DAY),
      await ended(DAY, { expired_at: 2 * DAY }),
      await insert({ job_id: 'job' }),
    ];
    for (const task of tasks) await store.update(task, { nextRunIn: 30 * DAY });
    await store.rescheduleExpiry(2 * DAY, 4 * DAY);
    expect(ids(await store.claimDue({ lease: 60_000, limit: 1000 }))).toEqual([tasks[0]!.id]);
  });
  test('check rejects once the store is closed', async () => {
    await store.check();
    await store.close();
    await expect(store.check()).rejects.toThrow();
  });
});
