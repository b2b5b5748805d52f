/** The header Prefer (RFC 7240), of which `wait` is heeded. */
export const LONGEST_WAIT = 60; // seconds

const TOKEN = "[!#$%&'*+.^_`|~\\w-]+";
const QUOTED = '"(?:[^"\\\\]|\\\\.)*"';
/** What stands between commas, or before semicolons; those inside of quotes, closed or not, don't count. Never goes back: linear. */
const between = (separator: string) => new RegExp(`(?:[^"${separator}]|"(?:[^"\\\\]|\\\\.)*"?)+`, 'g');
const [COMMA, SEMICOLON] = [between(','), between(';')];
const PREFERENCE = new RegExp(`^\\s*(${TOKEN})\\s*(?:=\\s*(${TOKEN}|${QUOTED})\\s*)?$`);

/**
 * How many seconds the caller would wait, at most 60. Undefined where it says nothing that can be read; then it is as if it said nothing.
 * @param header several headers are one, with commas between
 */
export function waitOf(header = ''): number | undefined {
  for (const text of header.match(COMMA) ?? []) {
    const [preference = ''] = text.match(SEMICOLON) ?? []; // parameters follow
    const [, name = '', value = ''] = PREFERENCE.exec(preference) ?? [];
    if (name.toLowerCase() !== 'wait') continue;
    const seconds = value.startsWith('"') ? value.slice(1, -1).replace(/\\(.)/g, '$1') : value;
    return /^\d+$/.test(seconds) ? Math.min(Number(seconds), LONGEST_WAIT) : undefined; // of several the first counts
  }
  return undefined;
}
