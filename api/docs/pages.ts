/** Renders the Markdown files of docs/ as web pages. */
import { readFileSync } from 'node:fs';
import { Marked } from 'marked';

const DOCS = new URL('../../docs/', import.meta.url);

/** Titles by file name, in the order of the navigation. */
const PAGES = {
  index: 'Quick start',
  client: 'Client and command line',
  parameters: 'Parameters',
  sampling: 'Sampling',
  webhooks: 'Webhooks',
  errors: 'Errors',
  backup: 'Backup and restore',
  reference: 'Reference',
  glossary: 'Glossary',
};
const SWAGGER_UI = `<link rel="stylesheet" href="/docs/swagger-ui.css">
<script src="/docs/swagger-ui-bundle.js" defer></script>
<script src="/docs/reference.js" defer></script>
`;
/** The service's URL in the Markdown files. */
const EXAMPLE_URL = 'http://127.0.0.1:5000';

const pathOf = (name: string) => (name === 'index' ? '/docs' : `/docs/${name}`);

/**
 * @param publicUrl replaces the URL of the examples
 * @returns HTML by path
 */
export function renderPages(publicUrl: string): Map<string, string> {
  return new Map(
    Object.entries(PAGES).map(([name, title]) => {
      const text = readFileSync(new URL(`${name}.md`, DOCS), 'utf8').replaceAll(EXAMPLE_URL, publicUrl);
      return [pathOf(name), shell(name, title, marked.parse(text, { async: false }))];
    }),
  );
}

/** Gives headings ids, and makes links and pictures lead to the pages' URLs instead of the files. */
const marked = new Marked({
  walkTokens(token) {
    if (token.type === 'link') token.href = token.href.replace(/^(\w+)\.md/, (_: string, name: string) => pathOf(name));
    if (token.type === 'image') token.href = `/docs/${token.href}`;
  },
  renderer: {
    heading({ tokens, depth, text }) {
      const id = text
        .toLowerCase()
        .replace(/[^\w]+/g, '-')
        .replace(/^-|-$/g, '');
      return `<h${depth} id="${id}">${this.parser.parseInline(tokens)}</h${depth}>\n`;
    },
  },
});

function shell(name: string, title: string, body: string): string {
  const links = Object.entries(PAGES).map(
    ([other, text]) => `<a href="${pathOf(other)}"${other === name ? ' aria-current="page"' : ''}>${text}</a>`,
  );
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · Text to Video</title>
<link rel="icon" href="/page/icon.svg">
${name === 'reference' ? SWAGGER_UI : ''}<link rel="stylesheet" href="/docs/docs.css">
</head>
<body>
<header><a href="/">Text to Video</a></header>
<nav aria-label="Documentation">${links.join('\n')}</nav>
<main>
${body}</main>
</body>
</html>
`;
}
