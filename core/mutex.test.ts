import { expect, test } from 'vitest';
import { createMutex } from './mutex.ts';

const never = new AbortController().signal;

test('the lock is granted one at a time, in the order of requests', async () => {
  const enter = createMutex();
  const events: string[] = [];
  const work = async (name: string) => {
    const leave = await enter(never);
    events.push(`${name} begins`);
    await new Promise((resolve) => setImmediate(resolve));
    events.push(`${name} ends`);
    leave();
  };
  await Promise.all(['a', 'b', 'c'].map(work));
  expect(events).toEqual(['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
});

test('an aborted request leaves the queue at once, and lets no other in too early', async () => {
  const enter = createMutex();
  const leaveFirst = await enter(never);
  const controller = new AbortController();
  const reason = new Error('enough');
  const second = enter(controller.signal);
  let thirdIsIn = false;
  const third = enter(never).then((leave) => {
    thirdIsIn = true;
    return leave;
  });
  controller.abort(reason);
  await expect(second).rejects.toBe(reason);
  await new Promise((resolve) => setImmediate(resolve));
  expect(thirdIsIn).toBe(false); // the first still holds the lock
  leaveFirst();
  (await third)();
  await expect(enter(controller.signal)).rejects.toBe(reason);
  (await enter(never))();
});
