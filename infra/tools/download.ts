/**
 * Downloads one file from the hub. It grows as `PATH.incomplete`, over as many connections and runs as it takes, and gets its name
 * when it is complete and its hash is right.
 */
import { createHash } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { formatBytes } from '../../core/format.ts';
import type { Hub, RemoteFile } from './hub-client.ts';
import { retry, TransientError } from './retry.ts';
import type { transferBar } from './transfer-bar.ts';

export interface DownloadOptions {
  hub: Hub;
  commit: string;
  delays: readonly number[];
  log: (line: string) => void;
  progress: ReturnType<typeof transferBar>;
}

/** @returns bytes; undefined if there is no such file */
export const sizeOf = (path: string): number | undefined => statSync(path, { throwIfNoEntry: false })?.size;

/** @returns bytes that an earlier run has left */
export const partialSize = (path: string): number => sizeOf(`${path}.incomplete`) ?? 0;

/**
 * A partial file that turns out to be wrong is deleted, and the download starts over once.
 * @throws TransientError after the last attempt; Error where the hub refuses the file or sends other bytes than it lists
 */
export async function download(file: RemoteFile, path: string, options: DownloadOptions): Promise<void> {
  const { delays, log, progress } = options;
  const partial = `${path}.incomplete`;
  const present = partialSize(path);
  progress.startFile(file.path, file.size, present);

  const handle = await open(partial, 'a');
  let hash: string;
  try {
    const received = async () => (await handle.stat()).size;
    await retry(() => fetchRest(handle, file, options), { delays, log, received });
    progress.showChecking();
    hash = await hashOf(partial, file);
    if (hash === file.etag) await handle.datasync(); // a power cut could otherwise leave a blob with holes
  } finally {
    await handle.close();
  }
  if (hash === file.etag) {
    await rename(partial, path);
    progress.finishFile();
    return;
  }
  await rm(partial);
  if (present === 0)
    throw new Error(`${file.path}: the received file is not what the hub lists (its hash is ${hash}); it was deleted`);
  log(`${file.path}: the part from an earlier run is wrong; starting over`);
  await download(file, path, options);
}

/**
 * Appends the rest of the file. Its URL names a commit, so its content never changes.
 * @throws TransientError the connection broke; what was received stays in the partial file
 */
async function fetchRest(partial: FileHandle, { path, size }: RemoteFile, { hub, commit, progress }: DownloadOptions) {
  let position = (await partial.stat()).size;
  const startOver = async () => {
    await partial.truncate(0);
    position = 0;
  };
  if (position > size) await startOver();
  if (position === size) return;

  const response = await hub.open(commit, path, position);
  const from = response.headers.get('content-range')?.match(/^bytes (\d+)-/)?.[1];
  const isRest = response.status === 206 && Number(from) === position;
  if (!isRest && position > 0) await startOver(); // the server does not support ranges, or not this one
  if (!isRest && response.status !== 200) {
    await response.body?.cancel();
    throw new TransientError(`${path}: the server does not send the requested range (status ${response.status})`);
  }

  const reader = response.body!.getReader();
  try {
    while (position <= size) {
      progress.move(position);
      const { done, value } = await reader.read().catch((cause) => {
        const place = `${formatBytes(position)} of ${formatBytes(size)}`;
        throw new TransientError(`${path}: the connection broke at ${place}`, { cause });
      });
      if (done) break;
      await partial.appendFile(value);
      position += value.length;
    }
  } finally {
    await reader.cancel().catch(() => undefined); // it may have broken already
  }
  if (position !== size) throw new TransientError(`${path}: ended at ${position} bytes, but the hub lists ${size}`);
}

/** The file's hash, of the same kind as its etag. */
async function hashOf(path: string, { size, etag }: RemoteFile): Promise<string> {
  const hash = etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk);
  return hash.digest('hex');
}
