/** Reads the body of a POST, in any of the three accepted content types, to values by name. */
import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';
import { Response } from 'undici'; // its parser accepts the multipart of more clients than Node's own
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { type FieldNote, parseTextFields } from '../../core/request.ts';
import { ClientDisconnected, invalidInput, Problem } from './problem.ts';

const MAX_TEXT_BYTES = 1_000_000;
/** A picture and the text fields around it. */
const MAX_BODY_BYTES = MAX_PICTURE_BYTES + MAX_TEXT_BYTES;
/** Fields of a form. There are fewer than 40 parameters. */
const MAX_FIELDS = 64;
/** Bytes of the headers of a multipart field. */
const MAX_FIELD_HEADERS = 8192;
/** Bodies up to this length, in bytes, are read at once and not counted. Node reads no more than Content-Length. */
const SMALL_BODY = 8192;

export const unsupportedMediaType = () =>
  new Problem(
    'unsupported_media_type',
    'send application/json, application/x-www-form-urlencoded or multipart/form-data',
    { headers: { accept: 'application/json, application/x-www-form-urlencoded, multipart/form-data' } },
  );
export const imageTooLarge = () => new Problem('too_large', `image has more than ${MAX_PICTURE_BYTES / 1e6} MB`);
const tooLarge = (max: number) =>
  new Problem('too_large', `a request of this content type has at most ${max / 1e6} MB`);
const tooManyFields = () => new Problem('too_large', `a form has at most ${MAX_FIELDS} fields`);
const notMultipart = (cause?: unknown) => new Problem('unreadable', 'the body is not multipart/form-data', { cause });
export const notJson = (cause?: unknown) => new Problem('unreadable', 'the body is not JSON', { cause });

/** Counts the bytes of a large body before it is read, and may throw. */
type Reserve = (c: Context, bytes: number) => void;

interface Body {
  /** unchecked */
  values: Record<string, unknown>;
  image?: Uint8Array;
}

/**
 * @throws Problem 400 unreadable, 413 too large, 415 unsupported content type, 422 a repeated field or an unexpected file, and those of
 * `reserve`
 * @throws ClientDisconnected
 */
export async function readBody(c: Context, reserve: Reserve): Promise<Body> {
  const type = c.req.header('content-type') ?? '';
  switch (type.split(';')[0]!.trim().toLowerCase()) {
    case 'application/json':
      return { values: readJson(await readText(c, reserve)) };
    case 'application/x-www-form-urlencoded':
      return { values: readForm(await readText(c, reserve)) };
    case 'multipart/form-data':
      return readMultipart(await readBytes(c, MAX_BODY_BYTES, reserve), type);
    default:
      throw unsupportedMediaType();
  }
}

/**
 * Reads at most `max` bytes. They are copied to one buffer as they arrive, because each of many small chunks would cost memory. Memory
 * that no byte was written to is not used yet.
 * @throws Problem 413, and those of `reserve`
 * @throws ClientDisconnected
 */
export async function readBytes(c: Context, max: number, reserve: Reserve = () => undefined): Promise<Buffer> {
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

async function readText(c: Context, reserve: Reserve): Promise<string> {
  const bytes = await readBytes(c, MAX_TEXT_BYTES, reserve);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem('unreadable', 'the body is not UTF-8', { cause });
  }
}

function readJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw notJson(cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Problem('unreadable', 'the body must be a JSON object');
  if ('image' in value)
    throw invalidInput([{ field: 'image', message: 'a picture can only be sent as a file, in multipart/form-data' }]);
  return value as Record<string, unknown>;
}

function readForm(text: string): Record<string, unknown> {
  if (text.split('&', MAX_FIELDS + 1).length > MAX_FIELDS) throw tooManyFields();
  return readFields([...new URLSearchParams(text)]);
}

function readFields(fields: [name: string, text: string][]): Record<string, unknown> {
  const names = new Set<string>();
  const repeated = new Set<string>();
  for (const [name] of fields) (names.has(name) ? repeated : names).add(name);
  if (repeated.size > 0) throw invalidInput([...repeated].map((field) => ({ field, message: 'given more than once' })));
  return parseTextFields(fields);
}

async function readMultipart(bytes: Buffer, contentType: string): Promise<Body> {
  const [, quoted, token] = /;\s*boundary=(?:"([^"]*)"|([^\s;]*))/i.exec(contentType) ?? [];
  const boundary = quoted ?? token ?? '';
  if (!/^[\w'()+,./:=? -]{1,70}$/.test(boundary)) throw notMultipart();
  checkFieldSizes(bytes, boundary);
  const headers = { 'content-type': `multipart/form-data; boundary="${boundary}"` };
  const form = await new Response(bytes, { headers }).formData().catch((cause) => {
    throw notMultipart(cause);
  });
  const errors: FieldNote[] = [];
  const images = form.getAll('image');
  const fields: [name: string, text: string][] = [];
  for (const [field, value] of form) {
    if (field === 'image') continue;
    if (typeof value === 'string') fields.push([field, value]);
    else if (value.size > 0) errors.push({ field, message: 'must be text; a picture is sent as image' });
    // Browsers send an empty file for an input without one.
  }
  if (images.length > 1) errors.push({ field: 'image', message: 'given more than once' });
  if (images.some((image) => typeof image === 'string' && image !== ''))
    errors.push({ field: 'image', message: 'must be a file' });
  if (errors.length > 0) throw invalidInput(errors);
  const values = readFields(fields);
  const [image] = images;
  if (image === undefined || typeof image === 'string' || image.size === 0) return { values };
  if (image.size > MAX_PICTURE_BYTES) throw imageTooLarge();
  return { values, image: new Uint8Array(await image.arrayBuffer()) };
}

/** Runs before the parser, which blocks the event loop for seconds on very many fields, long headers or long text. */
function checkFieldSizes(body: Buffer, boundary: string): void {
  let text = 0;
  let start = body.indexOf(boundary);
  for (let fields = 0; start !== -1; fields++) {
    if (fields > MAX_FIELDS) throw tooManyFields(); // one more boundary ends the body
    const next = body.indexOf(boundary, start + boundary.length);
    const field = body.subarray(start, next === -1 ? undefined : next);
    const headers = field.subarray(0, MAX_FIELD_HEADERS);
    const end = headers.indexOf('\r\n\r\n');
    if (end === -1 && field.length > MAX_FIELD_HEADERS) throw notMultipart();
    if (!/filename/i.test(headers.toString('latin1', 0, end === -1 ? undefined : end))) text += field.length;
    start = next;
  }
  if (text > MAX_TEXT_BYTES) throw new Problem('too_large', 'the text of a form has at most 1 MB');
}
