import { expect, test } from 'vitest';
import { createTurns } from './turns.ts';

test('owners take turns, one piece of work runs at a time, and a failed one stops no other', async () => {
  const takeTurn = createTurns();
  const order: string[] = [];
  let running = 0;
  const take = (owner: string, name: string) =>
    takeTurn(owner, async () => {
      expect(++running).toBe(1);
      order.push(name);
      await new Promise((resolve) => setImmediate(resolve));
      running--;
      if (name === 'a2') throw new Error('broken');
      return name;
    });
  const all = [take('a', 'a1'), take('a', 'a2'), take('a', 'a3'), take('b', 'b1'), take('b', 'b2'), take('c', 'c1')];
  const results = await Promise.allSettled(all);
  expect(order).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
  expect(results.map(({ status }) => status === 'fulfilled')).toEqual([true, false, true, true, true, true]);
  expect(await take('a', 'a4')).toBe('a4');
});

test('other work runs between two pieces', async () => {
  const takeTurn = createTurns();
  const order: string[] = [];
  const first = takeTurn('a', async () => {
    setImmediate(() => order.push('other'));
    order.push('a1');
  });
  const second = takeTurn('b', async () => order.push('b1'));
  await Promise.all([first, second]);
  expect(order).toEqual(['a1', 'other', 'b1']);
});
