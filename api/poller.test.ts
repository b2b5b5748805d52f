import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createPoller } from './poller.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const fail = () => {
  throw new Error('unexpected');
};

test('work runs when woken, and again after the time that it returns', async () => {
  const work = vi.fn(async () => 5000);
  const poller = createPoller(work, fail);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(work).not.toHaveBeenCalled();
  poller.wake();
  await vi.advanceTimersByTimeAsync(4000);
  expect(work).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(5000);
  expect(work).toHaveBeenCalledTimes(2);
  poller.wake();
  await vi.advanceTimersByTimeAsync(100);
  expect(work).toHaveBeenCalledTimes(3);
  await poller.stop();
});

test('calls of wake during a run lead to one more run, never to two at the same time', async () => {
  let finish = (_: number) => {};
  const work = vi.fn(() => new Promise<number>((resolve) => (finish = resolve)));
  const poller = createPoller(work, fail);
  for (let i = 0; i < 3; i++) poller.wake();
  await vi.advanceTimersByTimeAsync(100);
  for (let i = 0; i < 3; i++) poller.wake();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(work).toHaveBeenCalledTimes(1);
  finish(60_000);
  await vi.advanceTimersByTimeAsync(100);
  expect(work).toHaveBeenCalledTimes(2);
  finish(60_000);
  await vi.advanceTimersByTimeAsync(50_000);
  expect(work).toHaveBeenCalledTimes(2);
  await poller.stop();
});

test('after an error work runs again in the time that onError returns', async () => {
  const work = vi.fn().mockRejectedValueOnce(new Error('down')).mockResolvedValue(60_000);
  const onError = vi.fn(() => 1000);
  const poller = createPoller(work, onError);
  poller.wake();
  await vi.advanceTimersByTimeAsync(900);
  expect(onError).toHaveBeenCalledExactlyOnceWith(new Error('down'));
  expect(work).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(200);
  expect(work).toHaveBeenCalledTimes(2);
  await poller.stop();
});

test('stop waits for the current run, and no other follows', async () => {
  let finish = (_: number) => {};
  const work = vi.fn(() => new Promise<number>((resolve) => (finish = resolve)));
  const poller = createPoller(work, fail);
  poller.wake();
  await vi.advanceTimersByTimeAsync(100);
  const onStopped = vi.fn();
  const stopped = poller.stop().then(onStopped);
  poller.wake();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(onStopped).not.toHaveBeenCalled();
  finish(0);
  await stopped;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(work).toHaveBeenCalledTimes(1);
});
