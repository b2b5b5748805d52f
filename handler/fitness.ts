/** Fitness checks that a worker runs before its first job. Each throws an Error of one line. */
import { rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { formatBytes } from '../core/format.ts';
import { taskFolder } from '../core/job.ts';
import { createScratchFolder } from '../core/temp-files.ts';
import type { Worker } from './pipeline.ts';
import { writeMp4 } from './video/mp4.ts';

/** Bytes. A job's videos are on the disk until they are in the bucket. */
const MIN_FREE_DISK = 256e6;

export async function checkDisk(folder = tmpdir()): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < MIN_FREE_DISK)
    throw new Error(
      `${folder} has ${formatBytes(bavail * bsize)} free; at least ${formatBytes(MIN_FREE_DISK)} are needed`,
    );
}

/** Encodes two black frames. */
export async function checkCodec(): Promise<void> {
  const folder = await createScratchFolder();
  async function* frames() {
    for (let i = 0; i < 2; i++) yield new Uint8Array(64 * 64 * 3);
  }
  try {
    await writeMp4(join(folder, 'check.mp4'), frames(), { width: 64, height: 64, fps: 6, metadata: {} });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** @throws StorageError */
export async function checkBucket({ bucket }: Worker): Promise<void> {
  await bucket.has(taskFolder('none'));
}
