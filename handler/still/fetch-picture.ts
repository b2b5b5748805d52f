import { request } from 'undici';
import { deadline } from '../../core/deadline.ts';
import { JobError } from '../../core/job.ts';
import { assertPublicHost, createGuardedAgent, RefusedAddress } from '../../core/net/address-guard.ts';
import { MAX_PICTURE_BYTES } from '../../core/picture/limits.ts';
import { pictureTooLarge } from '../../core/picture/picture.ts';

const MAX_REDIRECTS = 5;
const REDIRECTS = [301, 302, 303, 307, 308];
const TIMEOUT = 60_000; // for the whole picture, redirects and all

const guarded = createGuardedAgent(false);
const unguarded = createGuardedAgent(true);

export interface FetchOptions {
  /** what the URL is called in errors */
  name?: string;
  /** whether addresses that are not public may be reached */
  allowPrivate: boolean;
  signal: AbortSignal;
}

/**
 * The bytes at a stranger's URL, at most 20 MB of them. Each redirect is checked like the first address.
 * @throws JobError image_unavailable (no answer, or not 200) or image_rejected (an address that may not be reached, or too large)
 */
export async function fetchPicture(
  url: string,
  { name = 'image_url', allowPrivate, signal }: FetchOptions,
): Promise<Buffer> {
  const limited = deadline(signal, TIMEOUT);
  let target = new URL(url);
  try {
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      if (!/^https?:$/.test(target.protocol))
        throw new JobError('image_rejected', `${name} leads to another protocol than http(s)`);
      if (target.username || target.password)
        throw new JobError('image_rejected', `${name} leads to an address with a user name or password`);
      if (!allowPrivate) assertPublicHost(target);
      const { statusCode, headers, body } = await request(target, {
        dispatcher: allowPrivate ? unguarded : guarded,
        signal: limited.signal,
        headers: { accept: 'image/*', 'accept-encoding': 'identity', 'user-agent': 'text-to-video-api' },
      });
      if (statusCode === 200) return await readAtMost(body, MAX_PICTURE_BYTES);
      body.on('error', () => {}).destroy(); // unread: what it held does not matter
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
    const why = limited.passed() ? `did not arrive within ${TIMEOUT / 1000} s` : 'can’t be reached';
    throw new JobError('image_unavailable', `${name} ${why}`, { cause: error });
  } finally {
    limited.clear();
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
