import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { inSinglePrecision, SMALL_SVD, withFewLayers } from '../../handler/models/testdata/reference.ts';
import { cacheName, UNETS } from '../../handler/models/weights.ts';
import { CUDA_PROVIDER, providerFolder } from '../../handler/onnx/provider.ts';
import { type LocalTestService, startService } from './local-service.ts';

/** The whole service with Stable Video Diffusion's networks, small and with random weights. */
let service: LocalTestService;
let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'svd-'));
  const snapshots = join(folder, 'hub/models--stabilityai--stable-video-diffusion-img2vid-xt/snapshots');
  await mkdir(join(snapshots, 'abc'), { recursive: true });
  withFewLayers(join(snapshots, 'abc'));
  const { repository, file } = UNETS.animatelcm_svd_xt!;
  const drafts = join(folder, 'hub', cacheName(repository), 'snapshots/def');
  await mkdir(drafts, { recursive: true });
  inSinglePrecision(join(folder, 'other'), (tensor, values) => {
    if (tensor === 'conv_out.weight') values.fill(0);
  });
  await rename(join(folder, 'other/unet/diffusion_pytorch_model.safetensors'), join(drafts, file));
  service = await startService({ MODEL: 'svd_xt', HF_HOME: folder, DEVICE: 'cpu' });
}, 60_000);
afterAll(async () => {
  await service?.stop();
  await rm(folder, { recursive: true, force: true });
});

test('the networks make an MP4 of a picture, the same bytes for the same seed, marked as made by AI', async () => {
  const request = { H: 64, W: 64, T: 3, steps: 2, decoding_t: 2, seed: 23 };
  const task = await service.make(request);
  expect(task).toMatchObject({
    status: 'succeeded',
    model: 'svd_xt',
    device: 'cpu',
    input: { fps: 6, sigma_max: 700, max_cfg_scale: 3, min_guidance_scale: 1.5 },
    videos: [{ width: 64, height: 64, frames: 3, seed: 23 }],
  });
  expect(service.device).toBe('cpu'); // which npm start prints
  expect(task.warnings.map(({ field }) => field)).toEqual(['H']); // not the size that it was trained with
  const bytes = Buffer.from(await (await fetch(task.videos![0]!.link)).arrayBuffer());
  expect(bytes.includes('digitalsourcetype/trainedAlgorithmicMedia')).toBe(true);

  expect((await service.make(request)).videos![0]!.sha256).toBe(task.videos![0]!.sha256);
  expect((await service.make({ ...request, seed: 24 })).videos![0]!.sha256).not.toBe(task.videos![0]!.sha256);
  expect((await service.make({ ...request, motion_bucket_id: 200 })).videos![0]!.sha256).not.toBe(
    task.videos![0]!.sha256,
  );
}, 60_000);

test('a speed makes the clip of its parameters, and the job has these alone', async () => {
  const request = { H: 64, W: 64, T: 2, seed: 23 };
  const levels = { steps: 10, sampler: 'DPMPP2MSampler', discretization: 'AlignYourStepsDiscretization' };
  const set = { ...levels, cache_interval: 2, cache_depth: 2 };
  const [fast, same] = [await service.make({ ...request, speed: 'fast' }), await service.make({ ...request, ...set })];
  expect([fast.status, fast.input, same.input.speed]).toMatchObject(['succeeded', { speed: 'fast', ...set }, 'exact']);
  expect(fast.videos![0]!.sha256).toBe(same.videos![0]!.sha256);
}, 60_000);

test('a draft is made by the UNet of AnimateLCM, which the worker found', async () => {
  const request = { H: 64, W: 64, T: 2, seed: 23 };
  const choices = { sampler: 'LCMSampler', discretization: 'LCMDiscretization', guider: 'IdentityGuider' };
  const set = { fps: 7, steps: 4, ...choices };
  const [draft, same] = [
    await service.make({ ...request, speed: 'draft' }),
    await service.make({ ...request, ...set }),
  ];
  expect([draft.status, draft.input, same.status]).toMatchObject([
    'succeeded',
    { speed: 'draft', ...set },
    'succeeded',
  ]);
  expect(draft.videos![0]!.sha256).not.toBe(same.videos![0]!.sha256);
}, 60_000);

test('the worker’s log says which device was chosen and how long each part of its start took', async () => {
  const lines = (await readFile(join(service.dataDir, 'worker.log'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const logged = (event: string) => lines.filter(({ message }) => message === event);
  expect(logged('device chosen')).toEqual([
    expect.objectContaining({
      device: 'cpu',
      reason: 'DEVICE is cpu',
      weights: 'Hugging Face cache',
      seconds: expect.any(Number),
    }),
  ]);
  const networks = logged('session opened').map(({ network }) => network);
  expect(networks.slice(0, 4)).toEqual(['clip', 'encoder', 'unet', 'decoder']); // before any job
  const order = lines.map(({ message }) => message);
  expect(order.indexOf('serving')).toBeGreaterThan(order.indexOf('model ready'));
  expect(order.indexOf('model ready')).toBeGreaterThan(order.indexOf('session opened'));
});

test('a clip that can never fit into memory is refused before anything is made', async () => {
  const task = await service.make({ H: 2048, W: 2048, T: 100, steps: 1 });
  expect(task).toMatchObject({ status: 'failed', error: { code: 'out_of_memory', retryable: false } });
  expect(task.error!.message).toMatch(
    /^W 2048, H 2048, T 100 needs about .* GiB of memory, and this worker has .*: at most /,
  );
  expect(task.still).toBeUndefined();
}, 60_000);

test.skipIf(existsSync(join(providerFolder, CUDA_PROVIDER)))(
  'DEVICE=cuda without CUDA ends the start with one line',
  async () => {
    await expect(startService({ MODEL: 'svd_xt', MODEL_DIR: SMALL_SVD, DEVICE: 'cuda' })).rejects.toThrow(
      /^worker: DEVICE is cuda, but onnxruntime’s CUDA provider is not installed \(run npm run cuda\)$/,
    );
  },
  60_000,
);

test('DEVICE=webgpu without a GPU’s driver ends the start with one line', async () => {
  const variables = { MODEL: 'svd_xt', MODEL_DIR: SMALL_SVD, DEVICE: 'webgpu', VK_DRIVER_FILES: join(folder, 'none') };
  await expect(startService(variables)).rejects.toThrow(
    /^worker: DEVICE is webgpu, but (WebGPU finds no GPU: .* is missing or too old|onnxruntime has no WebGPU for .*)$/m, // after the driver's own lines
  );
}, 60_000);

test('a missing model folder ends the start with one line', async () => {
  await expect(startService({ MODEL: 'svd_xt', MODEL_DIR: join(folder, 'nothing') })).rejects.toThrow(
    /^worker: MODEL_DIR .*nothing is not there$/,
  );
}, 60_000);
