/** The bucket as a folder, for one machine. Its signed links lead to the API's own `/files`. */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { link, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { loadOrCreateSecret } from '../secret-file.ts';
import { hasCode, removeOrphans, tempName } from '../temp-files.ts';
import { SECOND } from '../time.ts';
import { assertBucketKey, type Bucket, isBucketKey } from './bucket.ts';

/** How many times a write is repeated whose folder is being deleted, and the other way round. */
const RACE_RETRIES = 10;

export interface DiskBucket extends Bucket {
  /** The object's file and its size in bytes, or undefined if there is none. */
  file(key: string): Promise<{ path: string; size: number; modified: Date } | undefined>;
  /** Whether a link's signature is valid and has not expired. */
  verify(key: string, query: { expires?: string | undefined; signature?: string | undefined }): boolean;
}

/**
 * @param folder created if missing; several processes may share it. Temporary files of dead ones are removed.
 * @param publicUrl the API's own URL, without a trailing slash
 * @param now milliseconds since 1970
 */
export async function diskBucket(
  folder: string,
  { publicUrl, now = Date.now }: { publicUrl: string; now?: () => number },
): Promise<DiskBucket> {
  await mkdir(join(folder, 'tmp'), { recursive: true });
  await removeOrphans(join(folder, 'tmp'));
  const secret = await loadOrCreateSecret(join(folder, 'link-secret'), () => randomBytes(32));

  const pathOf = (key: string) => {
    assertBucketKey(key);
    return join(folder, 'objects', key);
  };
  const sign = (key: string, expires: string) =>
    createHmac('sha256', secret).update(`${key}\n${expires}`).digest('base64url');

  /** Writes a temporary file, makes it durable, then moves it into place: a crash leaves the old object or the new one. */
  async function write(key: string, body: Uint8Array | string, moveIn: (from: string, to: string) => Promise<void>) {
    const to = pathOf(key);
    const from = join(folder, 'tmp', tempName());
    try {
      await writeFile(from, body, { flush: true });
      for (let retries = RACE_RETRIES; ; retries--) {
        try {
          await mkdir(dirname(to), { recursive: true });
          return await moveIn(from, to);
        } catch (error) {
          if (retries === 0 || !hasCode(error, 'ENOENT')) throw error; // the folder was deleted meanwhile
        }
      }
    } finally {
      await rm(from, { force: true });
    }
  }

  return {
    put: (key, body) => write(key, body, rename),
    async create(key, body) {
      try {
        await write(key, body, link); // fails if the name is taken: the first writer wins
        return true;
      } catch (error) {
        if (hasCode(error, 'EEXIST')) return false;
        throw error;
      }
    },
    get: async (key) => readFile(pathOf(key)).catch(ifMissing),
    has: async (key) => (await stat(pathOf(key)).catch(ifMissing))?.isFile() ?? false,
    // retried while other processes write into the folder
    delete: async (key) => rm(pathOf(key), { recursive: true, force: true, maxRetries: RACE_RETRIES, retryDelay: 10 }),
    async link(key, expires) {
      assertBucketKey(key);
      return `${publicUrl}/files/${key}?expires=${expires}&signature=${sign(key, String(expires))}`;
    },
    async file(key) {
      if (!isBucketKey(key)) return undefined;
      const path = pathOf(key);
      const info = await stat(path).catch(ifMissing);
      return info?.isFile() ? { path, size: info.size, modified: info.mtime } : undefined;
    },
    verify(key, { expires = '', signature = '' }) {
      const expected = Buffer.from(sign(key, expires));
      const given = Buffer.from(signature);
      const isValid = given.length === expected.length && timingSafeEqual(given, expected);
      return isValid && Number(expires) * SECOND > now();
    },
  };
}

function ifMissing(error: unknown): undefined {
  if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) return undefined; // a folder is not an object
  throw error;
}
