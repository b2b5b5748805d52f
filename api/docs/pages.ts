/** Renders the Markdown files of docs/ as web pages. */
import { existsSync, readFileSync } from 'node:fs';
import { Marked, type Token } from 'marked';
import { slugger } from './slugs.ts';

const DOCS = new URL('../../docs/', import.meta.url);

/** All pages, in the order of the navigation: paths in docs/ without `.md`. */
export const NAVIGATION: Record<string, string[]> = {
  Start: ['index', 'quickstart'],
  API: [
    'api/tasks',
    'api/parameters',
    'api/errors',
    'api/events',
    'api/webhooks',
    'api/lists',
    'api/retries',
    'api/costs',
    'api/reference',
  ],
  Clients: ['clients/typescript', 'clients/command-line', 'clients/python'],
  Models: ['models/camera', 'models/svd', 'models/memory', 'models/sampling', 'midjourney'],
  Deploy: [
    'deploy/docker',
    'deploy/runpod-serverless',
    'deploy/runpod-endpoint',
    'deploy/runpod-costs',
    'deploy/runpod-pod',
    'deploy/proxy',
    'deploy/postgres',
    'deploy/s3',
    'deploy/upgrade',
    'deploy/backup',
  ],
  Operate: [
    'configuration',
    'operate/keys',
    'operate/budgets',
    'operate/limits',
    'operate/metrics',
    'operate/security',
    'troubleshooting',
  ],
  More: ['performance', 'glossary', 'licences', 'parameters', 'sampling'],
};
const SWAGGER_UI = `<link rel="stylesheet" href="/docs/swagger-ui.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/docs/reference.js" defer></script>
`;
/** The service's URL in the Markdown files. */
const EXAMPLE_URL = 'http://127.0.0.1:5000';

const urlOf = (name: string) => (name === 'index' ? '/docs' : `/docs/${name}`);
const fileOf = (name: string) => new URL(`${name}.md`, DOCS);

/**
 * @param publicUrl replaces the URL of the examples
 * @returns HTML by path
 */
export function renderPages(publicUrl: string): Map<string, string> {
  const there = Object.values(NAVIGATION)
    .flat()
    .filter((name) => existsSync(fileOf(name))); // until all pages are written
  const texts = new Map(
    there.map((name) => [name, readFileSync(fileOf(name), 'utf8').replaceAll(EXAMPLE_URL, publicUrl)]),
  );
  const titles = new Map([...texts].map(([name, text]) => [name, /^# (.*)$/m.exec(text)![1]!]));
  return new Map([...texts].map(([name, text]) => [urlOf(name), shell(name, titles, render(name, text))]));
}

/** Markdown to HTML. Links and pictures lead to the pages' URLs instead of the files. */
function render(name: string, text: string): string {
  const slug = slugger();
  return new Marked({
    walkTokens(token) {
      if (token.type === 'link' || token.type === 'image') token.href = resolve(name, token.href);
    },
    renderer: {
      heading({ tokens, depth }) {
        return `<h${depth} id="${slug(plainText(tokens))}">${this.parser.parseInline(tokens)}</h${depth}>\n`;
      },
    },
  }).parse(text, { async: false });
}

/** @returns the URL of a link in a page; absolute URLs and those of the service stay as they are */
function resolve(name: string, href: string): string {
  if (/^([a-z]+:|\/|#)/.test(href)) return href;
  const { pathname, hash } = new URL(href, `file:///docs/${name}.md`);
  const [, page] = /^\/docs\/(.*)\.md$/.exec(pathname) ?? [];
  return (page === undefined ? pathname : urlOf(page)) + hash;
}

const plainText = (tokens: Token[]): string =>
  tokens
    .map((token) => ('tokens' in token && token.tokens ? plainText(token.tokens) : token.raw.replace(/^`+|`+$/g, '')))
    .join('');

function shell(name: string, titles: Map<string, string>, body: string): string {
  const link = (page: string) =>
    `<a href="${urlOf(page)}"${page === name ? ' aria-current="page"' : ''}>${titles.get(page)}</a>`;
  const groups = Object.entries(NAVIGATION)
    .map(([group, pages]) => [group, pages.filter((page) => titles.has(page))] as const)
    .filter(([, pages]) => pages.length > 0)
    .map(([group, pages]) => `<h2>${group}</h2>\n${pages.map(link).join('\n')}`);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${titles.get(name)} · Text to Video</title>
<link rel="icon" href="/page/icon.svg">
${name === 'api/reference' ? SWAGGER_UI : ''}<link rel="stylesheet" href="/docs/docs.css">
</head>
<body>
<header><a href="/">Text to Video</a></header>
<nav aria-label="Documentation">${groups.join('\n')}</nav>
<main>
${body}</main>
</body>
</html>
`;
}
