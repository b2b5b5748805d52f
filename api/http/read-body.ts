/** Reads the body of a POST, in any of the three accepted content types, to values by name. */
import type { Context } from 'hono';
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { type FieldNote, parseTextFields } from '../../core/request.ts';
import { invalidInput, Problem } from './problem.ts';

/** A picture and the text fields around it. */
export const MAX_BODY_BYTES = MAX_PICTURE_BYTES + 1_000_000;
const MAX_TEXT_BYTES = 1_000_000;

export const unsupportedMediaType = () =>
  new Problem(
    415,
    'unsupported_media_type',
    'send application/json, application/x-www-form-urlencoded or multipart/form-data',
    { headers: { accept: 'application/json, application/x-www-form-urlencoded, multipart/form-data' } },
  );
export const imageTooLarge = () => new Problem(413, 'too_large', `image has more than ${MAX_PICTURE_BYTES / 1e6} MB`);
export const notJson = (cause?: unknown) => new Problem(400, 'unreadable', 'the body is not JSON', { cause });

export interface Body {
  /** unchecked */
  values: Record<string, unknown>;
  image: Uint8Array | undefined;
}

/** @throws Problem 400 unreadable, 413 too large, 415 unsupported content type, 422 a repeated field or an unexpected file */
export async function readBody(c: Context): Promise<Body> {
  const type = (c.req.header('content-type') ?? '').split(';')[0]!.trim().toLowerCase();
  switch (type) {
    case 'application/json':
      return { values: readJson(await readText(c)), image: undefined };
    case 'application/x-www-form-urlencoded':
      return { values: readFields(new URLSearchParams(await readText(c))), image: undefined };
    case 'multipart/form-data':
      return readMultipart(c);
    default:
      throw unsupportedMediaType();
  }
}

async function readText(c: Context): Promise<string> {
  const bytes = await c.req.arrayBuffer();
  if (bytes.byteLength > MAX_TEXT_BYTES)
    throw new Problem(413, 'too_large', 'without a picture a request has at most 1 MB');
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new Problem(400, 'unreadable', 'the body is not UTF-8', { cause });
  }
}

function readJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw notJson(cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Problem(400, 'unreadable', 'the body must be a JSON object');
  }
  if ('image' in value)
    throw invalidInput([{ field: 'image', message: 'a picture can only be sent as a file, in multipart/form-data' }]);
  return value as Record<string, unknown>;
}

function readFields(fields: URLSearchParams | FormData): Record<string, unknown> {
  const names = [...new Set(fields.keys())];
  const errors = names
    .filter((name) => fields.getAll(name).length > 1)
    .map((field) => ({ field, message: 'given more than once' }));
  if (errors.length > 0) throw invalidInput(errors);
  return parseTextFields(names.map((name) => [name, fields.get(name) as string] as const));
}

async function readMultipart(c: Context): Promise<Body> {
  let form: FormData;
  try {
    form = await c.req.formData();
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    throw new Problem(400, 'unreadable', 'the body is not multipart/form-data', { cause });
  }
  const files = [...form].filter((entry): entry is [string, File] => typeof entry[1] !== 'string');
  const errors: FieldNote[] = files
    .filter(([name, file]) => name !== 'image' && file.size > 0)
    .map(([field]) => ({ field, message: 'must be text; a picture is sent as image' }));
  const images = form.getAll('image');
  if (images.length > 1) errors.push({ field: 'image', message: 'given more than once' });
  if (images.some((image) => typeof image === 'string' && image !== ''))
    errors.push({ field: 'image', message: 'must be a file' });
  if (errors.length > 0) throw invalidInput(errors);
  for (const [name] of files) form.delete(name);
  form.delete('image');
  const values = readFields(form);
  const [image] = images;
  if (image === undefined || typeof image === 'string' || image.size === 0) return { values, image: undefined };
  if (image.size > MAX_PICTURE_BYTES) throw imageTooLarge();
  return { values, image: new Uint8Array(await image.arrayBuffer()) };
}
