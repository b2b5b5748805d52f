/**
 * How often something may happen: the generic cell rate algorithm. All that is kept of the past is one time, `at`: when the last one
 * would have come, had they come at an even rate. It may run ahead of the clock by a window, so a quota may be used up at once and
 * comes back bit by bit. The store's own form of it stands in `store/keys.ts`.
 */
import { MINUTE } from '../../core/time.ts';

export interface Rate {
  /** how many in a minute; Infinity: any number */
  perMinute: number;
}

/** Milliseconds between two at an even rate, and how far they may run ahead of it. */
export const pace = ({ perMinute }: Rate) => ({ interval: Math.floor(MINUTE / perMinute), window: MINUTE });

/** @returns the new `at`, or undefined if it would be too often */
export function takeToken(at: number, now: number, rate: Rate): number | undefined {
  const { interval, window } = pace(rate);
  const next = Math.max(at, now) + interval;
  return next <= now + window ? next : undefined;
}

/** Seconds, rounded up, until there is one again. */
export function secondsUntilNext(at: number, now: number, rate: Rate): number {
  const { interval, window } = pace(rate);
  return Math.max(1, Math.ceil((Math.max(at, now) + interval - now - window) / 1000));
}

/** The headers of draft-ietf-httpapi-ratelimit-headers: how many are left, and in how many seconds there are all of them again. */
export function rateHeaders(name: string, at: number, now: number, rate: Rate): Record<string, string> {
  if (rate.perMinute === Infinity) return {};
  const { interval, window } = pace(rate);
  const ahead = Math.max(0, at - now);
  const left = Math.floor((window - ahead) / interval);
  return {
    'ratelimit-policy': `"${name}";q=${rate.perMinute};w=${window / 1000}`,
    ratelimit: `"${name}";r=${Math.max(0, Math.min(rate.perMinute, left))};t=${Math.ceil(ahead / 1000)}`,
  };
}
