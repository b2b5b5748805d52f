/** The documentation: Markdown of docs/ as web pages. */
import { readFileSync } from 'node:fs';
import { Marked } from 'marked';

const DOCS = new URL('../../docs/', import.meta.url);

/** In the order of the navigation. */
const PAGES = {
  index: 'Quick start',
  client: 'Client and command line',
  parameters: 'Parameters',
  sampling: 'Sampling',
  webhooks: 'Webhooks',
  errors: 'Errors',
  reference: 'Reference',
};
/** The address that examples stand for. */
const EXAMPLE = 'http://127.0.0.1:5000';

const addressOf = (name: string) => (name === 'index' ? '/docs' : `/docs/${name}`);

/**
 * @param publicUrl the service's own address, which examples then have
 * @returns HTML by path
 */
export function pages(publicUrl: string): Map<string, string> {
  return new Map(
    Object.entries(PAGES).map(([name, title]) => {
      const text = readFileSync(new URL(`${name}.md`, DOCS), 'utf8').replaceAll(EXAMPLE, publicUrl);
      return [addressOf(name), shell(name, title, marked.parse(text, { async: false }))];
    }),
  );
}

/** Headings can be linked to; links and pictures lead to the pages' addresses instead of the files. */
const marked = new Marked({
  walkTokens(token) {
    if (token.type === 'link')
      token.href = token.href.replace(/^(\w+)\.md/, (_: string, name: string) => addressOf(name));
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
    ([other, text]) => `<a href="${addressOf(other)}"${other === name ? ' aria-current="page"' : ''}>${text}</a>`,
  );
  const isReference = name === 'reference';
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · Text to Video</title>
<link rel="icon" href="/page/icon.svg">
${isReference ? '<link rel="stylesheet" href="/docs/swagger-ui.css">\n' : ''}<link rel="stylesheet" href="/docs/docs.css">
${isReference ? '<script src="/docs/swagger-ui-bundle.js" defer></script>\n<script src="/docs/reference.js" defer></script>\n' : ''}</head>
<body>
<header><a href="/">Text to Video</a></header>
<nav aria-label="Documentation">${links.join('\n')}</nav>
<main${isReference ? ' class="wide"' : ''}>
${body}</main>
</body>
</html>
`;
}
