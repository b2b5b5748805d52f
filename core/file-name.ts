/** Names of files: what an upload is called, and what clients save a clip as. */
import type { Input } from './parameters.ts';

/** Characters of an upload's name, and of the words that a clip's name begins with. */
const [MAX_UPLOAD_NAME, MAX_WORDS] = [100, 60];

/** What HTTP libraries call bytes without a name. */
const UNNAMED = /^(?:|\.+[a-z\d]*|blob|file|image|upload)$/i;
const ENDING = /\.[a-z\d]{1,5}$/i;

/**
 * The name of an uploaded file as people read it: without folders, control characters and marks that turn the direction of text.
 * @param sent as the client sent it; browsers escape quotes and line breaks in it
 * @returns at most 100 characters; undefined where nothing is left, or only what a library calls every file
 */
export function uploadName(sent: string): string | undefined {
  const text = sent.replace(/%22/g, '"').replace(/%0[ad]/gi, ' ');
  const name = text.slice(Math.max(text.lastIndexOf('/'), text.lastIndexOf('\\')) + 1);
  const visible = name.replace(/[\s\p{C}\p{Z}\ufffd]+/gu, ' ').trim();
  return UNNAMED.test(visible) ? undefined : [...visible].slice(0, MAX_UPLOAD_NAME).join('').trim();
}

/** Whether the text is what `uploadName` makes of it. Long text is not examined: a picture in base64 has millions of characters. */
export const isUploadName = (text: string): boolean => text.length <= 2 * MAX_UPLOAD_NAME && uploadName(text) === text;

/**
 * What the names of a task's files begin with: what the clip was made from, as in `a-lighthouse-at-dawn`.
 * @returns 1–60 ASCII letters, digits, hyphens and underscores; `clip` where the input has no such words
 */
export function clipName({ prompt, image_url, image }: Pick<Input, 'prompt' | 'image_url' | 'image'>): string {
  const source = prompt === undefined ? (image?.replace(ENDING, '') ?? urlWords(image_url)) : promptWords(prompt);
  const words = source
    .normalize('NFKD')
    .replace(/[\p{M}'’]/gu, '') // é becomes e
    .split(/[^A-Za-z0-9_]+/)
    .filter(Boolean)
    .join('-');
  const isLong = words.length > MAX_WORDS;
  const whole = isLong ? words.slice(0, MAX_WORDS + 1).replace(/(?<=.{20})-[^-]*$/, '') : words; // ends with a whole word
  const name = whole.slice(0, MAX_WORDS);
  return UNNAMED.test(name) ? 'clip' : name;
}

/** A prompt without URLs and Midjourney's flags. */
const promptWords = (prompt: string) =>
  prompt
    .slice(0, 500)
    .replace(/\b[a-z]+:\/\/\S+/gi, ' ')
    .replace(/(?:^|\s)(?:--|—)\w.*$/s, '');

/** The last part of a URL's path, unless it is a number or a hash. */
function urlWords(url: string | undefined): string {
  const last = url === undefined ? '' : (new URL(url).pathname.split('/').at(-1) ?? '');
  const name = decode(last).replace(ENDING, '');
  return /[a-z].*[a-z]/i.test(name) && !/^[\da-f-]{16,}$/i.test(name) ? name : '';
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray %
  }
}
