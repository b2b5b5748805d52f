/**
 * Rate limits by the generic cell rate algorithm (GCRA). Its only state is `tat`, the theoretical arrival time of the last event if events
 * came at an even rate. It may run ahead of the clock by a window, so a quota can be used up at once and comes back bit by bit.
 * `reserve` in store/key-queries.ts does the same in the database. Times are milliseconds since
 * 1970; a limit of Infinity events a minute is none.
 */
import { MINUTE, SECOND } from '../../core/time.ts';

/** Milliseconds: between two events at an even rate, and how far they may run ahead of it. */
export const pace = (perMinute: number) => ({ interval: Math.floor(MINUTE / perMinute), window: MINUTE });

/** @returns the new `tat`; undefined: the limit is exceeded */
export function takeToken(tat: number, now: number, perMinute: number): number | undefined {
  const { interval, window } = pace(perMinute);
  const next = Math.max(tat, now) + interval;
  return next <= now + window ? next : undefined;
}

/** Whole seconds, at least 1, until an event is allowed again. */
export function secondsUntilNext(tat: number, now: number, perMinute: number): number {
  const { interval, window } = pace(perMinute);
  return Math.max(1, Math.ceil((Math.max(tat, now) + interval - now - window) / SECOND));
}

/** Headers of draft-ietf-httpapi-ratelimit-headers: how many events are left, and in how many seconds all of them are back. */
export function rateHeaders(name: string, tat: number, now: number, perMinute: number): Record<string, string> {
  if (perMinute === Infinity) return {};
  const { interval, window } = pace(perMinute);
  const ahead = Math.max(0, tat - now);
  const left = Math.floor((window - ahead) / interval);
  return {
    'ratelimit-policy': `"${name}";q=${perMinute};w=${window / SECOND}`,
    ratelimit: `"${name}";r=${Math.max(0, Math.min(perMinute, left))};t=${Math.ceil(ahead / SECOND)}`,
  };
}
