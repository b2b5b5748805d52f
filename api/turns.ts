import { createSlots } from '../core/slots.ts';

/**
 * Makes long work yield: one piece of it runs at a time, and other requests run in between. Owners take turns, so that many pieces of
 * one delay no other owner's.
 * @returns a function that runs `work` when it is its turn, and settles as `work` does
 */
export function createTurns() {
  const takeSlot = createSlots(1);
  return async function takeTurn<T>(owner: string, work: () => Promise<T>): Promise<T> {
    const free = await takeSlot(undefined, owner);
    return work().finally(() => setImmediate(free));
  };
}
