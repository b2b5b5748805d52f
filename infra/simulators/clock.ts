/** Time for the stand-ins: the real one, or for tests one that stands still until it is stepped. */

export interface Clock {
  /** milliseconds */
  now(): number;
  /** Resolves after `ms`, or at once when the signal comes. Never rejects, and keeps no process alive. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

const LONGEST = 2 ** 31 - 1; // of Node's timers; a longer sleep ends early, after 24 days

/** @param now for a clock that runs ahead or behind; sleeps are real all the same */
export function realClock(now: () => number = Date.now): Clock {
  return {
    now,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve();
        const finish = () => {
          clearTimeout(timer);
          signal?.removeEventListener('abort', finish);
          resolve();
        };
        const timer = setTimeout(finish, Math.min(ms, LONGEST)).unref();
        signal?.addEventListener('abort', finish);
      }),
  };
}

export type SteppedClock = ReturnType<typeof steppedClock>;

/** A clock that stands at `start` until it is stepped. */
export function steppedClock(start = 0) {
  let time = start;
  const sleepers = createAgenda<() => void>();
  const asleep = new Set<() => void>();
  return {
    now: () => time,
    sleep: (ms: number, signal?: AbortSignal) =>
      new Promise<void>((resolve) => {
        if (signal?.aborted || ms <= 0) return resolve();
        const finish = () => {
          asleep.delete(finish);
          signal?.removeEventListener('abort', finish);
          resolve();
        };
        asleep.add(finish);
        sleepers.add(time + ms, finish);
        signal?.addEventListener('abort', finish);
      }),

    /** How many sleep: what a test waits for before it steps, and what must be none at the end. */
    asleep: () => asleep.size,

    /** Lets time pass: wakes whoever's time has come, one after the other, each at its own moment and heard out before the next. */
    async step(ms: number) {
      const end = time + ms;
      await turn(); // who was about to sleep does
      while (sleepers.next() <= end) {
        const at = sleepers.next();
        const wake = sleepers.shift()!;
        if (!asleep.has(wake)) continue; // woken before its time
        time = at;
        wake();
        await turn();
      }
      time = end;
    },
  };
}

/** Lets everything run that waits for nothing from outside. */
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Things to come, by a number each, such as a time: the least comes first, among equals the first added. A binary heap. */
export function createAgenda<T>() {
  const heap: { at: number; order: number; item: T }[] = [];
  let order = 0;
  const isBefore = (a: number, b: number) =>
    heap[a]!.at < heap[b]!.at || (heap[a]!.at === heap[b]!.at && heap[a]!.order < heap[b]!.order);
  const swap = (a: number, b: number) => {
    [heap[a], heap[b]] = [heap[b]!, heap[a]!];
  };
  return {
    /** The least number; Infinity if there is nothing. */
    next: () => heap[0]?.at ?? Infinity,

    add(at: number, item: T) {
      let child = heap.push({ at, order: order++, item }) - 1;
      while (child > 0) {
        const parent = (child - 1) >> 1;
        if (!isBefore(child, parent)) break;
        swap(child, parent);
        child = parent;
      }
    },

    /** Removes and returns what comes first. */
    shift(): T | undefined {
      if (heap.length === 0) return undefined;
      swap(0, heap.length - 1);
      const { item } = heap.pop()!;
      for (let parent = 0; ; ) {
        const left = 2 * parent + 1;
        const right = left + 1;
        if (left >= heap.length) return item;
        const least = right < heap.length && isBefore(right, left) ? right : left;
        if (!isBefore(least, parent)) return item;
        swap(least, parent);
        parent = least;
      }
    },
  };
}
