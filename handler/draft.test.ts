/** Drafts: jobs that need the UNet of AnimateLCM, with and without its file. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { diskBucket } from '../core/bucket/disk.ts';
import type { ModelName } from '../core/presets.ts';
import type { Model } from './models/model.ts';
import { openSvd } from './models/svd.ts';
import { inSinglePrecision, SMALL_SVD } from './models/testdata/reference.ts';
import { runJob, type Worker } from './pipeline.ts';
import type { Bridge } from './still/bridges/bridge.ts';

const TASKS = [1, 2, 3, 4, 5].map((n) => `01a206ec-8c81-72d2-88c2-373f04644e4${n}`);
const folder = mkdtempSync(join(tmpdir(), 'draft-'));
const unet = join(folder, 'unet/diffusion_pytorch_model.safetensors');
beforeAll(() => {
  inSinglePrecision(folder, (tensor, values) => {
    if (tensor === 'conv_out.weight') for (let i = 0; i < values.length; i++) values[i]! *= 0.5;
  });
});
afterAll(() => rmSync(folder, { recursive: true }));

const input = {
  ...{ H: 64, W: 64, T: 2, fps: 7, seed: 3, steps: 4, image_index: 1, fit: 'cover', decoding_t: 2, num_cols: 1 },
  ...{ cond_aug: 0.02, motion_bucket_id: 127, sampler: 'LCMSampler', s_noise: 1 },
  ...{ discretization: 'LCMDiscretization', guider: 'IdentityGuider' },
};
const run = (worker: Worker, task_id: string, more: object) =>
  runJob({ ...input, model: worker.modelName, task_id, ...more }, worker, {
    jobId: 'job',
    progress: () => {},
    signal: new AbortController().signal,
  });

async function openWorker(modelName: ModelName, model: Model): Promise<Worker> {
  const bucket = await diskBucket(join(folder, 'data'), { publicUrl: '' });
  return { modelName, model, bucket, bridges: [], allowPrivate: false, stillTimeout: 1000, framesDir: undefined };
}

/** The hash of a clip of the same picture. */
async function make(worker: Worker, task: string, more: object = {}): Promise<string> {
  const picture = sharp({ create: { width: 90, height: 70, channels: 3, background: '#484' } });
  await worker.bucket.put(`tasks/${task}/upload`, await picture.png().toBuffer());
  return (await run(worker, task, { image_key: `tasks/${task}/upload`, ...more })).videos[0]!.sha256;
}

test('a draft is the clip of the model AnimateLCM; other clips of the worker are as without drafts', async () => {
  const networks: string[] = [];
  const onOpen = ({ network }: { network: string }) => networks.push(network);
  const worker = await openWorker('svd_xt', openSvd(SMALL_SVD, { draftUnet: unet, onOpen }));
  const before = await make(worker, TASKS[0]!);
  const draft = await make(worker, TASKS[1]!, { unet: 'animatelcm_svd_xt' });
  expect(await make(worker, TASKS[2]!)).toBe(before);
  expect(draft).not.toBe(before);
  expect(networks).toEqual(['clip', 'encoder', 'unet', 'decoder', 'unet of animatelcm_svd_xt']); // the others are shared

  const animateLcm = await openWorker('animatelcm_svd_xt', openSvd(SMALL_SVD, { unet }));
  expect(await make(animateLcm, TASKS[3]!)).toBe(draft);
}, 60_000);

test('without the file a draft fails before a bridge is paid, and the error says what to fetch', async () => {
  const bridges = [new Proxy({} as Bridge, { get: (_, name) => expect.fail(`the bridge’s ${String(name)}`) })];
  const worker = { ...(await openWorker('svd_xt', openSvd(SMALL_SVD))), bridges };
  await expect(run(worker, TASKS[4]!, { prompt: 'a cat', unet: 'animatelcm_svd_xt' })).rejects.toMatchObject({
    data: {
      code: 'invalid_input',
      message:
        'speed draft needs the UNet of animatelcm_svd_xt, which this worker did not find at its start: npm run models -- animatelcm_svd_xt downloads it',
      retryable: false,
    },
  });
  expect(await worker.bucket.get(`tasks/${TASKS[4]}/imagine.json`)).toBeUndefined();
});

test('another model has no drafts', async () => {
  const worker = await openWorker('svd', openSvd(SMALL_SVD));
  const message = 'job: unet: only with the model svd_xt';
  const data = { code: 'invalid_input', message, retryable: false };
  await expect(run(worker, TASKS[4]!, { prompt: 'a cat', unet: 'animatelcm_svd_xt' })).rejects.toMatchObject({ data });
});
