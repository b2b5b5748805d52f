/** Task ids: UUIDv7s whose first 48 bits are the millisecond of creation. So ids sort by it, and a time is a place among them. */
import { randomInt } from 'node:crypto';
import { v7 } from 'uuid';

export const TASK_ID = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;
export const isTaskId = (text: string) => TASK_ID.test(text);

/**
 * Makes ids that rise, also within a millisecond and while the clock is set back: each with its own millisecond, the task's `created_at`.
 * @param now milliseconds since 1970
 */
export function createTaskIds(now: () => number): () => { id: string; created_at: number } {
  let created_at = Number.NEGATIVE_INFINITY;
  let serial = 0;
  return () => {
    const time = now();
    if (time > created_at) {
      created_at = time;
      serial = randomInt(2 ** 31); // of 32 bits: as many again are left in the millisecond
    } else serial++;
    return { id: v7({ msecs: created_at, seq: serial }), created_at };
  };
}

/** The least id that a task of this millisecond, or of a later one, may have. */
export function firstIdAt(ms: number): string {
  const hex = Math.max(ms, 0).toString(16).padStart(12, '0');
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`;
}
