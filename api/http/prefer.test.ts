import { expect, test } from 'vitest';
import { parsePreferredWait } from './prefer.ts';

test.each<[string | undefined, number | undefined]>([
  [undefined, undefined],
  ['', undefined],
  ['wait=5', 5],
  ['wait=0', 0],
  ['wait=007', 7],
  ['WAIT = 10', 10],
  ['wait="10"', 10],
  ['wait="1\\0"', 10],
  ['wait=60', 60],
  ['wait=61', 60],
  [`wait=${'9'.repeat(400)}`, 60],
  ['respond-async, wait=10', 10],
  ['respond-async,wait=10', 10],
  ['wait=10; foo="a, wait=20"', 10],
  ['foo="a, wait=20", wait=10', 10],
  ['foo="a\\", wait=20", wait=10', 10],
  ['foo; wait=5, wait=6', 6], // of another preference a parameter
  ['handling=lenient; a=b; c, , wait=3;x', 3],
  ['wait=5, wait=10', 5],
  ['wait=x, wait=10', undefined],
  ['wait', undefined],
  ['wait=', undefined],
  ['wait=""', undefined],
  ['wait=-5', undefined],
  ['wait=5.5', undefined],
  ['wait=1e1', undefined],
  ['wait=5 6', undefined],
  ['wait="5', undefined],
  ['"wait"=5', undefined],
  ['waits=5', undefined],
  ['=5, wait=6', 6],
  ['foo="never closed, wait=6', undefined],
])('Prefer: %s', (header, seconds) => {
  expect(parsePreferredWait(header)).toBe(seconds);
});

test('a long header made to cause backtracking is parsed at once', () => {
  const started = process.cpuUsage();
  for (const text of ['"', '\\"', '"\\', 'a=', 'wait ', '" ,', '";'])
    parsePreferredWait(text.repeat(16_384 / text.length));
  expect(process.cpuUsage(started).user).toBeLessThan(200_000); // microseconds
});
