import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { PresentedTask } from '../../core/responses.ts';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { CUDA_PROVIDER, providerFolder } from '../../handler/onnx/provider.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { type LocalService, startLocal } from '../../infra/run/start.ts';

/** The whole service with Stable Video Diffusion's networks, small and of random weights. */
let service: LocalService;
let folder: string;
const picture = new Blob([new Uint8Array(await readFile(new URL('../../assets/coffee.png', import.meta.url)))]);

const environment = async (more: NodeJS.ProcessEnv) => {
  const port = await freePort();
  return { PATH: process.env.PATH, PORT: String(port), DATA_DIR: join(folder, String(port)), MODEL: 'svd_xt', ...more };
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'svd-'));
  const snapshots = join(folder, 'hub/models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots');
  await mkdir(snapshots, { recursive: true });
  await symlink(SMALL_SVD, join(snapshots, 'abc'));
  service = await startLocal({ env: await environment({ HF_HOME: folder, DEVICE: 'cpu' }), quiet: true });
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

test('the log says what was chosen and what the seconds of the start were spent on', async () => {
  const lines = (await readFile(join(service.dataDir, 'worker.log'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const said = (event: string) => lines.filter(({ message }) => message === event);
  expect(said('device chosen')).toEqual([
    expect.objectContaining({
      device: 'cpu',
      reason: 'DEVICE is cpu',
      weights: 'Hugging Face cache',
      seconds: expect.any(Number),
    }),
  ]);
  const networks = said('session opened').map(({ network }) => network);
  expect(networks.slice(0, 4)).toEqual(['clip', 'encoder', 'unet', 'decoder']); // before any job
  const order = lines.map(({ message }) => message);
  expect(order.indexOf('serving')).toBeGreaterThan(order.indexOf('model ready'));
  expect(order.indexOf('model ready')).toBeGreaterThan(order.indexOf('session opened'));
});

test('a clip that can never fit is refused before anything is made', async () => {
  const task = await make({ image: picture, H: 2048, W: 2048, T: 100, steps: 1 });
  expect(task).toMatchObject({ status: 'failed', error: { code: 'out_of_memory', retryable: false } });
  expect(task.error!.message).toMatch(
    /^W 2048, H 2048, T 100 needs about .* GiB of memory, and this worker has .*: at most /,
  );
  expect(task.still).toBeUndefined();
}, 60_000);

test.skipIf(existsSync(join(providerFolder, CUDA_PROVIDER)))(
  'DEVICE=cuda without CUDA stops the start in one line',
  async () => {
    const env = await environment({ MODEL_DIR: SMALL_SVD, DEVICE: 'cuda' });
    await expect(startLocal({ env, quiet: true })).rejects.toThrow(
      /^worker: DEVICE is cuda, but onnxruntime’s CUDA provider is not in place \(npm run cuda\)$/,
    );
  },
  60_000,
);

test('a folder that is not whole stops the start in one line', async () => {
  const start = async (MODEL_DIR: string) => startLocal({ env: await environment({ MODEL_DIR }), quiet: true });
  await expect(start(join(folder, 'nothing'))).rejects.toThrow(/^worker: MODEL_DIR .*nothing is not there$/);
}, 60_000);
