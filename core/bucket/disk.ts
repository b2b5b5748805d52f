/** The bucket as a folder, for one machine. Its signed links lead to the API's own `/files`. */
import { randomBytes } from 'node:crypto';
import { link, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isLinkValid, signLink } from '../link-signature.ts';
import { loadOrCreateSecret } from '../secret-file.ts';
import { hasCode, removeOrphans, tempName } from '../temp-files.ts';
import { assertBucketKey, type Bucket, contentDisposition, isBucketKey, RETRY_DELAYS, StorageError } from './bucket.ts';

/** How many times a write is repeated whose folder is being deleted, and the other way round. */
const RACE_RETRIES = 10;
/** As a small upload. */
const CHECK_BYTES = 65_536;
const FULL = ['ENOSPC', 'EDQUOT'];
/** Codes of errors that may pass. */
const TEMPORARY = [...FULL, 'EIO', 'EAGAIN', 'EBUSY', 'EMFILE', 'ENFILE'];

interface DiskOptions {
  publicUrl: string;
  retryBudget?: number | undefined;
  now?: () => number;
  wait?: (ms: number) => Promise<unknown>;
}

export interface DiskBucket extends Bucket {
  /** The object's file and its size in bytes, or undefined if there is none. */
  file(key: string): Promise<{ path: string; size: number; modified: Date } | undefined>;
  /** Writes a temporary file, since a full disk can still be read. @throws Error the disk's, at once */
  check(): Promise<void>;
  /** Whether a link's signature is valid and has not expired. */
  verify(key: string, query: Record<string, string>): boolean;
}

/**
 * @param folder created if missing; several processes may share it. Temporary files of dead ones are removed.
 * @param publicUrl the API's own URL, without a trailing slash
 * @param retryBudget how long after its first failure an operation may be repeated, as on a full disk; milliseconds, default 2 minutes
 * @param now milliseconds since 1970
 */
export async function diskBucket(
  folder: string,
  { publicUrl, retryBudget = Infinity, now = Date.now, wait = delay }: DiskOptions,
): Promise<DiskBucket> {
  await mkdir(join(folder, 'tmp'), { recursive: true });
  await removeOrphans(join(folder, 'tmp'));
  const secret = await loadOrCreateSecret(join(folder, 'link-secret'), () => randomBytes(32));

  const pathOf = (key: string) => {
    assertBucketKey(key);
    return join(folder, 'objects', key);
  };
  /** What is signed: a link without a name and `download` keeps the signature that earlier versions gave it. */
  const targetOf = (key: string, { filename = '', download = '' }: Record<string, string>) =>
    filename || download ? [key, filename, download].join('\n') : key;

  /** Does work on the disk, again after an error that may pass. @throws StorageError */
  async function onDisk<R>(work: () => Promise<R>): Promise<R> {
    const start = performance.now();
    for (let attempts = 1; ; attempts++) {
      try {
        return await work();
      } catch (error) {
        const { code, syscall } = error as NodeJS.ErrnoException;
        if (!code || !syscall) throw error; // not the disk's
        const pause = RETRY_DELAYS[attempts - 1];
        if (pause === undefined || performance.now() - start + pause > retryBudget || !TEMPORARY.includes(code)) {
          const problem = FULL.includes(code) ? 'has no space left' : `can’t be used (${code})`;
          throw new StorageError(`the bucket’s folder ${folder} ${problem}`, code, attempts);
        }
        await wait(pause);
      }
    }
  }

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
    put: (key, body) => onDisk(() => write(key, body, rename)),
    async create(key, body) {
      try {
        await onDisk(() => write(key, body, link)); // fails if the name is taken: the first writer wins
        return true;
      } catch (error) {
        if (error instanceof StorageError && error.code === 'EEXIST') return false;
        throw error;
      }
    },
    get: (key, limit) => onDisk(() => readBytes(pathOf(key), limit).catch(ifMissing)),
    has: (key) => onDisk(async () => (await stat(pathOf(key)).catch(ifMissing))?.isFile() ?? false),
    // retried while other processes write into the folder
    delete: (key) =>
      onDisk(() => rm(pathOf(key), { recursive: true, force: true, maxRetries: RACE_RETRIES, retryDelay: 10 })),
    async link(key, expires, { filename, download } = {}) {
      assertBucketKey(key);
      contentDisposition(key, { filename });
      const query = { expires: String(expires), ...(filename && { filename }), ...(download && { download: '1' }) };
      return `${publicUrl}/files/${key}?${new URLSearchParams({ ...query, signature: signLink(secret, targetOf(key, query), expires) })}`;
    },
    async file(key) {
      if (!isBucketKey(key)) return undefined;
      const path = pathOf(key);
      const info = await onDisk(() => stat(path).catch(ifMissing));
      return info?.isFile() ? { path, size: info.size, modified: info.mtime } : undefined;
    },
    async check() {
      const path = join(folder, 'tmp', tempName());
      try {
        await writeFile(path, Buffer.alloc(CHECK_BYTES), { flush: true });
      } finally {
        await rm(path, { force: true });
      }
    },
    verify: (key, query) => isLinkValid(secret, targetOf(key, query), query, now()),
  };
}

async function readBytes(path: string, limit: number | undefined): Promise<Buffer> {
  if (limit === undefined) return readFile(path);
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(limit));
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

function ifMissing(error: unknown): undefined {
  if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EISDIR')) return undefined; // a folder is not an object
  throw error;
}
