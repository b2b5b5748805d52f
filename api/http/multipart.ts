/** Parses multipart/form-data (RFC 7578) as all kinds of clients write it. */
import { setImmediate } from 'node:timers/promises';
import { Busboy } from '@fastify/busboy';
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { Problem } from './problem.ts';

/** Fields of a form. There are fewer than 40 parameters. */
export const MAX_FIELDS = 64;
export const MAX_TEXT_BYTES = 1_000_000;
/** Bytes of the headers of one part. */
const MAX_PART_HEADERS = 8192;
/** Bytes that are parsed before other requests have their turn. */
const PIECE = 256 * 1024;

export const imageTooLarge = () => new Problem('too_large', `image has more than ${MAX_PICTURE_BYTES / 1e6} MB`);
export const tooManyFields = () => new Problem('too_large', `a form may have at most ${MAX_FIELDS} fields`);
/** Characters of a picture as text: base64 has four for three bytes, and line breaks and escapes add a little. */
export const MAX_PICTURE_TEXT = 1.4 * MAX_PICTURE_BYTES;
/** A field of OpenAI's clients; its text may be a data URL of a picture. */
const PICTURE_URL = 'input_reference[image_url]';

const namelessPart = () =>
  new Problem('unreadable', 'each part of multipart/form-data needs a header Content-Disposition: form-data; name="…"');

const unknownEncoding = (encoding: string) =>
  new Problem(
    'unreadable',
    `Content-Transfer-Encoding: ${encoding.slice(0, 64)} is not supported; it must be 7bit, 8bit, binary or base64`,
  );

export const tooMuchText = () =>
  new Problem('too_large', 'the text of a request may have at most 1 MB, without a picture');

export interface Part {
  name: string;
  isFile: boolean;
  filename: string | undefined;
  bytes: Buffer;
}

/**
 * @returns the parts in their order; those with a file name or the content type of a picture are files
 * @throws Problem 400 not multipart, no boundary, or a part without a name or of an unknown encoding; 413 more than MAX_FIELDS parts,
 * MAX_TEXT_BYTES of text or MAX_PICTURE_BYTES of a file
 */
export async function parseMultipart(body: Buffer, contentType: string): Promise<Part[]> {
  const boundary = /;\s*boundary=(?:"([^"]+)"|([^\s;]+))/i.exec(contentType)?.slice(1).join('');
  if (!boundary || boundary.length > 70)
    throw new Problem(
      'unreadable',
      'Content-Type: multipart/form-data has no boundary; let your HTTP library set this header',
    );
  const parts: Part[] = [];
  let text = 0;
  let failure: Problem | undefined;
  const fail = (cause: unknown) => {
    failure ??= new Problem('unreadable', 'the body is not multipart/form-data, or is incomplete', { cause });
  };
  const parser = new Busboy({
    headers: { 'content-type': `multipart/form-data; boundary="${boundary}"` },
    limits: { parts: MAX_FIELDS, fileSize: MAX_PICTURE_TEXT, headerSize: MAX_PART_HEADERS },
    isPartAFile: () => true, // text is decoded by the caller, strictly
  });
  parser.on('file', (name: string | undefined, stream, filename: string | undefined, encoding, type) => {
    if (!name) failure ??= namelessPart();
    if (!/^(7bit|8bit|binary|base64)$/i.test(encoding)) failure ??= unknownEncoding(encoding);
    const chunks: Buffer[] = [];
    let size = 0;
    const isFile = filename !== undefined || /^(image\/|application\/octet-stream)/i.test(type);
    stream.on('data', (chunk: Buffer) => {
      chunks.push(chunk);
      if (isFile) size += chunk.length;
      else if (name !== PICTURE_URL) text += chunk.length;
      if (size > MAX_PICTURE_BYTES) failure ??= imageTooLarge();
      if (text > MAX_TEXT_BYTES) failure ??= tooMuchText();
    });
    stream.on('limit', () => (failure ??= imageTooLarge())).on('error', fail);
    stream.on('end', () => {
      const bytes = Buffer.concat(chunks);
      const decoded = /^base64$/i.test(encoding) ? Buffer.from(String(bytes), 'base64') : bytes;
      parts.push({ name: name ?? '', isFile, filename, bytes: decoded });
    });
  });
  parser.on('partsLimit', () => (failure ??= tooManyFields()));
  const ended = new Promise<void>((resolve) => {
    parser.on('finish', resolve).on('error', (cause) => {
      fail(cause);
      resolve();
    });
  });
  const trimmed = trimDelimiters(body, `--${boundary}`);
  for (let start = 0; start < trimmed.length && !failure; start += PIECE) {
    parser.write(trimmed.subarray(start, start + PIECE));
    await setImmediate();
  }
  parser.end();
  if (!failure) await ended;
  if (failure) throw failure;
  if (parts.length < countParts(trimmed, `--${boundary}`)) throw namelessPart();
  return parts;
}

/** Counts the delimiters that begin a part, at most MAX_FIELDS + 1. The parser leaves out a part whose headers it can't use. */
function countParts(body: Buffer, delimiter: string): number {
  const line = Buffer.from(`\r\n${delimiter}\r\n`);
  const close = body.indexOf(`\r\n${delimiter}--`);
  let count = body.subarray(0, line.length - 2).equals(line.subarray(2)) ? 1 : 0;
  let at = body.indexOf(line);
  for (; at !== -1 && at < close && count <= MAX_FIELDS; at = body.indexOf(line, at + line.length - 2)) count++;
  return count;
}

/** Removes blanks at the end of delimiter lines, which RFC 2046 allows and the parser does not. */
function trimDelimiters(body: Buffer, delimiter: string): Buffer {
  const pieces: Buffer[] = [];
  let kept = 0;
  let at = body.indexOf(delimiter);
  for (let count = 0; at !== -1 && count <= MAX_FIELDS; at = body.indexOf(delimiter, at + delimiter.length), count++) {
    const end = at + delimiter.length;
    let next = end;
    while (body[next] === 0x20 || body[next] === 0x09) next++;
    const isLine = (at === 0 || body[at - 1] === 0x0a) && body[next] === 0x0d;
    if (next === end || !isLine) continue;
    pieces.push(body.subarray(kept, end));
    kept = next;
  }
  return kept === 0 ? body : Buffer.concat([...pieces, body.subarray(kept)]);
}
