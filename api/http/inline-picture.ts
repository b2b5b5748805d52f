/** Pictures within text, as JSON carries them: base64 (RFC 4648) or a data URL (RFC 2397). */
import { randomUUID } from 'node:crypto';
import { isUploadName } from '../../core/file-name.ts';
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { imageTooLarge, MAX_PICTURE_TEXT } from './multipart.ts';
import { invalidInput } from './problem.ts';

/** Fields whose text may be a picture. */
const FIELDS = ['image', 'image_url'] as const;
export type PictureField = (typeof FIELDS)[number];

const QUOTE = 0x22;

interface Taken {
  /** the other values */
  values: Record<string, unknown>;
  image?: Uint8Array;
  /** the field that had the picture */
  imageField?: PictureField;
}

/**
 * Takes the picture out of the text of `image`, or of a data URL in `image_url`. Other text of `image` stays: it may be a file's name.
 * @throws Problem 413 the picture is too large, 422 a data URL has no base64, or there are two pictures
 */
export function takeInlinePicture(values: Record<string, unknown>): Taken {
  const pictures = FIELDS.flatMap((field) => {
    const text = values[field];
    const isOther = typeof text !== 'string' || (field === 'image' ? isName(text) : !isDataUrl(text));
    const image = isOther ? undefined : decode(text, field);
    return image ? [{ field, image }] : [];
  });
  const [first, second] = pictures;
  if (!first) return { values };
  if (second) throw invalidInput([{ field: 'image', message: 'given more than once: image_url is a picture, too' }]);
  const { [first.field]: _, ...others } = values;
  return { values: others, image: first.image, imageField: first.field };
}

/** Base64 of a PNG, GIF or WebP of a few pixels could be a name: the other types are longer, or have a slash. */
const isName = (text: string) => isUploadName(text) && !/^(iVBORw0KGgo|R0lGOD|UklGR)/.test(text);
const isDataUrl = (text: string) => /^\s{0,100}data:/i.test(text);

/** @returns the bytes; undefined: neither a data URL nor base64 */
function decode(text: string, field: PictureField): Uint8Array | undefined {
  const base64 = text.slice(/^\s{0,100}data:[^,]{0,200};base64,/i.exec(text)?.[0].length ?? 0);
  if (base64.length > MAX_PICTURE_TEXT) throw imageTooLarge();
  const bytes = decodeBase64(base64);
  if (bytes && bytes.length > MAX_PICTURE_BYTES) throw imageTooLarge();
  if (bytes || !isDataUrl(text)) return bytes;
  throw invalidInput([
    { field, message: 'must be a data URL with base64, such as data:image/png;base64,iVBORw0KGgo…' },
  ]);
}

/** Buffer skips what is not base64, so the length says whether everything but blanks is. */
function decodeBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, 'base64');
  const whole = text.trimEnd();
  const most = whole.length - (whole.endsWith('==') ? 2 : whole.endsWith('=') ? 1 : 0);
  const isComplete = (digits: number) =>
    digits > 1 && digits % 4 !== 1 && bytes.length === Math.floor((digits * 3) / 4);
  if (!isComplete(most) && !isComplete(most - countBlanks(whole))) return undefined;
  return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** Without a regular expression: with millions of line breaks that would block the process for seconds. */
function countBlanks(text: string): number {
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0x20 || (code >= 0x09 && code <= 0x0d)) count++;
  }
  return count;
}

/**
 * Replaces the longest text of a JSON document by a short one, so that a parser needs no more memory and time than for the rest.
 * @param maxRest bytes of the rest beyond which the longest text does not matter
 * @returns the shorter document, and a function that puts the text back into the values, or the arguments of an MCP tool; it returns
 * false if no field of a picture had it
 */
export function cutLongestText(json: Buffer, maxRest: number): [rest: Buffer, restore: (json: unknown) => boolean] {
  let [start, end] = [0, 0];
  // Beyond the limit the search ends: a document of nothing but quotes would block the process.
  for (let at = json.indexOf(QUOTE); at !== -1 && at - (end - start) <= maxRest; ) {
    const next = json.indexOf(QUOTE, at + 1);
    if (next - at > end - start) [start, end] = [at + 1, next];
    at = next;
  }
  const mark = randomUUID();
  const restore = (value: unknown) => {
    const { input_reference, params } = Object(value);
    const places = [value, input_reference, Object(params).arguments].map(Object) as Record<string, unknown>[];
    const found = places.flatMap((values) => FIELDS.map((field) => ({ values, field })));
    const place = found.find(({ values, field }) => values[field] === mark);
    if (place) place.values[place.field] = JSON.parse(`"${json.toString('latin1', start, end)}"`); // it may have escapes, such as \/
    return place !== undefined;
  };
  return [Buffer.concat([json.subarray(0, start), Buffer.from(mark), json.subarray(end)]), restore];
}
