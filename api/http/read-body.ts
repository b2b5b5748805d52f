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
    'unsupported_media_type',
    'send application/json, application/x-www-form-urlencoded or multipart/form-data',
    { headers: { accept: 'application/json, application/x-www-form-urlencoded, multipart/form-data' } },
  );
export const imageTooLarge = () => new Problem('too_large', `image has more than ${MAX_PICTURE_BYTES / 1e6} MB`);
export const notJson = (cause?: unknown) => new Problem('unreadable', 'the body is not JSON', { cause });

interface Body {
  /** unchecked */
  values: Record<string, unknown>;
  image?: Uint8Array;
}

/** @throws Problem 400 unreadable, 413 too large, 415 unsupported content type, 422 a repeated field or an unexpected file */
export async function readBody(c: Context): Promise<Body> {
  switch ((c.req.header('content-type') ?? '').split(';')[0]!.trim().toLowerCase()) {
    case 'application/json':
      return { values: readJson(await readText(c)) };
    case 'application/x-www-form-urlencoded':
      return { values: readFields(new URLSearchParams(await readText(c))) };
    case 'multipart/form-data':
      return readMultipart(c);
    default:
      throw unsupportedMediaType();
  }
}

async function readText(c: Context): Promise<string> {
  const bytes = await c.req.arrayBuffer();
  if (bytes.byteLength > MAX_TEXT_BYTES) throw new Problem('too_large', 'without a picture a request has at most 1 MB');
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

function readFields(fields: URLSearchParams | FormData): Record<string, unknown> {
  const names = [...new Set(fields.keys())];
  const errors = names
    .filter((name) => fields.getAll(name).length > 1)
    .map((field) => ({ field, message: 'given more than once' }));
  if (errors.length > 0) throw invalidInput(errors);
  return parseTextFields(names.map((name) => [name, fields.get(name) as string] as const));
}

async function readMultipart(c: Context): Promise<Body> {
  const form = await c.req.formData().catch((cause) => {
    throw cause instanceof Problem
      ? cause
      : new Problem('unreadable', 'the body is not multipart/form-data', { cause });
  });
  const errors: FieldNote[] = [];
  const images = form.getAll('image');
  form.delete('image');
  for (const [field, value] of [...form]) {
    if (typeof value === 'string') continue;
    if (value.size > 0) errors.push({ field, message: 'must be text; a picture is sent as image' });
    form.delete(field); // browsers send an empty file for an input without one
  }
  if (images.length > 1) errors.push({ field: 'image', message: 'given more than once' });
  if (images.some((image) => typeof image === 'string' && image !== ''))
    errors.push({ field: 'image', message: 'must be a file' });
  if (errors.length > 0) throw invalidInput(errors);
  const values = readFields(form);
  const [image] = images;
  if (image === undefined || typeof image === 'string' || image.size === 0) return { values };
  if (image.size > MAX_PICTURE_BYTES) throw imageTooLarge();
  return { values, image: new Uint8Array(await image.arrayBuffer()) };
}
