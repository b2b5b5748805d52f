/** The fenced code blocks of README.md and docs/, for the tests that run them. */
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const ROOT = new URL('../../', import.meta.url);

/** Markdown files of docs/, as paths in the repository, sorted. */
export const docsFiles = (): string[] =>
  readdirSync(new URL('docs', ROOT), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`)
    .sort();

export interface Block {
  /** path in the repository */
  file: string;
  /** of the opening fence */
  line: number;
  language: string;
  /** the word after the language; docs/contributing.md lists all kinds */
  kind: string;
  code: string;
}

/** All blocks but those of docs/decisions, in order. */
export const docsBlocks = (): Block[] =>
  ['README.md', ...docsFiles().filter((name) => !name.startsWith('docs/decisions/'))].flatMap(blocksOf);

function blocksOf(file: string): Block[] {
  const text = readFileSync(fileURLToPath(new URL(file, ROOT)), 'utf8');
  if (/^[ >]+```/m.test(text)) throw new Error(`${file}: a code block is indented; begin its lines at the margin`);
  return [...text.matchAll(/^```([^\n]*)\n(.*?)^```$/gms)].map(({ index, 1: info, 2: code }) => {
    const [language = '', kind = ''] = info!.split(/ (.*)/);
    return { file, line: text.slice(0, index).split('\n').length, language, kind, code: code! };
  });
}
