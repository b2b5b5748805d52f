import { readFileSync } from 'node:fs';
import type { Token, Tokens } from 'marked';
import { expect, test } from 'vitest';
import { parseMarkdown, plainText } from '../../api/docs/markdown.ts';
import { docsFiles } from '../../test/support/docs-blocks.ts';

interface Sentence {
  /** first line of its paragraph */
  line: number;
  text: string;
  words: number;
}

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');
const wordsOf = (text: string) => text.split(/\s+/).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;

/** Like plainText, but code keeps its backticks, because a sentence can begin with code. */
const textOf = (tokens: Token[]): string =>
  tokens
    .map((token) => {
      if (token.type === 'codespan') return `\`${token.text}\``;
      return 'tokens' in token && token.tokens ? textOf(token.tokens) : plainText([token]);
    })
    .join('');

/** The sentences of a text, without headings, code blocks, tables and comments. A list item is at least one. */
function sentencesOf(markdown: string): Sentence[] {
  const found: Sentence[] = [];
  const add = (tokens: Token[], line: number) => {
    for (const text of textOf(tokens)
      .replace(/\s+/g, ' ')
      .split(/(?<=[.!?]["”)]?) (?=["“(]?[\p{Lu}\p{N}`])/u))
      if (wordsOf(text) > 0) found.push({ line, text: text.trim(), words: wordsOf(text) });
  };
  const walk = (tokens: Token[], first: number) => {
    let line = first;
    for (const token of tokens) {
      if (token.type === 'list') {
        let itemLine = line;
        for (const item of (token as Tokens.List).items) {
          walk(item.tokens, itemLine);
          itemLine += item.raw.split('\n').length - (item.raw.endsWith('\n') ? 1 : 0);
        }
      } else if (token.type === 'blockquote') walk((token as Tokens.Blockquote).tokens, line);
      else if (['paragraph', 'text'].includes(token.type) && 'tokens' in token) add(token.tokens ?? [], line);
      line += token.raw.split('\n').length - 1;
    }
  };
  walk(parseMarkdown(markdown), 1);
  return found;
}

const longOnes = (file: string) =>
  sentencesOf(read(file))
    .filter(({ words }) => words > 30)
    .map(({ line, text, words }) => `${file}:${line}: ${words} words: ${text}`);

/** Words outside of code blocks and comments. */
function countWords(file: string): number {
  const others = parseMarkdown(read(file)).filter(({ type }) => type === 'table' || type === 'heading');
  return sentencesOf(read(file)).reduce(
    (sum, { words }) => sum + words,
    wordsOf(others.map((token) => plainText([token])).join(' ')),
  );
}

test('sentences are found with their lines', () => {
  const markdown =
    '# A title\n\nOne two. Three\nfour: 5.\n\n- five [six](x.md)\n- `seven eight`\n\n  nine\n\n```js\nno\n```\n\n<!-- no -->\nTen.\n';
  expect(sentencesOf(markdown)).toEqual([
    { line: 3, text: 'One two.', words: 2 },
    { line: 3, text: 'Three four: 5.', words: 3 },
    { line: 6, text: 'five six', words: 2 },
    { line: 7, text: '`seven eight`', words: 2 },
    { line: 9, text: 'nine', words: 1 },
    { line: 16, text: 'Ten.', words: 1 },
  ]);
});

test('README is short: at most 150 lines and 1,300 words, at most 16 words a sentence on average', () => {
  const sentences = sentencesOf(read('README.md'));
  expect(read('README.md').trimEnd().split('\n').length).toBeLessThanOrEqual(150);
  expect(countWords('README.md')).toBeLessThanOrEqual(1300);
  const mean = sentences.reduce((sum, { words }) => sum + words, 0) / sentences.length;
  expect(mean).toBeLessThanOrEqual(16);
});

test('ARCHITECTURE has at most 2,000 words', () => {
  expect(countWords('ARCHITECTURE.md')).toBeLessThanOrEqual(2000);
});

test('no sentence of README and docs has more than 30 words', () => {
  expect(['README.md', ...docsFiles()].flatMap(longOnes)).toEqual([]);
});
