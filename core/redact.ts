/** Removes from texts for the log what gives access, and what a caller wrote: an error may repeat both. */

/** Characters: an error may repeat a whole response. */
const MAX_TEXT = 10_000;
const REMOVED = '…';

/** A secret that is shorter is part of too many words. */
const MIN_SECRET = 5; // characters

/** http(s) and Postgres URLs, also escaped in JSON. All but the host may give access: a path, a query, or a password before the host. */
const LINK = /\b(https?|postgres(?:ql)?):\\?\/\\?\/(?:[^\s/"'<>@\\]*@)?([^\s/"'<>?#\\]*)([^\s"'<>]*)/gi;
const OWN_KEYS = /\b(i2v_|whsec_)[\w+/=-]+/g;
/** JSON.parse quotes a part of the text that it can't read. */
const QUOTED_JSON = /Unexpected token .*? is not valid JSON/gs;
const STACK_FRAME = /^ +at .+:\d+:\d+\)?$/;
/** Scripts without spaces, such as Chinese, are compared letter by letter. */
const WORD = /\p{Lo}|[\p{L}\p{N}]{3,}/gu;

/** The values of environment variables that hold keys, passwords and tokens. */
export function secretsOf(environment: NodeJS.ProcessEnv): string[] {
  return Object.entries(environment)
    .filter(([name]) => /(^|_)(KEY|SECRET|TOKEN|(PG)?PASSWORD)(_|$)/.test(name))
    .flatMap(([, value = '']) => [value, ...value.split(',').map((part) => part.trim())]) // several bridges' keys in one variable
    .filter((secret) => secret.length >= MIN_SECRET);
}

/**
 * @param secrets are removed wherever they occur
 * @param prompt its words are removed, except from stack frames
 * @returns at most MAX_TEXT characters
 */
export function redact(text: string, secrets: readonly string[] = [], prompt = ''): string {
  const known = secrets.reduce((rest, secret) => rest.replaceAll(secret, REMOVED), text).slice(0, MAX_TEXT);
  const open = known
    .replace(LINK, (_, protocol, host, rest) => `${protocol}://${host}${rest && `/${REMOVED}`}`)
    .replace(OWN_KEYS, `$1${REMOVED}`)
    .replace(QUOTED_JSON, 'not valid JSON');
  if (prompt === '') return open;
  const words = prompt.slice(0, MAX_TEXT).toLowerCase();
  const removeWord = (word: string) => (words.includes(word.toLowerCase()) ? REMOVED : word);
  const lines = open.split('\n').map((line) => (STACK_FRAME.test(line) ? line : line.replace(WORD, removeWord)));
  return lines.join('\n');
}
