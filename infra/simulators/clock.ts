/** Time for the simulators: real, or in tests one that stands still until it is stepped. Times are milliseconds. */
import { setTimeout as delay } from 'node:timers/promises';

export interface Clock {
  now(): number;
  /** Resolves after `ms`, or at once when the signal is aborted. Never rejects, and keeps no process alive. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

const LONGEST_TIMER = 2 ** 31 - 1; // Node's limit; a longer sleep ends after 24 days

/** @param now of a clock that runs ahead or behind; sleeps take real time all the same */
export function realClock(now: () => number = Date.now): Clock {
  return {
    now,
    sleep: (ms, signal) =>
      delay(Math.min(ms, LONGEST_TIMER), undefined, { ref: false, ...(signal && { signal }) }).catch(() => {}),
  };
}

export type SteppedClock = ReturnType<typeof steppedClock>;

/** A clock that stands at `start` until it is stepped. */
export function steppedClock(start = 0) {
  let time = start;
  const sleepers = new PriorityQueue<() => void>();
  const pending = new Set<() => void>();
  return {
    now: () => time,
    sleep: (ms: number, signal?: AbortSignal) =>
      new Promise<void>((resolve) => {
        if (signal?.aborted || ms <= 0) return resolve();
        const wake = () => {
          pending.delete(wake);
          signal?.removeEventListener('abort', wake);
          resolve();
        };
        pending.add(wake);
        sleepers.add(time + ms, wake);
        signal?.addEventListener('abort', wake);
      }),

    /** How many sleeps are pending. */
    sleeping: () => pending.size,

    /** Lets time pass. Sleepers wake in the order of their times; each runs as far as it can before the next wakes. */
    async step(ms: number) {
      const end = time + ms;
      await settle(); // those about to sleep fall asleep first
      while (sleepers.nextPriority <= end) {
        const at = sleepers.nextPriority;
        const wake = sleepers.shift()!;
        if (!pending.has(wake)) continue; // its signal was aborted
        time = at;
        wake();
        await settle();
      }
      time = end;
    },
  };
}

/** Lets all code run that waits for nothing from outside. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Items by a number such as a time: the least comes first, among equals the first added. A binary heap. */
export class PriorityQueue<T> {
  readonly #heap: { priority: number; order: number; item: T }[] = [];
  #added = 0;

  /** The least number; Infinity if the queue is empty. */
  get nextPriority() {
    return this.#heap[0]?.priority ?? Infinity;
  }

  add(priority: number, item: T) {
    let child = this.#heap.push({ priority, order: this.#added++, item }) - 1;
    while (child > 0) {
      const parent = (child - 1) >> 1;
      if (!this.#isBefore(child, parent)) break;
      this.#swap(child, parent);
      child = parent;
    }
  }

  /** Removes and returns the first item. */
  shift(): T | undefined {
    if (this.#heap.length === 0) return undefined;
    this.#swap(0, this.#heap.length - 1);
    const { item } = this.#heap.pop()!;
    for (let parent = 0; ; ) {
      const left = 2 * parent + 1;
      const right = left + 1;
      if (left >= this.#heap.length) return item;
      const least = right < this.#heap.length && this.#isBefore(right, left) ? right : left;
      if (!this.#isBefore(least, parent)) return item;
      this.#swap(least, parent);
      parent = least;
    }
  }

  #isBefore(a: number, b: number) {
    const [first, second] = [this.#heap[a]!, this.#heap[b]!];
    return (first.priority - second.priority || first.order - second.order) < 0;
  }

  #swap(a: number, b: number) {
    [this.#heap[a], this.#heap[b]] = [this.#heap[b]!, this.#heap[a]!];
  }
}
