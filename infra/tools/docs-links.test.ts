import { existsSync, readFileSync } from 'node:fs';
import { marked, type Token } from 'marked';
import { expect, test } from 'vitest';
import { headingsOf, parseMarkdown } from '../../api/docs/markdown.ts';
import { docsFiles } from '../../test/support/docs-blocks.ts';

const ROOT = new URL('../../', import.meta.url);
const FILES = ['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', ...docsFiles()];

const parse = (file: string) => parseMarkdown(readFileSync(new URL(file, ROOT), 'utf8'));

function linksOf(tokens: Token[]): string[] {
  const links: string[] = [];
  marked.walkTokens(tokens, (token) => {
    if (token.type === 'link' || token.type === 'image') links.push(token.href);
    if (token.type === 'html') for (const [, href] of token.raw.matchAll(/(?:src|href)="([^"]+)"/g)) links.push(href!);
  });
  return links;
}

test('every link of README, ARCHITECTURE, CHANGELOG and docs leads to a file and a heading that exist', () => {
  const ids = new Map<string, Set<string>>();
  const idsOf = (file: string) => {
    if (!ids.has(file)) ids.set(file, new Set([...headingsOf(parse(file)).values()].map(({ id }) => id)));
    return ids.get(file)!;
  };
  const faults: string[] = [];
  let count = 0;
  for (const file of FILES) {
    const isServed = file.startsWith('docs/') && !/^docs\/(decisions\/|contributing\.md)/.test(file);
    for (const link of linksOf(parse(file))) {
      if (/^([a-z]+:|\/)/.test(link)) continue; // another site, or a path of the service
      count++;
      const url = new URL(link, new URL(file, ROOT));
      const target = decodeURIComponent(url.pathname.slice(ROOT.pathname.length));
      const id = decodeURIComponent(url.hash.slice(1));
      if (!existsSync(new URL(target, ROOT))) faults.push(`${file}: ${link}: there is no such file`);
      else if (id && !idsOf(target).has(id)) faults.push(`${file}: ${link}: there is no such heading`);
      else if (isServed && (!target.startsWith('docs/') || /^docs\/(decisions\/|contributing\.md)/.test(target)))
        faults.push(`${file}: ${link}: the service does not have this page`);
    }
  }
  expect(faults).toEqual([]);
  expect(count).toBeGreaterThan(100);
});
