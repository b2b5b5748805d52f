import { expect, test } from 'vitest';
import { costOf, costOfTime, parsePrice } from './money.ts';

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

test('the cost of time is exact, and rounded up to a micro-unit', () => {
  const of = (perSecond: string, time: number) => costOfTime(parsePrice(perSecond)!, time);
  expect(of('0', 1_000_000)).toBe(0);
  expect(of('0.00034', 10_000)).toBe(3400);
  expect(of('0.1', 3000)).toBe(300_000);
  expect(of('0.0000001', 1)).toBe(1); // a ten-thousandth of one
  expect(of('0.0000005', 2000)).toBe(1);
  expect(of('0.0000005', 2001)).toBe(2);
  expect(of('100', 11_450_000_000)).toBe(1_145_000_000_000_000); // the dearest clip there is
  expect(costOfTime(340_000_000, 10_000)).toBe(3400); // a price as it is kept
});

test('a price is rounded up to a micro-unit', () => {
  expect([costOf(0n), costOf(1n), costOf(1_000_000n), costOf(1_000_001n)]).toEqual([0, 1, 1, 2]);
  expect(costOf(parsePrice('0.05')!)).toBe(50_000);
});
