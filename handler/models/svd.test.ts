import { readFileSync } from 'node:fs';
import { cp, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { noiseLevels } from '../../core/discretization.ts';
import { guidanceScales, withGuidance } from '../../core/guider.ts';
import { eulerEDM, sample } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import { openSvd, type SvdModel } from './svd.ts';
import { inSinglePrecision, psnr, reference, SMALL_SVD, samplerReference } from './testdata/reference.ts';

interface Case {
  H: number;
  W: number;
  T: number;
  steps: number;
  fps: number;
  motion_bucket_id: number;
  cond_aug: number;
  guidance: [first: number, last: number];
  decoding_t: number;
  seed: number;
}
const cases: Case[] = JSON.parse(readFileSync(new URL('testdata/pipelines.json', import.meta.url), 'utf8')).cases;

/** The least PSNR in dB of whole pipelines' float frames, with our own random numbers. */
const MIN_PSNR = 90;

let model: SvdModel;
beforeAll(() => {
  model = openSvd(SMALL_SVD, { threads: 1 });
});
afterAll(() => model.close());

interface Changes {
  randn?: (randn: (n: number) => Float32Array) => (n: number) => Float32Array;
  model?: SvdModel;
  /** whether the frames are decoded again, as bytes */
  asBytes?: boolean;
  /** whether nothing is decoded */
  onlyLatents?: boolean;
}

/** Runs a model as the worker's pipeline does, without the parts that diffusers' pipeline lacks. */
async function clipOf(index: number, changes: Partial<Case> = {}, otherwise: Changes = {}) {
  const own = { ...cases[index]!, ...changes };
  const { H, W, T, steps, guidance, seed } = own;
  const { randn } = generator(seed);
  const data = Uint8Array.from(reference(`pipeline ${index}/picture`).data);
  const clip = await (otherwise.model ?? model).open({
    ...own,
    still: { data, width: W, height: H },
    randn: otherwise.randn ? otherwise.randn(randn) : randn,
    signal: new AbortController().signal,
  });
  const [min_guidance_scale, max_cfg_scale] = guidance;
  const scales = guidanceScales(T, { guider: 'LinearPredictionGuider', min_guidance_scale, max_cfg_scale });
  const sigmas = noiseLevels(steps, { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 });
  const noise = randn(clip.shape.reduce((product, size) => product * size, 1));
  const churn = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };
  const latents = await eulerEDM({ denoise: withGuidance(clip.denoise, scales), noise, sigmas, randn }, churn);
  const frames: Float32Array[] = [];
  if (!otherwise.onlyLatents) for await (const frame of clip.decodeFloat(latents)) frames.push(frame);
  const bytes: Uint8Array[] = [];
  if (otherwise.asBytes) for await (const frame of clip.decode(latents)) bytes.push(frame);
  await clip.close();
  return { latents, frames: Float32Array.from(frames.flatMap((frame) => [...frame])), bytes };
}

describe('a whole clip equals diffusers’ StableVideoDiffusionPipeline', () => {
  test.each(cases.map((own, index) => ({ ...own, index })))(
    '$T frames of $W×$H, $steps steps, $fps fps, motion $motion_bucket_id, augmentation $cond_aug, guidance $guidance, decoding $decoding_t',
    async ({ index, H, W, T }) => {
      const { latents, frames, bytes } = await clipOf(index, {}, { asBytes: true });
      expect(psnr(latents, reference(`pipeline ${index}/latents`).data)).toBeGreaterThan(MIN_PSNR);
      const expected = reference(`pipeline ${index}/frames`).data;
      expect(psnr(frames, expected)).toBeGreaterThan(MIN_PSNR);

      expect(bytes).toHaveLength(T);
      let squares = 0;
      for (let t = 0; t < T; t++) {
        for (let i = 0; i < H * W; i++) {
          for (let c = 0; c < 3; c++) {
            const level = Math.round(expected[(t * 3 + c) * H * W + i]! * 255);
            const difference = Math.abs(bytes[t]![i * 3 + c]! - level);
            if (difference > 1) expect.fail(`${difference} levels apart`);
            squares += difference ** 2;
          }
        }
      }
      expect(10 * Math.log10(255 ** 2 / (squares / expected.length || 1e-12))).toBeGreaterThan(65);
    },
  );

  test('one frame with guidance from 1, where diffusers fails, is a finite and varied picture', async () => {
    const { frames } = await clipOf(2, { guidance: [1, 3] });
    const mean = frames.reduce((sum, value) => sum + value, 0) / frames.length;
    expect(frames.every(Number.isFinite)).toBe(true);
    expect(frames.some((value) => Math.abs(value - mean) > 0.1)).toBe(true);
  });

  test('weights in single precision give the same frames', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'single-'));
    inSinglePrecision(folder);
    const single = openSvd(folder, { threads: 1 });
    const { frames } = await clipOf(1, {}, { model: single });
    expect(psnr(frames, reference('pipeline 1/frames').data)).toBeGreaterThan(MIN_PSNR);
    await single.close();
    await rm(folder, { recursive: true });
  });
});

const levelsOf = { 'align-your-steps': 'AlignYourStepsDiscretization', lcm: 'LCMDiscretization' } as const;
test.each([
  ['align-your-steps', { sampler: 'EulerEDMSampler', s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 }],
  ['lcm', { sampler: 'LCMSampler', s_noise: 1 }],
] as const)('a clip of %s equals that of diffusers’ pipeline', async (name, choice) => {
  const golden = JSON.parse(readFileSync(new URL(`testdata/${name}.json`, import.meta.url), 'utf8'));
  const { H, W, T, steps, seed, guidance, picture, latents_b64 } = golden;
  const [a, b, c] = picture;
  const data = new Uint8Array(W * H * 3);
  for (let i = 0; i < W * H; i++) {
    const [x, y] = [i % W, Math.floor(i / W)];
    const red = 127 + 120 * Math.sin(x / a + y / b);
    data.set([red, 127 + 120 * Math.cos(y / c), (2.5 * x + y) % 256], 3 * i);
  }
  const { randn } = generator(seed);
  const still = { data, width: W, height: H };
  const clip = await model.open({ ...golden, decoding_t: T, still, randn, signal: new AbortController().signal });
  const noise = randn(clip.shape.reduce((product, size) => product * size, 1));
  const [min_guidance_scale, max_cfg_scale] = guidance;
  const scales = guidanceScales(T, { guider: 'LinearPredictionGuider', min_guidance_scale, max_cfg_scale });
  const sigmas = noiseLevels(steps, { discretization: levelsOf[name] });
  const latents = await sample({ denoise: withGuidance(clip.denoise, scales), noise, sigmas, randn }, choice);
  await clip.close();
  const expected = new Float32Array(new Uint8Array(Buffer.from(latents_b64, 'base64')).buffer);
  expect(psnr(latents, expected)).toBeGreaterThan(MIN_PSNR);
});

describe('every sampler over these networks gives the latents of Stability’s own classes', () => {
  const { shared, cases } = JSON.parse(readFileSync(new URL('testdata/samplers.json', import.meta.url), 'utf8'));
  const preset = { sigma_min: 0.002, sigma_max: 700, rho: 7 };
  for (const [index, { sampler, parameters, discretization, guider }] of cases.entries()) {
    test(`${sampler}, ${discretization}, ${guider}`, async () => {
      const { H, W, T, steps, seed } = shared;
      const { randn } = generator(seed);
      const still = { data: Uint8Array.from(reference('pipeline 3/picture').data), width: W, height: H };
      const clip = await model.open({ ...shared, decoding_t: T, still, randn, signal: new AbortController().signal });
      const noise = randn(clip.shape.reduce((product, size) => product * size, 1));
      const scales = guidanceScales(T, { guider, min_guidance_scale: 1, max_cfg_scale: 2.5, cfg_scale: 3 });
      const sigmas = noiseLevels(steps, { discretization, ...preset });
      const latents = await sample(
        { denoise: withGuidance(clip.denoise, scales), noise, sigmas, randn },
        { sampler, ...parameters },
      );
      await clip.close();
      expect(psnr(latents, samplerReference(String(index)).data)).toBeGreaterThan(MIN_PSNR);
    });
  }
});

describe('a deliberate mistake falls at least 10 dB below the minimum', () => {
  const [first] = cases as [Case];
  const expectMistake = (latents: Float32Array) =>
    expect(psnr(latents, reference('pipeline 0/latents').data)).toBeLessThan(MIN_PSNR - 10);
  test.each<[string, Partial<Case>]>([
    ['fps not reduced by one', { fps: first.fps + 1 }],
    ['another motion bucket', { motion_bucket_id: first.motion_bucket_id + 1 }],
    ['another augmentation', { cond_aug: first.cond_aug + 0.01 }],
    ['no guidance', { guidance: [1, 1] }],
    ['another seed', { seed: first.seed + 1 }],
  ])('%s', async (_, changes) => {
    expectMistake((await clipOf(0, changes, { onlyLatents: true })).latents);
  });

  test('frames decoded in other chunks', async () => {
    const { frames } = await clipOf(0, { decoding_t: 5 });
    expect(psnr(frames, reference('pipeline 0/frames').data)).toBeLessThan(MIN_PSNR - 10);
  });

  test('noise of the latents drawn before that of the augmentation', async () => {
    const order = (randn: (n: number) => Float32Array) => {
      const taken = randn(cases[0]!.T * 4 * 8 * 12);
      return (n: number) => (taken.length > 0 ? randn(n) : taken);
    };
    expectMistake((await clipOf(0, {}, { randn: order, onlyLatents: true })).latents);
  });

  test('no CLIP embedding', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'blind-'));
    inSinglePrecision(folder, (tensor, values) => {
      if (tensor === 'visual_projection.weight') values.fill(0);
    });
    const blind = openSvd(folder, { threads: 1 });
    expectMistake((await clipOf(0, {}, { model: blind, onlyLatents: true })).latents);
    await blind.close();
    await rm(folder, { recursive: true });
  });
});

test('an aborted clip stops decoding between two chunks', async () => {
  const { H, W } = cases[3]!;
  const still = { data: Uint8Array.from(reference('pipeline 3/picture').data), width: W, height: H };
  const controller = new AbortController();
  const clip = await model.open({
    ...cases[3]!,
    decoding_t: 1,
    still,
    randn: generator(1).randn,
    signal: controller.signal,
  });
  const latents = new Float32Array(clip.shape.reduce((product, size) => product * size, 1));
  const reason = new Error('enough');
  const decoding = (async () => {
    for await (const _ of clip.decode(latents)) controller.abort(reason);
  })();
  await expect(decoding).rejects.toBe(reason);
  await clip.close();
});

test('concurrent jobs of different shapes give the frames of separate jobs', async () => {
  const results = await Promise.all([2, 3, 2].map((index) => clipOf(index)));
  for (const [i, index] of [2, 3, 2].entries()) {
    expect(psnr(results[i]!.frames, reference(`pipeline ${index}/frames`).data)).toBeGreaterThan(MIN_PSNR);
  }
});

describe('an incomplete or inconsistent folder fails with one line that names the file', () => {
  let folder: string;
  const fresh = async () => {
    folder = await mkdtemp(join(tmpdir(), 'broken-'));
    await cp(SMALL_SVD, folder, { recursive: true });
  };
  test.each<[string, (folder: string) => Promise<void>, RegExp]>([
    ['no folder', (dir) => rm(dir, { recursive: true }), /preprocessor_config.json: can’t be read$/],
    [
      'no weights',
      (dir) => rm(join(dir, 'unet/diffusion_pytorch_model.fp16.safetensors')),
      /unet\/diffusion_pytorch_model.fp16.safetensors: can’t be read$/,
    ],
    [
      'truncated weights',
      (dir) => truncate(join(dir, 'vae/diffusion_pytorch_model.fp16.safetensors'), 1_000_000),
      /vae\/diffusion_pytorch_model.fp16.safetensors: truncated/,
    ],
    ['no JSON', (dir) => writeFile(join(dir, 'vae/config.json'), '{'), /vae\/config.json: is not JSON$/],
    [
      'another config',
      (dir) => writeFile(join(dir, 'unet/config.json'), '{"in_channels": "eight"}'),
      /unet\/config.json: in_channels: /,
    ],
    [
      'weights of another shape than the config says',
      (dir) => change(join(dir, 'vae/config.json'), { block_out_channels: [64, 64, 64, 96] }),
      /vae\/diffusion_pytorch_model.fp16.safetensors: encoder.down_blocks.3.resnets.0.conv1.weight has shape \[64,64,3,3\], not \[96,64,3,3\]$/,
    ],
    [
      'fewer weights than the config says',
      (dir) => change(join(dir, 'image_encoder/config.json'), { num_hidden_layers: 3 }),
      /image_encoder\/model.fp16.safetensors: has no tensor vision_model.encoder.layers.2.layer_norm1.weight$/,
    ],
    [
      'networks that don’t fit together',
      (dir) => change(join(dir, 'image_encoder/config.json'), { projection_dim: 32 }),
      /image_encoder gives 32 numbers, unet takes 64$/,
    ],
  ])('%s', async (_, spoil, message) => {
    await fresh();
    await spoil(folder);
    expect(() => openSvd(folder)).toThrow(message);
    await rm(folder, { recursive: true, force: true });
  });

  async function change(path: string, values: object) {
    await writeFile(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...values }));
  }
});
