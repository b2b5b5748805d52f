/** Reads the body of a POST, in any of the three accepted content types, to values by name. */
import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';
import { uploadName } from '../../core/file-name.ts';
import type { FieldNote } from '../../core/invalid-request.ts';
import { parseTextFields } from '../../core/text-fields.ts';
import { cutLongestText, type PictureField, takeInlinePicture } from './inline-picture.ts';
import {
  MAX_FIELDS,
  MAX_PICTURE_TEXT,
  MAX_TEXT_BYTES,
  type Part,
  parseMultipart,
  tooManyFields,
  tooMuchText,
} from './multipart.ts';
import { ClientDisconnected, invalidInput, Problem } from './problem.ts';

/** A picture, which may be text, and the text around it. */
const MAX_BODY_BYTES = MAX_PICTURE_TEXT + MAX_TEXT_BYTES;
/** Bodies up to this length, in bytes, are read at once and not counted. Node reads no more than Content-Length. */
const SMALL_BODY = 8192;

export const unsupportedMediaType = () =>
  new Problem(
    'unsupported_media_type',
    'send application/json, application/x-www-form-urlencoded or multipart/form-data',
    { headers: { accept: 'application/json, application/x-www-form-urlencoded, multipart/form-data' } },
  );
const tooLarge = (max: number) =>
  new Problem('too_large', `a request of this content type may have at most ${max / 1e6} MB`);
const notUtf8 = (cause?: unknown) => new Problem('unreadable', 'the body is not UTF-8', { cause });
export const notJson = (cause?: unknown) => new Problem('unreadable', 'the body is not JSON', { cause });

/** What `curl -d '{…}'` sends without a header. */
const jsonAsForm = () =>
  new Problem(
    'unsupported_media_type',
    'the body looks like JSON, but Content-Type says form; send Content-Type: application/json',
  );
const encodedBody = (encoding: string) =>
  new Problem('unsupported_media_type', `Content-Encoding: ${encoding} is not supported; send the body without it`, {
    headers: { 'accept-encoding': 'identity' },
  });

/** Counts the bytes of a large body before it is read, and may throw. */
type Reserve = (c: Context, bytes: number) => void;

export interface Body {
  /** unchecked */
  values: Record<string, unknown>;
  image?: Uint8Array;
  /** name of the picture's file, as people read it */
  imageName?: string | undefined;
  /** the field that had the picture as text */
  imageField?: PictureField;
  /** of the endpoint, about values that it has translated */
  warnings?: FieldNote[];
}

/**
 * @param file name of the part of a multipart form that is the picture
 * @throws Problem 400 unreadable, 413 too large, 415 unsupported content type, 422 a repeated field, an unexpected file or a picture that is
 * no base64, and those of `reserve`
 * @throws ClientDisconnected
 */
export async function readBody(c: Context, reserve: Reserve, file = 'image'): Promise<Body> {
  const type = c.req.header('content-type') ?? '';
  switch (type.split(';')[0]!.trim().toLowerCase()) {
    case 'application/json':
      return takeInlinePicture(await readJsonBody(c, reserve));
    case 'application/x-www-form-urlencoded':
      return takeInlinePicture(readForm(await readText(c, reserve)));
    case 'multipart/form-data':
      return readMultipart(await readBytes(c, MAX_BODY_BYTES, reserve), type, file);
    default:
      throw unsupportedMediaType();
  }
}

/** Reads a JSON object, which may have a picture as text. @throws Problem 400, 413, 415, and those of `reserve`. @throws ClientDisconnected */
export const readJsonBody = async (c: Context, reserve: Reserve) =>
  readJson(await readBytes(c, MAX_BODY_BYTES, reserve));

/**
 * Reads at most `max` bytes. They are copied to one buffer as they arrive, because each of many small chunks would cost memory. Memory
 * that no byte was written to is not used yet.
 * @throws Problem 413, 415 the body is encoded, and those of `reserve`
 * @throws ClientDisconnected
 */
export async function readBytes(c: Context, max: number, reserve: Reserve = () => undefined): Promise<Buffer> {
  const encoding = c.req.header('content-encoding') ?? 'identity';
  if (encoding.toLowerCase() !== 'identity') throw encodedBody(encoding);
  const announced = c.req.header('content-length');
  const capacity = announced === undefined ? max : Number(announced);
  if (capacity > max) throw tooLarge(max);
  const { incoming } = c.env as HttpBindings;
  try {
    if (capacity <= SMALL_BODY) return Buffer.from(await c.req.arrayBuffer());
    reserve(c, capacity);
    const buffer = Buffer.allocUnsafeSlow(capacity);
    let length = 0;
    for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
      if (length + chunk.length > capacity) throw tooLarge(max);
      length += chunk.copy(buffer, length);
    }
    return buffer.subarray(0, length);
  } catch (error) {
    throw error instanceof Problem ? error : new ClientDisconnected({ cause: error });
  }
}

const readText = async (c: Context, reserve: Reserve) => decodeText(await readBytes(c, MAX_TEXT_BYTES, reserve));

function decodeText(bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw notUtf8(cause);
  }
}

/** A picture may be longer than all other text. It is not parsed with the rest, since a parser of so much else would block the process. */
function readJson(bytes: Buffer): Record<string, unknown> {
  const [rest, restore] = bytes.length > MAX_TEXT_BYTES ? cutLongestText(bytes, MAX_TEXT_BYTES) : [bytes, () => true];
  if (rest.length > MAX_TEXT_BYTES) throw tooMuchText();
  const text = decodeText(rest);
  let value: unknown;
  let isRestored: boolean;
  try {
    value = JSON.parse(text);
    isRestored = restore(value);
  } catch (cause) {
    throw notJson(cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Problem('unreadable', 'the body must be a JSON object');
  if (!isRestored) throw tooMuchText();
  return value as Record<string, unknown>;
}

function readForm(text: string): Record<string, unknown> {
  if (/^\s*\{/.test(text)) throw jsonAsForm();
  if (text.split('&', MAX_FIELDS + 1).length > MAX_FIELDS) throw tooManyFields();
  const fields = [...new URLSearchParams(text)];
  // URLSearchParams replaces what is not UTF-8.
  if (fields.flat().some((part) => part.includes('\ufffd')) && !/%EF%BF%BD|\ufffd/i.test(text)) throw notUtf8();
  return readFields(fields);
}

function readFields(fields: [name: string, text: string][]): Record<string, unknown> {
  const names = new Set<string>();
  const repeated = new Set<string>();
  for (const [name] of fields) (names.has(name) ? repeated : names).add(name);
  if (repeated.size > 0) throw invalidInput([...repeated].map((field) => ({ field, message: 'given more than once' })));
  return parseTextFields(fields);
}

async function readMultipart(body: Buffer, contentType: string, file: string): Promise<Body> {
  const isEmptyInput = ({ isFile, filename, bytes }: Part) => isFile && !filename && bytes.length === 0;
  const parts = (await parseMultipart(body, contentType)).filter((part) => !isEmptyInput(part));
  const images = parts.filter(({ name, isFile }) => isFile && name === file);
  const others = parts.filter((part) => !images.includes(part));
  const errors: FieldNote[] = others
    .filter(({ isFile }) => isFile)
    .map(({ name: field }) => ({ field, message: `must be text; send a picture file as ${file}` }));
  if (images.length > 1) errors.push({ field: file, message: 'given more than once' });
  if (errors.length > 0) throw invalidInput(errors);
  // What is called so may be a picture that its client sent as text.
  const values = readFields(
    others.map(({ name, bytes }) => [name, name === file ? bytes.toString() : decodeText(bytes)]),
  );
  const [image] = images;
  if (!image) return takeInlinePicture(values);
  return { values, image: new Uint8Array(image.bytes), imageName: uploadName(image.filename ?? '') };
}
