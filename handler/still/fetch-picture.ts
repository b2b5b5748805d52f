/** Downloads pictures from URLs of callers and bridges. */
import type { IncomingMessage } from 'node:http';
import { pipeline, type Readable, type Transform } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import { JobError } from '../../core/job.ts';
import { RefusedAddress, requestUntrusted } from '../../core/net/address-guard.ts';
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { pictureTooLarge } from '../../core/picture/picture.ts';
import { parseRetryAfter } from '../../core/retry-after.js';
import { MINUTE, SECOND } from '../../core/time.ts';

const MAX_REDIRECTS = 5;
const REDIRECTS = [301, 302, 303, 307, 308];
/** For the whole picture, including redirects and the second attempt. */
const TIMEOUT = MINUTE;
/** Before the second attempt, if the server does not ask for another pause. */
const RETRY_DELAY = SECOND;
/** A server that asks for a longer pause gets no second attempt. */
const MAX_RETRY_DELAY = 20 * SECOND;

const DECODERS: Record<string, () => Transform> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
};

/** A failure that a second attempt may cure. */
class TemporaryFailure extends JobError {
  constructor(
    message: string,
    /** milliseconds */
    readonly retryAfter: number,
    options?: ErrorOptions,
  ) {
    super('image_unavailable', message, options);
  }
}

export interface FetchOptions {
  /** the URL's name in errors; default image_url */
  name?: string;
  /** whether private addresses may be reached */
  allowPrivate: boolean;
  /** whether this URL may lead to a private address nevertheless; asked again for each redirect */
  trusts?: (url: URL) => boolean;
  signal: AbortSignal;
}

/**
 * Downloads a picture, at most MAX_PICTURE_BYTES. Each redirect is checked like the first URL. A reset connection and the statuses 429,
 * 502, 503 and 504 get a second attempt.
 * @throws JobError image_unavailable (no answer, or not 200) or image_rejected (a forbidden address, or too large)
 */
export async function fetchPicture(url: string, options: FetchOptions): Promise<Buffer> {
  const { name = 'image_url', signal: canceled } = options;
  const timeout = AbortSignal.timeout(TIMEOUT);
  const signal = AbortSignal.any([canceled, timeout]);
  const attempt = () => download(new URL(url), { ...options, name, signal });
  try {
    return await attempt().catch(async (error) => {
      if (!(error instanceof TemporaryFailure) || error.retryAfter > MAX_RETRY_DELAY || timeout.aborted) throw error;
      await delay(error.retryAfter, undefined, { signal });
      return attempt();
    });
  } catch (error) {
    canceled.throwIfAborted();
    if (timeout.aborted)
      throw new JobError('image_unavailable', `${name} did not arrive within ${TIMEOUT / SECOND} s`, { cause: error });
    throw error;
  }
}

/** @throws JobError, or the signal's reason */
async function download(target: URL, { name, allowPrivate, trusts, signal }: FetchOptions & { name: string }) {
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
    if (!/^https?:$/.test(target.protocol))
      throw new JobError('image_rejected', `${name} leads to another protocol than http(s)`);
    if (target.username || target.password)
      throw new JobError('image_rejected', `${name} leads to a URL with a user name or password`);
    try {
      const response = await requestUntrusted(target, {
        allowPrivate: allowPrivate || (trusts?.(target) ?? false),
        signal,
        headers: { accept: 'image/*', 'accept-encoding': 'identity', 'user-agent': 'text-to-video-api' },
      });
      if (response.statusCode === 200) return await readPicture(response, name, signal);
      response.destroy();
      target = redirectTarget(response, target, name);
    } catch (error) {
      throw signal.aborted || error instanceof JobError ? error : describeFailure(error, name);
    }
  }
  throw new JobError('image_unavailable', `${name} redirects more than ${MAX_REDIRECTS} times`);
}

/** @throws JobError the response is no redirect */
function redirectTarget({ statusCode = 0, headers }: IncomingMessage, base: URL, name: string): URL {
  if (REDIRECTS.includes(statusCode) && headers.location) {
    const location = Buffer.from(headers.location, 'latin1').toString(); // many servers send UTF-8, which Node reads as Latin-1
    if (URL.canParse(location, base.href)) return new URL(location, base);
    throw new JobError('image_unavailable', `${name} redirects to something that is not a URL`);
  }
  const message = `${name} answered with status ${statusCode}`;
  if (![429, 502, 503, 504].includes(statusCode)) throw new JobError('image_unavailable', message);
  throw new TemporaryFailure(message, parseRetryAfter(headers['retry-after']) ?? RETRY_DELAY);
}

/** Some servers compress every response, although `identity` was requested. */
async function readPicture(response: IncomingMessage, name: string, signal: AbortSignal): Promise<Buffer> {
  const encodings = (response.headers['content-encoding'] ?? '').toLowerCase().split(/[\s,]+/);
  const used = encodings.filter((encoding) => encoding !== '' && encoding !== 'identity').reverse();
  const unknown = used.find((encoding) => !Object.hasOwn(DECODERS, encoding));
  if (unknown !== undefined || used.length > 2) {
    response.destroy();
    throw new JobError('image_unavailable', `${name} answered with the content encoding ${used.join(', ')}`);
  }
  const decompress = (source: Readable, encoding: string) => pipeline(source, DECODERS[encoding]!(), () => {}); // the loop gets errors
  const body = used.reduce<Readable>(decompress, response);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > MAX_PICTURE_BYTES) throw pictureTooLarge();
    chunks.push(chunk);
  }
  signal.throwIfAborted();
  return Buffer.concat(chunks);
}

function describeFailure(error: unknown, name: string): JobError {
  if (error instanceof RefusedAddress) return new JobError('image_rejected', `${name}: ${error.message}`);
  const { code = '', message = '' } = error as NodeJS.ErrnoException;
  const failure = (why: string) => new JobError('image_unavailable', `${name} ${why}`, { cause: error });
  if (code === 'HPE_HEADER_OVERFLOW') return failure('answered with more than 64 kB of headers');
  if (code.startsWith('HPE_'))
    return failure(`answered with malformed HTTP (${message.replace(/^Parse Error: /, '')})`);
  if (/^(Z_|ERR_.*BROTLI|ERR__)/.test(code)) return failure('answered with a body that can’t be decompressed');
  const why = `can’t be reached${code && ` (${code})`}`;
  if (code === 'ECONNRESET' || code === 'EPIPE')
    return new TemporaryFailure(`${name} ${why}`, RETRY_DELAY, { cause: error });
  return failure(why);
}
