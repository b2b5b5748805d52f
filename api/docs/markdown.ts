/** Markdown as the documentation uses it: headings with GitHub's ids, highlighted code, links between files. */
import { Marked, type Token, type Tokens } from 'marked';
import { escapeHtml, highlight } from './highlight.ts';

export interface Heading {
  depth: number;
  text: string;
  id: string;
}

/**
 * Ids of headings, as GitHub makes them: lower case, without punctuation, `-` for each space, and `-1`, `-2` … where an id repeats.
 * @returns a function from a heading's plain text to its id, for one page
 */
export function slugger(): (text: string) => string {
  const counts = new Map<string, number>();
  return (text) => {
    const slug = text
      .trim()
      .toLowerCase()
      .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, '')
      .replaceAll(' ', '-');
    const count = counts.get(slug) ?? 0;
    counts.set(slug, count + 1);
    return count === 0 ? slug : `${slug}-${count}`;
  };
}

export const parseMarkdown = (text: string): Token[] => new Marked().lexer(text);

/** The words of tokens, without markup. */
export function plainText(tokens: Token[]): string {
  return tokens
    .map((token) => {
      if (token.type === 'table') {
        const { header, rows } = token as Tokens.Table;
        return [header, ...rows].map((cells) => cells.map((cell) => plainText(cell.tokens)).join(' ')).join('\n');
      }
      if (token.type === 'list') return (token as Tokens.List).items.map((item) => plainText(item.tokens)).join('\n');
      if (token.type === 'html' || token.type === 'image') return '';
      if ('tokens' in token && token.tokens) return plainText(token.tokens);
      return 'text' in token ? token.text : ' ';
    })
    .join('');
}

/** @returns the headings of a page, by token */
export function headingsOf(tokens: Token[]): Map<Token, Heading> {
  const slug = slugger();
  const headings = tokens.filter((token): token is Tokens.Heading => token.type === 'heading');
  return new Map(
    headings.map((token) => {
      const text = plainText(token.tokens);
      return [token, { depth: token.depth, text, id: slug(text) }];
    }),
  );
}

/** @param resolve the URL of a link's or picture's address */
export function renderMarkdown(tokens: Token[], resolve: (href: string) => string): string {
  const headings = headingsOf(tokens);
  const marked = new Marked({
    renderer: {
      heading(token) {
        return `<h${token.depth} id="${headings.get(token)?.id}">${this.parser.parseInline(token.tokens)}</h${token.depth}>\n`;
      },
      code({ text, lang = '' }) {
        const [language = '', kind = ''] = lang.split(/ (.*)/);
        const caption = kind === 'answer' ? '<figcaption>Answer</figcaption>\n' : '';
        return `<figure class="code">\n${caption}<pre tabindex="0"><code>${highlight(text, language)}\n</code></pre>\n</figure>\n`;
      },
      table(token) {
        const names = token.header.map((cell) => escapeHtml(plainText(cell.tokens)));
        const row = (cells: Tokens.TableCell[], tag: 'th' | 'td') =>
          cells
            .map(
              (cell, i) =>
                `<${tag}${tag === 'td' ? ` data-name="${names[i]}"` : ''}>${this.parser.parseInline(cell.tokens)}</${tag}>`,
            )
            .join('');
        const rows = token.rows.map((cells) => `<tr>${row(cells, 'td')}</tr>\n`).join('');
        return `<div class="table" tabindex="0">\n<table>\n<thead><tr>${row(token.header, 'th')}</tr></thead>\n<tbody>\n${rows}</tbody>\n</table>\n</div>\n`;
      },
    },
  });
  marked.walkTokens(tokens, (token) => {
    if (token.type === 'link' || token.type === 'image') token.href = resolve(token.href);
  });
  return marked.parser(tokens);
}
