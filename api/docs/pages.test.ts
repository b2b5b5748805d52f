import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { testService } from '../../test/support/test-api.ts';
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

test('/llms.txt links to every page and to the OpenAPI document, without an API key', async () => {
  const service = await testService();
  await service.key();
  const response = await fetch(`${service.url}/llms.txt`);
  expect(response.headers.get('content-type')).toBe('text/plain; charset=utf-8');
  const text = await response.text();
  expect(text).toMatch(/^# Text to Video\n\n> This service makes a short video/);
  const links = [...text.matchAll(/^- \[[^\]]+\]\(([^)]+)\): .{3,}$/gm)].map(([, url]) => url!);
  const statuses = await Promise.all(links.map(async (url) => [url, (await fetch(url)).status]));
  const pages = Object.values(NAVIGATION)
    .flat()
    .map((name) => (name === 'index' ? '/docs' : `/docs/${name}`));
  expect(Object.fromEntries(statuses)).toEqual({
    ...Object.fromEntries(['/openapi.json', ...pages].map((path) => [`${service.url}${path}`, 200])),
    [`${service.url}/mcp`]: 401,
  });
  await service.close();
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
