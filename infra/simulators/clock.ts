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

/** A clock that stands at `start` until it is stepped. */
export function steppedClock(start = 0) {
  let time = start;
  const sleepers = new Set<{ until: number; wake: () => void }>(); // in the order in which they fell asleep
  return {
    now: () => time,
    sleep: (ms: number, signal?: AbortSignal) =>
      new Promise<void>((resolve) => {
        if (signal?.aborted || ms <= 0) return resolve();
        const wake = () => {
          sleepers.delete(sleeper);
          signal?.removeEventListener('abort', wake);
          resolve();
        };
        const sleeper = { until: time + ms, wake };
        sleepers.add(sleeper);
        signal?.addEventListener('abort', wake);
      }),

    /** How many sleeps are pending. */
    sleeping: () => sleepers.size,

    /** Lets time pass. Sleepers wake in the order of their times; each runs as far as it can before the next wakes. */
    async step(ms: number) {
      const end = time + ms;
      await settle(); // those about to sleep fall asleep first
      for (;;) {
        const [next] = [...sleepers].sort((a, b) => a.until - b.until);
        if (!next || next.until > end) break;
        time = next.until;
        next.wake();
        await settle();
      }
      time = end;
    },
  };
}

/** Lets all code run that waits for nothing from outside. */
const settle = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Items by a number such as a time: the least comes first, among equals the first added. */
export class PriorityQueue<T> {
  readonly #entries: { priority: number; item: T }[] = [];

  /** The least number; Infinity if the queue is empty. */
  get nextPriority() {
    return this.#entries[0]?.priority ?? Infinity;
  }

  add(priority: number, item: T) {
    let [low, high] = [0, this.#entries.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#entries[middle]!.priority <= priority) low = middle + 1;
      else high = middle;
    }
    this.#entries.splice(low, 0, { priority, item });
  }

  /** Removes and returns the first item. */
  shift(): T | undefined {
    return this.#entries.shift()?.item;
  }
}
