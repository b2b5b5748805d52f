/** What a worker must be fit for before it takes a job, beside its model: each throws in one line what is wrong. */
import { rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { taskFolder } from '../core/job.ts';
import { createScratchFolder } from '../core/temp-files.ts';
import type { Worker } from './pipeline.ts';
import { writeMp4 } from './video/mp4.ts';

/** A job's videos lie on the disk until they are in the bucket. */
const LEAST_DISK = 256e6; // bytes

export async function checkDisk(folder = tmpdir()): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < LEAST_DISK)
    throw new Error(
      `${folder} has ${Math.floor((bavail * bsize) / 1e6)} MB free; at least ${LEAST_DISK / 1e6} are needed`,
    );
}

/** Encodes two black frames. */
export async function checkCodec(): Promise<void> {
  const folder = await createScratchFolder();
  async function* frames() {
    for (let i = 0; i < 2; i++) yield new Uint8Array(64 * 64 * 3);
  }
  try {
    const { signal } = new AbortController();
    const size = { width: 64, height: 64, fps: 6 };
    await writeMp4(join(folder, 'check.mp4'), frames(), { ...size, metadata: {}, madeByAi: false, signal });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** @throws StorageError */
export async function checkBucket({ bucket }: Worker): Promise<void> {
  await bucket.has(taskFolder('none'));
}
