/** The bucket as a folder, for one machine. Its links lead to the API's own `/files`, signed. */
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { copyFile, link, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { loadOrCreateSecret } from '../secret-file.ts';
import { removeOrphans, tempName } from '../temp-files.ts';
import { type Bucket, isBucketKey } from './bucket.ts';

/** How often a write and the deletion of its folder may get in each other's way. */
const RACES = 10;

export interface DiskBucket extends Bucket {
  /** The object's file and its size in bytes, or undefined if there is none. */
  file(key: string): Promise<{ path: string; size: number; modified: Date } | undefined>;
  /** Whether a link's query is ours and has not expired. */
  verify(key: string, query: { expires?: string | undefined; signature?: string | undefined }): boolean;
}

/**
 * @param folder made if it is not there; two processes may use one folder. What killed ones left unfinished in it is removed.
 * @param publicUrl where the API is reached, without a slash at the end
 * @param now milliseconds since 1970
 */
export async function diskBucket(
  folder: string,
  { publicUrl, now = Date.now }: { publicUrl: string; now?: () => number },
): Promise<DiskBucket> {
  await mkdir(join(folder, 'tmp'), { recursive: true });
  await removeOrphans(join(folder, 'tmp'));
  const secret = await loadOrCreateSecret(join(folder, 'link-secret'), () => randomBytes(32));

  const checked = (key: string) => {
    if (!isBucketKey(key)) throw new Error(`not a bucket key: ${JSON.stringify(key)}`);
    return key;
  };
  const place = (key: string) => join(folder, 'objects', checked(key));
  const temporary = () => join(folder, 'tmp', tempName());
  const sign = (key: string, expires: string) =>
    createHmac('sha256', secret).update(`${key}\n${expires}`).digest('base64url');

  /** Writes beside, makes it durable, then moves it into place: a crash leaves the old object or the new one, never half of one. */
  async function write(
    key: string,
    fill: (path: string) => Promise<void>,
    moveIn: (from: string, to: string) => Promise<void>,
  ) {
    const to = place(key);
    const from = temporary();
    try {
      await fill(from);
      await flush(from);
      for (let tries = RACES; ; tries--) {
        try {
          await mkdir(dirname(to), { recursive: true });
          return await moveIn(from, to);
        } catch (error) {
          if (tries === 0 || !isCode(error, 'ENOENT')) throw error; // the folder was deleted just now
        }
      }
    } finally {
      await rm(from, { force: true });
    }
  }

  return {
    put: (key, body) => write(key, (path) => writeFile(path, body), rename),
    putFile: (key, source) => write(key, (path) => copyFile(source, path), rename),
    async create(key, body) {
      try {
        await write(key, (path) => writeFile(path, body), link); // link fails where the name is taken: the first one wins
        return true;
      } catch (error) {
        if (isCode(error, 'EEXIST')) return false;
        throw error;
      }
    },
    get: async (key) => readFile(place(key)).catch(ifMissing),
    has: async (key) => (await stat(place(key)).catch(ifMissing))?.isFile() ?? false,
    delete: async (key) => rm(place(key), { recursive: true, force: true, maxRetries: RACES, retryDelay: 10 }), // if objects come meanwhile
    async link(key, expires) {
      return `${publicUrl}/files/${checked(key)}?expires=${expires}&signature=${sign(key, String(expires))}`;
    },
    async file(key) {
      if (!isBucketKey(key)) return undefined;
      const path = place(key);
      const info = await stat(path).catch(ifMissing);
      return info?.isFile() ? { path, size: info.size, modified: info.mtime } : undefined;
    },
    verify(key, { expires = '', signature = '' }) {
      const expected = Buffer.from(sign(key, expires));
      const given = Buffer.from(signature);
      const genuine = given.length === expected.length && timingSafeEqual(given, expected);
      return genuine && Number(expires) * 1000 > now();
    },
  };
}

async function flush(path: string) {
  const handle = await open(path, 'r+');
  await handle.sync().finally(() => handle.close());
}

const isCode = (error: unknown, code: string) => error instanceof Error && 'code' in error && error.code === code;

function ifMissing(error: unknown): undefined {
  if (isCode(error, 'ENOENT') || isCode(error, 'ENOTDIR') || isCode(error, 'EISDIR')) return undefined; // a folder is no object
  throw error;
}
