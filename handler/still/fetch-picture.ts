import { request } from 'undici';
import { JobError } from '../../core/job.ts';
import { assertPublicHost, createGuardedAgent, RefusedAddress } from '../../core/net/address-guard.ts';
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { pictureTooLarge } from '../../core/picture/picture.ts';
import { MINUTE, SECOND } from '../../core/time.ts';

const MAX_REDIRECTS = 5;
const REDIRECTS = [301, 302, 303, 307, 308];
/** For the whole picture, including redirects. */
const TIMEOUT = MINUTE;

const guarded = createGuardedAgent(false);
const unguarded = createGuardedAgent(true);

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
 * Downloads a picture from a caller's URL, at most MAX_PICTURE_BYTES. Each redirect is checked like the first URL.
 * @throws JobError image_unavailable (no answer, or not 200) or image_rejected (a forbidden address, or too large)
 */
export async function fetchPicture(
  url: string,
  { name = 'image_url', allowPrivate, trusts, signal }: FetchOptions,
): Promise<Buffer> {
  const timeout = AbortSignal.timeout(TIMEOUT);
  let target = new URL(url);
  try {
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      if (!/^https?:$/.test(target.protocol))
        throw new JobError('image_rejected', `${name} leads to another protocol than http(s)`);
      if (target.username || target.password)
        throw new JobError('image_rejected', `${name} leads to a URL with a user name or password`);
      const isTrusted = allowPrivate || trusts?.(target);
      if (!isTrusted) assertPublicHost(target);
      const { statusCode, headers, body } = await request(target, {
        dispatcher: isTrusted ? unguarded : guarded,
        signal: AbortSignal.any([signal, timeout]),
        headers: { accept: 'image/*', 'accept-encoding': 'identity', 'user-agent': 'text-to-video-api' },
      });
      if (statusCode === 200) return await readAtMost(body, MAX_PICTURE_BYTES);
      body.on('error', () => {}).destroy();
      const location = headers.location;
      if (!REDIRECTS.includes(statusCode) || typeof location !== 'string') {
        throw new JobError('image_unavailable', `${name} answered with status ${statusCode}`);
      }
      target = new URL(location, target);
    }
    throw new JobError('image_unavailable', `${name} redirects more than ${MAX_REDIRECTS} times`);
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof JobError) throw error;
    if (error instanceof RefusedAddress) throw new JobError('image_rejected', `${name}: ${error.message}`);
    const why = timeout.aborted ? `did not arrive within ${TIMEOUT / SECOND} s` : 'can’t be reached';
    throw new JobError('image_unavailable', `${name} ${why}`, { cause: error });
  }
}

async function readAtMost(body: AsyncIterable<Buffer>, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > limit) throw pictureTooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
