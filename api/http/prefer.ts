/** The header Prefer (RFC 7240), of which `wait` is supported. */
export const MAX_WAIT = 60; // seconds

const TOKEN = "[!#$%&'*+.^_`|~\\w-]+";
const QUOTED = '"(?:[^"\\\\]|\\\\.)*"';
/** Matches the parts between separators outside of quotes, closed or not. It never backtracks, so it takes linear time. */
const between = (separator: string) => new RegExp(`(?:[^"${separator}]|"(?:[^"\\\\]|\\\\.)*"?)+`, 'g');
const [COMMA, SEMICOLON] = [between(','), between(';')];
const PREFERENCE = new RegExp(`^\\s*(${TOKEN})\\s*(?:=\\s*(${TOKEN}|${QUOTED})\\s*)?$`);

/**
 * @param header the header's value; several headers are joined with commas
 * @returns the seconds that the client would wait, at most MAX_WAIT; undefined if there is no valid `wait`
 */
export function parsePreferredWait(header = ''): number | undefined {
  for (const text of header.match(COMMA) ?? []) {
    const [preference = ''] = text.match(SEMICOLON) ?? []; // the rest are its parameters
    const [, name = '', value = ''] = PREFERENCE.exec(preference) ?? [];
    if (name.toLowerCase() !== 'wait') continue;
    const seconds = value.startsWith('"') ? value.slice(1, -1).replace(/\\(.)/g, '$1') : value;
    return /^\d+$/.test(seconds) ? Math.min(Number(seconds), MAX_WAIT) : undefined; // the first of several counts
  }
  return undefined;
}
