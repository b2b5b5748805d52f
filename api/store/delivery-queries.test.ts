/** The outbox and disabled webhooks, over each database. */
import { randomInt } from 'node:crypto';
import { v7 } from 'uuid';
import { beforeEach, expect, test } from 'vitest';

import { DAY } from '../../core/time.ts';
import { forEachDatabase } from '../../test/support/each-database.ts';
import { ids, insertAndGet } from '../../test/support/test-store.ts';
import type { Store } from './store.ts';
import type { NewTask } from './task.ts';

/** Not compressible. */
const randomText = (length: number) =>
  Array.from({ length }, () => String.fromCodePoint(randomInt(0x4e00, 0x9fff))).join('');

const LEASE = 60_000;
const MANY = { lease: LEASE, limit: 1000, free: 1e6, share: 1, underWay: new Map<string, number>() };

forEachDatabase((stores) => {
  let store: Store;
  let other: Store;
  beforeEach(() => {
    ({ store, other } = stores);
  });
  const insert = (changes: Partial<NewTask> = {}) => insertAndGet(store, changes);

  const URL = 'https://example.com/hook';
  /** A task that has ended, and its delivery. */
  async function endedDelivery(url = URL) {
    const task = await insert({ input: { webhook_url: url } as never });
    expect(await store.update(task, { status: 'failed', finished_at: 7, nextRunIn: 0 })).toBeDefined();
    expect(await store.update(task, { status: 'canceled', finished_at: 8, nextRunIn: 0 })).toBeUndefined();
    const [delivery, ...more] = await other.listDeliveries({ owner: 'local', task: task.id, limit: 9 });
    expect(more).toEqual([]);
    return delivery!;
  }
  const attempt = { attempted_at: 1, status_code: 500, error: null, delivered_at: null };
  const claim = (at = store) => at.claimDeliveries(MANY);

  test('a delivery that was scheduled while a clock was years ahead becomes due, and no other', async () => {
    const [scheduled, far] = [await endedDelivery(), await endedDelivery()];
    await store.recordAttempt(scheduled, { ...attempt, status: 'pending', attempts: 1, nextAttemptIn: DAY });
    stores.ahead = 3650 * DAY;
    await store.recordAttempt(far, { ...attempt, status: 'pending', attempts: 1, nextAttemptIn: DAY });
    stores.ahead = 0;
    await other.rescheduleFarDeliveries();
    expect(ids(await claim(other))).toEqual([far.id]);
  });

  test('the end of a task adds one delivery, which is due and is leased once', async () => {
    expect(await store.nextDeliveryDue()).toBeUndefined();
    const made = [];
    for (let i = 0; i < 20; i++) made.push(await endedDelivery());
    const { task_id, next_attempt_at, id } = made[0]!;
    const status = { status: 'pending', started: 0, attempts: 0, attempted_at: null, status_code: null, error: null };
    const facts = { owner: 'local', type: 'task.failed', url: URL, created_at: 7, delivered_at: null };
    expect(made[0]).toEqual({ ...facts, ...status, id, task_id, next_attempt_at });
    expect(await other.nextDeliveryDue()).toBeLessThanOrEqual(0);
    const claims = await Promise.all(
      Array.from({ length: 8 }, (_, i) => [store, other][i % 2]!.claimDeliveries({ ...MANY, limit: 4 })),
    );
    expect(claims.every((claimed) => claimed.length <= 4)).toBe(true);
    claims.push(await claim());
    expect(ids(claims.flat())).toEqual(ids(made));
    const [first, ...rest] = claims.flat().sort((a, b) => (a.id < b.id ? -1 : 1));
    expect(first).toMatchObject({ started: 1, attempts: 0 });
    for (const one of rest)
      await store.recordAttempt(one, { ...attempt, status: 'delivered', attempts: 1, nextAttemptIn: null });
    await store.recordAttempt(made[0]!, { ...attempt, status: 'failed', attempts: 1, nextAttemptIn: null }); // it was claimed since
    await store.recordAttempt(first!, { ...attempt, status: 'pending', attempts: 1, nextAttemptIn: 5 * LEASE });
    stores.ahead = 2 * LEASE;
    expect(await claim(other)).toEqual([]);
    stores.ahead = 6 * LEASE;
    expect(await claim(other)).toMatchObject([{ id, started: 2, attempts: 1, status_code: 500 }]);
  });

  test('claimDeliveries leases one delivery of each owner before a second, and counts those under way', async () => {
    const add = (owner: string, n: number) =>
      Promise.all(
        Array.from({ length: n }, () =>
          store.addDelivery({ id: v7(), owner, task_id: null, type: 'webhook.test', url: URL, created_at: 1 }),
        ),
      );
    await add('a', 30);
    await add('b', 30);
    await add('c', 2);
    const owners = async (claim: object) =>
      (await other.claimDeliveries({ ...MANY, maxPerOwner: 16, ...claim }))
        .map(({ owner }) => owner)
        .sort()
        .join('');
    expect(await owners({ limit: 4, underWay: new Map([['a', 15]]) })).toBe('bbcc');
    expect(
      await owners({
        underWay: new Map([
          ['a', 15],
          ['b', 20],
        ]),
      }),
    ).toBe('a');
    expect(
      await owners({
        limit: 8,
        free: 8,
        underWay: new Map([
          ['a', 1],
          ['b', 2],
        ]),
      }),
    ).toBe('aaabb');
    expect(
      await owners({
        limit: 8,
        free: 8,
        underWay: new Map([
          ['a', 8],
          ['b', 8],
        ]),
      }),
    ).toBe('');
  });

  test('a delivery that the database refuses is dropped, and its task ends and is settled all the same', async () => {
    await endedDelivery();
    await stores.execute('create unique index one_each on deliveries (owner)');
    const task = await insert({ input: { webhook_url: URL } as never });
    const ended = await store.update(task, { status: 'failed', finished_at: 7, nextRunIn: 0 });
    expect(ended).toMatchObject({ id: task.id, status: 'failed' });
    expect(await other.getKey('local')).toMatchObject({ active_tasks: 0 });
    expect(await other.listDeliveries({ owner: 'local', limit: 9 })).toHaveLength(1);
    expect(stores.logged).toEqual(['the database refuses the webhook delivery; the task goes on without it']);
  });

  test('a task without webhook_url adds no delivery', async () => {
    const task = await insert({ input: {} as never });
    await store.update(task, { status: 'failed', finished_at: 7, nextRunIn: 0 });
    expect(await store.listDeliveries({ owner: 'local', limit: 9 })).toEqual([]);
  });

  test('deliveries are listed by owner, status and task, newest first', async () => {
    const made = [await endedDelivery(), await endedDelivery(), await endedDelivery()].reverse();
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

  test('a webhook URL of any characters and length can be disabled', async () => {
    for (const url of [`${URL}?${'é€\0\ud800'.repeat(9)}`, `${URL}?${randomText(20_000)}`]) {
      const delivery = await endedDelivery(url);
      await store.disableWebhook('local', url);
      expect(await other.isWebhookDisabled('local', url)).toBe(true);
      expect(await other.getDelivery('local', delivery.id)).toMatchObject({ status: 'disabled' });
    }
  });

  test('a disabled webhook gets no deliveries until it is enabled', async () => {
    const [a, b, elsewhere] = [await endedDelivery(), await endedDelivery(), await endedDelivery(`${URL}2`)];
    await Promise.all([store.disableWebhook('local', URL), other.disableWebhook('local', URL)]);
    const late = await endedDelivery();
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

  test('postponeWebhook postpones what is due sooner, and nothing else', async () => {
    const [a, b, elsewhere] = [await endedDelivery(), await endedDelivery(), await endedDelivery(`${URL}2`)];
    await store.recordAttempt(b, { ...attempt, status: 'pending', attempts: 1, nextAttemptIn: 9 * LEASE });
    await store.postponeWebhook('local', URL, 2 * LEASE);
    expect(ids(await claim())).toEqual([elsewhere.id]);
    stores.ahead = 3 * LEASE;
    expect(ids(await claim())).toEqual(ids([a, elsewhere]));
  });
});
