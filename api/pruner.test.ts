/** Old rows of the store are deleted, over each database. */
import { pino } from 'pino';
import { v7 } from 'uuid';
import { expect, test, vi } from 'vitest';
import { DAY } from '../core/time.ts';
import { forEachDatabase } from '../test/support/each-database.ts';
import { ids, insertTask, newTask } from '../test/support/test-store.ts';
import type { Dependencies } from './dependencies.ts';
import { createPruner } from './pruner.ts';
import { createTaskIds } from './tasks/id.ts';

forEachDatabase((stores) => {
  test('ended deliveries, disabled webhooks and idempotency keys are pruned when they are old, and nothing else', async () => {
    const { store } = stores;
    const ago = (days: number) => Date.now() - days * DAY;
    const owner = 'local';
    /** A delivery to a URL of its own, which has ended with a 410 unless it is pending. */
    const add = async (days: number, task_id: string | null, isEnded = true) => {
      const id = v7({ msecs: ago(days) });
      const url = `https://example.com/${id}`;
      await store.addDelivery({ id, owner, task_id, type: 'task.failed', url, created_at: ago(days) });
      if (isEnded) await store.disableWebhook(owner, url);
      return { id, url };
    };
    const old = [await add(31, 'task'), await add(2, null)];
    const kept = [await add(29, 'task'), await add(0.9, null), await add(31, 'task', false)];
    const keyed = (days: number) =>
      newTask({ ...createTaskIds(() => ago(days))(), idempotency_key: `key ${days}`, idempotency_hash: 'x' });
    const tasks = [keyed(2), keyed(0.9)];
    for (const task of tasks) await insertTask(store, task);
    stores.ahead = 40 * DAY; // of the databases' clock alone: it decides on disabled webhooks

    const config = { retain: 30 * DAY } as Dependencies['config'];
    const log = pino({ level: 'silent' });
    const pruner = createPruner({ store, config, log, now: Date.now } as Dependencies);
    pruner.wake();
    const listed = async () => ids(await store.listDeliveries({ owner, limit: 99 }));
    await vi.waitFor(async () => expect(await listed()).toEqual(ids(kept)), 10_000);
    await pruner.stop();
    expect(await store.getDelivery(owner, old[0]!.id)).toBeUndefined();
    expect(await store.isWebhookDisabled(owner, old[0]!.url)).toBe(false);
    expect(await Promise.all(tasks.map(async ({ id }) => (await store.get(id))!.idempotency_key))).toEqual([
      null,
      'key 0.9',
    ]);
  });
});
