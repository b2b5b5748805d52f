import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { PresentedTask } from '../../api/tasks/present.ts';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { freePort, type LocalService, startLocal } from '../local/start.ts';

/** The whole service with Stable Video Diffusion's networks, small and of random weights. */
let service: LocalService;
let folder: string;
const picture = new Blob([new Uint8Array(await readFile(new URL('../../assets/coffee.png', import.meta.url)))]);

const environment = async (more: NodeJS.ProcessEnv) => {
  const port = await freePort(50_000 + Math.floor(Math.random() * 10_000), '127.0.0.1');
  return { PATH: process.env.PATH, PORT: String(port), DATA_DIR: join(folder, String(port)), MODEL: 'svd_xt', ...more };
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'svd-'));
  service = await startLocal({ env: await environment({ MODEL_DIR: SMALL_SVD }), quiet: true });
}, 60_000);
afterAll(async () => {
  await service?.stop();
  await rm(folder, { recursive: true, force: true });
});

async function make(fields: Record<string, string | number | Blob>): Promise<PresentedTask> {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value instanceof Blob ? value : String(value));
  const { id } = await (await fetch(`${service.url}/img2vid`, { method: 'POST', body: form })).json();
  for (;;) {
    const task = await (await fetch(`${service.url}/status?id=${id}`)).json();
    if (task.finished_at) return task;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('a picture becomes an MP4 by the real networks, the same bytes for the same seed, marked as made by AI', async () => {
  const request = { image: picture, H: 64, W: 64, T: 3, steps: 2, decoding_t: 2, seed: 23 };
  const task = await make(request);
  expect(task).toMatchObject({
    status: 'succeeded',
    model: 'svd_xt',
    input: { fps: 6, sigma_max: 700, max_cfg_scale: 3, min_guidance_scale: 1.5 },
    videos: [{ width: 64, height: 64, frames: 3, seed: 23 }],
  });
  expect(task.warnings.map(({ field }) => field)).toEqual(['H']); // not the size that it was trained with
  const bytes = Buffer.from(await (await fetch(task.videos![0]!.link)).arrayBuffer());
  expect(bytes.includes('digitalsourcetype/trainedAlgorithmicMedia')).toBe(true);

  expect((await make(request)).videos![0]!.sha256).toBe(task.videos![0]!.sha256);
  expect((await make({ ...request, seed: 24 })).videos![0]!.sha256).not.toBe(task.videos![0]!.sha256);
  expect((await make({ ...request, motion_bucket_id: 200 })).videos![0]!.sha256).not.toBe(task.videos![0]!.sha256);
}, 60_000);

test('a folder that is not whole stops the start in one line', async () => {
  const start = async (MODEL_DIR: string) => startLocal({ env: await environment({ MODEL_DIR }), quiet: true });
  await expect(start(join(folder, 'nothing'))).rejects.toThrow(
    /^worker: .*nothing\/feature_extractor\/preprocessor_config.json: can’t be read$/,
  );
}, 60_000);
