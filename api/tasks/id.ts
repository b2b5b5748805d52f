/** Task ids: UUIDv7, whose first 48 bits are the millisecond of creation. So ids sort by time, and a time is a position among them. */
import { randomInt } from 'node:crypto';
import { v7 } from 'uuid';
import * as v from 'valibot';
import { DAY } from '../../core/time.ts';

export const TASK_ID = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;

/** A query parameter with an id. Some databases and languages write UUIDs in capitals. @param message the error message */
export const idParameter = (message: string) => v.pipe(v.string(message), v.toLowerCase(), v.nonEmpty(message));

/**
 * @param now milliseconds since 1970
 * @returns a function that creates ascending ids, also within a millisecond and when the clock is set back by up to a day;
 * `created_at` is the id's time
 */
export function createTaskIds(now: () => number): () => { id: string; created_at: number } {
  let created_at = Number.NEGATIVE_INFINITY;
  let serial = 0;
  return () => {
    const time = now();
    if (time > created_at || time < created_at - DAY) {
      created_at = time;
      serial = randomInt(2 ** 31); // leaves at least as many ids in this millisecond
    } else serial++;
    return { id: v7({ msecs: created_at, seq: serial }), created_at };
  };
}

/** Smallest UUIDv7 of a timestamp. */
export function firstIdAt(ms: number): string {
  const hex = Math.max(ms, 0).toString(16).padStart(12, '0');
  return `${hex.slice(0, 8)}-${hex.slice(8)}-7000-8000-000000000000`;
}
