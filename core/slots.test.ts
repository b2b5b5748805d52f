import { expect, test } from 'vitest';
import { createSlots, QueueFullError } from './slots.ts';

const never = new AbortController().signal;
const settle = () => new Promise((resolve) => setImmediate(resolve));

test('one slot is granted in the order of requests', async () => {
  const take = createSlots(1);
  const events: string[] = [];
  const work = async (name: string) => {
    const free = await take(never);
    events.push(`${name} begins`);
    await settle();
    events.push(`${name} ends`);
    free();
  };
  await Promise.all(['a', 'b', 'c'].map(work));
  expect(events).toEqual(['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
});

test('an aborted request leaves the queue at once, and lets no other in too early', async () => {
  const take = createSlots(1);
  const freeFirst = await take(never);
  const controller = new AbortController();
  const reason = new Error('enough');
  const second = take(controller.signal);
  let thirdIsIn = false;
  const third = take(never).then((free) => {
    thirdIsIn = true;
    return free;
  });
  controller.abort(reason);
  await expect(second).rejects.toBe(reason);
  await settle();
  expect(thirdIsIn).toBe(false); // the first still has the slot
  freeFirst();
  (await third)();
  await expect(take(controller.signal)).rejects.toBe(reason);
  (await take(never))();
});

/** Requests slots for these owners. @returns the names in the order in which they got one, and how to free each */
function requests(take: ReturnType<typeof createSlots>, names: string[]) {
  const started: string[] = [];
  const free = new Map<string, () => void>();
  for (const name of names)
    void take(never, name[0]).then((leave) => {
      started.push(name);
      free.set(name, leave);
    });
  return { started, free };
}

test('a request gets the first slot that is free', async () => {
  const { started, free } = requests(createSlots(2), ['a', 'b', 'c', 'd']);
  await settle();
  expect(started).toEqual(['a', 'b']);
  free.get('b')!();
  await settle();
  free.get('c')!();
  await settle();
  expect(started).toEqual(['a', 'b', 'c', 'd']); // although a still runs
});

test('an owner has one slot at a time, and owners take turns', async () => {
  const { started, free } = requests(createSlots(2), ['a1', 'a2', 'a3', 'b1', 'b2', 'c1']);
  await settle();
  expect(started).toEqual(['a1', 'b1']);
  for (const next of ['a1', 'b1', 'c1', 'a2', 'b2', 'a3']) {
    free.get(next)!();
    free.get(next)!(); // a second call changes nothing
    await settle();
  }
  expect(started).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
});

test('the queue is limited for each owner and for all, and unlimited without an owner', async () => {
  const take = createSlots(1, { all: 3, perOwner: 2 });
  const { started, free } = requests(take, ['a1', 'a2', 'a3', 'b1']);
  await settle();
  await expect(take(never, 'a')).rejects.toThrow(QueueFullError);
  await expect(take(never, 'c')).rejects.toThrow(QueueFullError);
  const unowned = [take(never), take(never)];
  for (const name of ['a1', 'b1']) {
    free.get(name)!();
    await settle();
  }
  for (const turn of unowned) (await turn)(); // before a2, because a has had its turn
  await settle();
  expect(started).toEqual(['a1', 'b1', 'a2']);
});
