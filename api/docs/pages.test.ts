import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { slugger } from './markdown.ts';
import { NAVIGATION } from './pages.ts';

const DOCS = fileURLToPath(new URL('../../docs', import.meta.url));

test('every file of docs/ is a page of the navigation, once', () => {
  const names = Object.values(NAVIGATION).flat();
  expect(new Set(names).size).toBe(names.length);
  const files = readdirSync(DOCS, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.md'));
  const served = files
    .map((path) => path.replace(/\.md$/, ''))
    .filter((name) => name !== 'contributing' && !name.startsWith('decisions/'));
  expect(served.filter((name) => !names.includes(name))).toEqual([]);
});

test('headings have GitHub’s ids', () => {
  const slug = slugger();
  const ids = ['What it does, and why', 'Prefer: wait', 'Idempotency-Key', 'max_width × 2', 'Größe', 'A & b', 'A & b'];
  expect(ids.map(slug)).toEqual([
    'what-it-does-and-why',
    'prefer-wait',
    'idempotency-key',
    'max_width--2',
    'größe',
    'a--b',
    'a--b-1',
  ]);
});
