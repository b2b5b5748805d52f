import { expect, test } from 'vitest';
import { parseRetryAfter } from './retry-after.js';

const NOW = Date.UTC(2026, 0, 31, 18, 0, 0);

test.each([
  ['120', 120_000],
  [' 0 ', 0],
  ['Sat, 31 Jan 2026 18:00:30 GMT', 30_000],
  ['Sat, 31 Jan 2026 17:00:00 GMT', 0],
  ['soon', undefined],
  ['-5', undefined],
  ['', undefined],
  [null, undefined],
  [undefined, undefined],
])('Retry-After %j is a pause of %j ms', (header, ms) => {
  expect(parseRetryAfter(header, NOW)).toBe(ms);
});
