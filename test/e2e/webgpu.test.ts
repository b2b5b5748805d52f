import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, expect, test } from 'vitest';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { hasGpu, skipped } from '../support/gpu.ts';
import { startService } from './local-service.ts';

/** The whole service, its networks on a GPU and on the processor. Both make the same clip. */
const folder = await mkdtemp(join(tmpdir(), 'webgpu-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

/** The pixels of every frame that a device makes. */
async function framesOf(device: string): Promise<Buffer[]> {
  const frames = await mkdtemp(join(folder, `${device}-`));
  const service = await startService({ MODEL: 'svd_xt', MODEL_DIR: SMALL_SVD, DEVICE: device, FRAMES_DIR: frames });
  try {
    const task = await service.make({ H: 64, W: 64, T: 2, steps: 2, decoding_t: 2, seed: 23 });
    expect(task).toMatchObject({ status: 'succeeded', device, videos: [{ width: 64, height: 64, frames: 2 }] });
    const files = await readdir(join(frames, task.id, '1'));
    return Promise.all(
      files.sort().map((file) =>
        sharp(join(frames, task.id, '1', file))
          .raw()
          .toBuffer(),
      ),
    );
  } finally {
    await service.stop();
  }
}

test.skipIf(!hasGpu)(
  `DEVICE=webgpu makes the frames of DEVICE=cpu, within one level${skipped}`,
  async () => {
    const [gpu, processor] = [await framesOf('webgpu'), await framesOf('cpu')];
    expect(gpu).toHaveLength(2);
    for (const [i, frame] of gpu.entries()) {
      expect(frame.length).toBe(3 * 64 * 64);
      const differences = frame.map((value, at) => Math.abs(value - processor[i]![at]!));
      expect(Math.max(...differences)).toBeLessThanOrEqual(1);
    }
  },
  300_000,
);
