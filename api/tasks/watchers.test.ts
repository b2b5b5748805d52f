import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { newTask } from '../../test/support/test-store.ts';
import type { Task } from '../store/task.ts';
import { createWatchers } from './watchers.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const task: Task = { ...newTask(), next_run_at: 0, leased_until: 0 };
const after = (changes: Partial<Task>): Task => ({ ...task, version: task.version + 1, ...changes });

function create({ isShared = false, stored = task } = {}) {
  const store = { isShared, getMany: vi.fn(async () => [stored]), claim: vi.fn(async () => [] as Task[]) };
  const onWatched = vi.fn();
  const onClaimed = vi.fn();
  const log = pino({ level: 'silent' });
  const watchers = createWatchers({ store, interval: SECOND, onWatched, onClaimed, log, now: Date.now });
  const listener = vi.fn();
  const unsubscribe = watchers.subscribe(task.id, listener);
  return { store, watchers, listener, unsubscribe, onWatched, onClaimed };
}

test('a task stays watched for 20 s after the last call of watch, and is polled when that begins', async () => {
  const { watchers, onWatched } = create();
  expect(watchers.isWatched(task.id)).toBe(false);
  watchers.watch(task);
  vi.advanceTimersByTime(15 * SECOND);
  watchers.watch(task);
  vi.advanceTimersByTime(19 * SECOND);
  expect([watchers.isWatched(task.id), onWatched.mock.calls]).toEqual([true, [[task.id]]]);
  vi.advanceTimersByTime(2 * SECOND);
  expect(watchers.isWatched(task.id)).toBe(false);
  watchers.watch(after({ status: 'failed' }));
  expect(watchers.isWatched(task.id)).toBe(false);
  await watchers.stop();
});

test('subscribers are notified once of each version with a visible change', async () => {
  const { watchers, listener, unsubscribe } = create();
  watchers.watch(task);
  const running = after({ status: 'running' });
  watchers.notify(running, task);
  watchers.notify(running, task); // as another read finds it
  watchers.notify({ ...running, version: 3 }, running);
  expect(listener.mock.calls).toEqual([[running]]);
  const ended = { ...running, version: 4, status: 'succeeded' as const };
  watchers.notify(ended, running);
  expect(listener).toHaveBeenLastCalledWith(ended);
  expect(watchers.isWatched(task.id)).toBe(false);
  unsubscribe();
  watchers.notify({ ...ended, version: 5, expired_at: 1 }, ended);
  expect(listener).toHaveBeenCalledTimes(2);
  await watchers.stop();
});

test('in a shared store, changes by other processes are read, and watched tasks are claimed', async () => {
  const running = after({ status: 'running' });
  const { watchers, store, listener, onClaimed } = create({ isShared: true, stored: running });
  store.claim.mockResolvedValueOnce([running]);
  watchers.watch(task);
  await vi.advanceTimersByTimeAsync(3 * SECOND);
  expect(listener.mock.calls).toEqual([[running]]);
  expect(onClaimed.mock.calls).toEqual([[running]]);
  expect(store.claim).toHaveBeenCalledWith([task.id], { lease: 60 * SECOND, dueAfter: SECOND });
  await vi.advanceTimersByTimeAsync(60 * SECOND);
  const { length } = store.getMany.mock.calls;
  await vi.advanceTimersByTimeAsync(60 * SECOND);
  expect(store.getMany).toHaveBeenCalledTimes(length); // nothing is watched any more
  await watchers.stop();
});

test('with libSQL the store is not read', async () => {
  const { watchers, store } = create();
  watchers.watch(task);
  await vi.advanceTimersByTimeAsync(5 * SECOND);
  expect(store.getMany).not.toHaveBeenCalled();
  await watchers.stop();
});
