import { expect, test } from 'vitest';
import { clientFiles, current, read, WRITTEN } from './docs.ts';

test('the tables in docs are what the code has now (npm run docs)', () => {
  const tables = WRITTEN.map((name) => {
    const text = read(name);
    expect(text, name).toBe(current(text));
    return (text.match(/^\| ---/gm) ?? []).length;
  });
  expect(tables).toEqual([1, 2, 12]);
});

test('the client has the types and parameters that the schemas have now (npm run docs)', () => {
  for (const [path, text] of Object.entries(clientFiles())) expect(read(path), path).toBe(text);
});
