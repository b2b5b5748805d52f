/** The Markdown files of docs/ as web pages. */
import { readFileSync } from 'node:fs';
import type { Token } from 'marked';
import { escapeHtml } from './highlight.ts';
import { type Heading, headingsOf, parseMarkdown, plainText, renderMarkdown } from './markdown.ts';

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
  Clients: ['clients/typescript', 'clients/command-line', 'clients/python', 'clients/openai', 'clients/mcp'],
  Models: [
    'models/camera',
    'models/svd',
    'models/fast',
    'models/animatelcm',
    'models/devices',
    'models/memory',
    'models/sampling',
    'models/feature-cache',
    'stills',
    'midjourney',
  ],
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
    'operate/device',
    'operate/limits',
    'operate/metrics',
    'operate/security',
    'troubleshooting',
  ],
  More: ['performance', 'glossary', 'licences'],
};
/** The service's URL in the Markdown files. */
const EXAMPLE_URL = 'http://127.0.0.1:5000';

const LLMS_INTRODUCTION = `# Text to Video

> This service makes a short video (MP4) from a prompt or a picture. POST ${EXAMPLE_URL}/img2vid creates a task. GET ${EXAMPLE_URL}/status?id=ID returns its progress and, at its end, a link to the video.

- [OpenAPI document](${EXAMPLE_URL}/openapi.json): every call, parameter, answer and error.
- [MCP server](${EXAMPLE_URL}/mcp): the same as tools for agents.
`;

const urlOf = (name: string) => (name === 'index' ? '/docs' : `/docs/${name}`);
const fileOf = (name: string) => new URL(`${name}.md`, DOCS);

/** A part of a page, for the search. */
interface Section {
  page: string;
  heading: string;
  url: string;
  text: string;
}

export interface Pages {
  /** the pages' URLs, in the order of the navigation */
  urls: string[];
  /** @returns HTML */
  render(url: string): string;
  /** @returns every section of every page but the list of pages */
  index(): Section[];
  /** @returns the list of pages for language models, as llmstxt.org describes it */
  llmsTxt(): string;
}

/**
 * Reads the Markdown files.
 * @param publicUrl replaces the URL of the examples
 * @throws Error if a file is missing
 */
export function openPages(publicUrl: string): Pages {
  const pages = new Map(
    Object.values(NAVIGATION)
      .flat()
      .map((name) => {
        const text = readFileSync(fileOf(name), 'utf8').replaceAll(EXAMPLE_URL, publicUrl);
        return [urlOf(name), { name, text, title: /^# (.*)$/m.exec(text)![1]!.replaceAll('`', '') }];
      }),
  );
  const titles = new Map([...pages.values()].map(({ name, title }) => [name, title]));
  return {
    urls: [...pages.keys()],
    render(url) {
      const { name, text } = pages.get(url)!;
      return shell(name, titles, parseMarkdown(text));
    },
    index: () =>
      [...pages].flatMap(([url, { name, title, text }]) =>
        name === 'index' ? [] : sections(url, title, parseMarkdown(text)),
      ),
    llmsTxt() {
      const link = (name: string) => {
        const { title, text } = pages.get(urlOf(name))!;
        return `- [${title}](${publicUrl}${urlOf(name)}): ${introductionOf(text)}`;
      };
      const groups = Object.entries(NAVIGATION).map(
        ([group, names]) => `## ${group}\n\n${names.map(link).join('\n')}\n`,
      );
      return [LLMS_INTRODUCTION.replaceAll(EXAMPLE_URL, publicUrl), ...groups].join('\n');
    },
  };
}

/** @param text a page in Markdown @returns its first paragraph */
function introductionOf(text: string): string {
  const paragraph = parseMarkdown(text).find(({ type }) => type === 'paragraph')!;
  return plainText([paragraph]).replace(/\s+/g, ' ').replace(/:$/, '.');
}

function sections(url: string, page: string, tokens: Token[]): Section[] {
  const headings = headingsOf(tokens);
  const found: Section[] = [];
  for (const token of tokens) {
    const heading = headings.get(token);
    if (heading)
      found.push(
        heading.depth === 1
          ? { page, heading: '', url, text: '' }
          : { page, heading: heading.text, url: `${url}#${heading.id}`, text: '' },
      );
    else found.at(-1)!.text += `${plainText([token])} `;
  }
  return found.map((section) => ({ ...section, text: section.text.replace(/\s+/g, ' ').trim() }));
}

/** @returns the URL of a link in a page; absolute URLs and those of the service stay as they are */
function resolve(name: string, href: string): string {
  if (/^([a-z]+:|\/|#)/.test(href)) return href;
  const { pathname, hash } = new URL(href, `file:///docs/${name}.md`);
  const [, page] = /^\/docs\/(.*)\.md$/.exec(pathname) ?? [];
  return (page === undefined ? pathname : urlOf(page)) + hash;
}

const SWAGGER_UI = `<link rel="stylesheet" href="/docs/swagger-ui.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/docs/reference.js" defer></script>
`;

function shell(name: string, titles: Map<string, string>, tokens: Token[]): string {
  const title = escapeHtml(titles.get(name)!);
  const headings = [...headingsOf(tokens).values()].filter(({ depth }) => depth === 2 || depth === 3);
  const isReference = name === 'api/reference';
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${title} · Text to Video</title>
<link rel="icon" href="/page/icon.svg">
<link rel="preload" href="/page/inter-latin-400-normal.woff2" as="font" type="font/woff2" crossorigin>
${isReference ? SWAGGER_UI : ''}<link rel="stylesheet" href="/page/theme.css">
<link rel="stylesheet" href="/docs/docs.css">
<script type="module" src="/docs/docs.js"></script>
<script type="module" src="/docs/search.js"></script>
</head>
<body>
<a class="skip" href="#content">Skip to the text</a>
<header class="top">
<a class="brand" href="/"><img src="/page/icon.svg" alt="" width="28" height="28">Text to Video</a>
<a class="section" href="/docs">Documentation</a>
<search hidden>
<input type="search" id="search" placeholder="Search" aria-label="Search the documentation" autocomplete="off" spellcheck="false" aria-controls="found">
<div id="found" hidden><p role="status"></p><ol></ol></div>
</search>
</header>
<div class="columns">
<nav class="pages" aria-label="Documentation"><details>
<summary>${title}</summary>
<div>${navigation(name, titles)}</div>
</details></nav>
<main id="content"${isReference ? ' class="wide"' : ''} tabindex="-1">
${renderMarkdown(tokens, (href) => resolve(name, href))}${neighbours(name, titles)}</main>
${headings.length > 1 && !isReference ? onThisPage(headings) : ''}</div>
</body>
</html>
`;
}

function navigation(name: string, titles: Map<string, string>): string {
  const link = (page: string) =>
    `<li><a href="${urlOf(page)}"${page === name ? ' aria-current="page"' : ''}>${escapeHtml(titles.get(page)!)}</a></li>`;
  return Object.entries(NAVIGATION)
    .map(([group, pages]) => `<h2>${group}</h2>\n<ul>\n${pages.map(link).join('\n')}\n</ul>\n`)
    .join('');
}

/** Links to the page before and the page after. */
function neighbours(name: string, titles: Map<string, string>): string {
  const names = [...titles.keys()];
  const at = names.indexOf(name);
  const link = (page: string | undefined, rel: string, label: string) =>
    page === undefined
      ? ''
      : `<a rel="${rel}" href="${urlOf(page)}"><span>${label}</span>${escapeHtml(titles.get(page)!)}</a>\n`;
  return `<nav class="neighbours" aria-label="Previous and next page">
${link(names[at - 1], 'prev', 'Previous')}${link(names[at + 1], 'next', 'Next')}</nav>
`;
}

function onThisPage(headings: Heading[]): string {
  const links = headings.map(
    ({ depth, id, text }) => `<li class="depth-${depth}"><a href="#${id}">${escapeHtml(text)}</a></li>\n`,
  );
  return `<nav class="contents" aria-labelledby="contents-title">
<h2 id="contents-title">On this page</h2>
<ul>
${links.join('')}</ul>
</nav>
`;
}
