import { describe, expect, test } from 'vitest';
import { pace, rateHeaders, secondsUntilNext, takeToken } from './rate.ts';

const NOW = 1_795_000_000_000;

describe.each([1, 2, 3, 7, 60, 1200, 60_000])('%i a minute', (perMinute) => {
  test('can all be used at once, and not one more; the header has the rest', () => {
    let at = 0;
    for (let i = 1; i <= perMinute; i++) {
      const next = takeToken(at, NOW, perMinute);
      expect(next, `number ${i}`).toBeDefined();
      at = next!;
      if (i % Math.ceil(perMinute / 9) === 0)
        expect(rateHeaders('x', at, NOW, perMinute).ratelimit).toContain(`;r=${perMinute - i};`);
    }
    expect(takeToken(at, NOW, perMinute)).toBeUndefined();
    expect(rateHeaders('x', at, NOW, perMinute).ratelimit).toBe('"x";r=0;t=60');
    const seconds = secondsUntilNext(at, NOW, perMinute);
    expect(seconds).toBe(Math.max(1, Math.ceil(60 / perMinute)));
    expect(takeToken(at, NOW + seconds * 1000, perMinute)).toBeDefined();
    const { interval, window } = pace(perMinute);
    const rest = window - perMinute * interval; // whole milliseconds don't always divide a minute
    expect(takeToken(at, NOW + interval - rest - 1, perMinute)).toBeUndefined();
  });

  test('at an even rate none is refused', () => {
    let at = 0;
    for (let i = 0; i < 2 * perMinute && i < 1000; i++) {
      const next = takeToken(at, NOW + i * Math.ceil(60_000 / perMinute), perMinute);
      expect(next).toBeDefined();
      at = next!;
    }
  });
});

test('without a limit nothing is refused, and there are no headers', () => {
  const perMinute = Number.POSITIVE_INFINITY;
  expect(takeToken(NOW + 1000, NOW, perMinute)).toBe(NOW + 1000);
  expect(rateHeaders('x', 0, NOW, perMinute)).toEqual({});
});
