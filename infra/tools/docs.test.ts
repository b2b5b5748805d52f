import { expect, test } from 'vitest';
import { current, read, WRITTEN } from './docs.ts';

test('the tables in docs are what the code has now (npm run docs)', () => {
  const tables = WRITTEN.map((name) => {
    const text = read(name);
    expect(text, name).toBe(current(text));
    return (text.match(/^\| ---/gm) ?? []).length;
  });
  expect(tables).toEqual([1, 2, 12]);
});
