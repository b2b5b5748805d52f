import { expect, test } from 'vitest';
import { cost, parsePrice } from './money.ts';

test.each([
  ['0', 0n],
  ['0.0', 0n],
  ['1', 1_000_000_000_000n],
  ['0.1', 100_000_000_000n],
  ['0.00034', 340_000_000n],
  ['0.000000000001', 1n],
  ['007.50', 7_500_000_000_000n],
  ['123456789.987654321098', 123_456_789_987_654_321_098n], // more than a number could hold
])('the price %s', (text, price) => {
  expect(parsePrice(text)).toBe(price);
});

test.each([
  '',
  ' 1',
  '1 ',
  '-1',
  '+1',
  '-0',
  '.5',
  '5.',
  '1e3',
  '1,5',
  '0x1',
  'NaN',
  'Infinity',
  '0.0000000000001',
  '1234567890',
])('%j is no price', (text) => {
  expect(parsePrice(text)).toBeUndefined();
});

test('what something costs is exact, and rounded up to a micro-unit only at the end', () => {
  const of = (perGpuSecond: string, perStill: string, gpuTime: number, stills: number) =>
    cost(
      { currency: 'USD', perGpuSecond: parsePrice(perGpuSecond)!, perStill: parsePrice(perStill)! },
      { gpuTime, stills },
    );
  expect(of('0', '0', 1_000_000, 1)).toBe(0);
  expect(of('0.00034', '0', 10_000, 0)).toBe(3400);
  expect(of('0.00034', '0.05', 10_000, 1)).toBe(53_400);
  expect(of('0.1', '0.2', 3000, 1)).toBe(500_000); // 0.1 + 0.2, three times over
  expect(of('0.0000001', '0', 1, 0)).toBe(1); // a ten-thousandth of one
  expect(of('0.0000005', '0.0000005', 1000, 1)).toBe(1);
  expect(of('0.0000005', '0.0000005', 1001, 1)).toBe(2);
  expect(of('100', '0', 11_450_000_000, 0)).toBe(1_145_000_000_000_000); // the dearest clip there is
});
