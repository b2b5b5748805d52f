import { setImmediate } from 'node:timers/promises';

/**
 * Makes long work yield: one piece of it runs at a time, and other requests run in between. Owners take turns, so that many pieces of
 * one delay no other owner's.
 * @returns a function that runs `work` when it is its turn, and settles as `work` does
 */
export function createTurns() {
  let last: Promise<unknown> = Promise.resolve();
  const lastOf = new Map<string, Promise<unknown>>(); // by owner; each has at most one piece among those that wait for `last`

  return function takeTurn<T>(owner: string, work: () => Promise<T>): Promise<T> {
    const join = () => {
      const result = last.then(work);
      last = result.then(
        () => setImmediate(),
        () => undefined,
      );
      return result;
    };
    const result = (lastOf.get(owner) ?? Promise.resolve()).then(join);
    const settled = result.then(
      () => undefined,
      () => undefined,
    );
    lastOf.set(owner, settled);
    settled.then(() => lastOf.get(owner) === settled && lastOf.delete(owner));
    return result;
  };
}
