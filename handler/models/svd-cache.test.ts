/** Cached features, against the reference's numbers and against whole runs of the network. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { noiseLevels } from '../../core/discretization.ts';
import { guidanceScales, withGuidance } from '../../core/guider.ts';
import { openSession } from '../onnx/session.ts';
import { type CachedForm, unet } from '../onnx/unet.ts';
import { eulerEDM, heunEDM } from '../sampling/samplers.ts';
import { generator } from '../sampling/torch-random.ts';
import { addedTimeIds, timestepEmbedding } from './svd/conditioning.ts';
import { evaluate, type Features } from './svd/feature-cache.ts';
import { openFiles } from './svd/files.ts';
import { vPrediction } from './svd/preconditioning.ts';
import { openSvd, type SvdModel } from './svd.ts';
import { psnr, SMALL_SVD, withFewLayers } from './testdata/reference.ts';

const { configs, weights } = openFiles(SMALL_SVD);
const goldens = JSON.parse(readFileSync(new URL('testdata/deepcache.json', import.meta.url), 'utf8'));
const floats = (b64: string) => new Float32Array(new Uint8Array(Buffer.from(b64, 'base64')).buffer);
const EDM = { discretization: 'EDMDiscretization', sigma_min: 0.002, sigma_max: 700, rho: 7 } as const;
/** PSNR in dB above which only the order of additions differs. */
const SAME = 130;
const MIB = 2 ** 20;
const CACHE = { cache_interval: 2, cache_depth: 2 };
const CALM = { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 };

afterEach(() => vi.restoreAllMocks());

/** Calls `onOpen` with each session that onnxruntime opens. */
function watchSessions(onOpen: (session: InferenceSession) => void) {
  const create = InferenceSession.create.bind(InferenceSession) as (...all: unknown[]) => Promise<InferenceSession>;
  vi.spyOn(InferenceSession, 'create').mockImplementation((async (...all: unknown[]) => {
    const session = await create(...all);
    onOpen(session);
    return session;
  }) as typeof InferenceSession.create);
}

/** Makes onnxruntime fail once to open a session with this input. */
function failOnce(input: string, message: string) {
  let failures = 0;
  watchSessions(({ inputNames }) => {
    if (inputNames.includes(input) && failures++ === 0) throw new Error(message);
  });
}

/** Records for each run of the UNet which branch ran and how, as the goldens do. */
function recordRuns(): string[] {
  const ran: string[] = [];
  watchSessions((session) => {
    const run = session.run.bind(session);
    session.run = async (feeds: InferenceSession.FeedsType) => {
      const branch = (feeds.context?.data as Float32Array | undefined)?.some((value) => value !== 0) ? 'c' : 'u';
      if (feeds.context) ran.push(`${branch}-${feeds.feature ? 'cached' : 'full'}`);
      return run(feeds);
    };
  });
  return ran;
}

describe.each([
  { policy: 'prepacked', cases: ['small-N2-k2', 'small-N3-k3', 'small-interval-N3-k2'] },
  { policy: 'mapped', cases: ['small-N3-k1', 'small-N2-k5'] },
] as const)('with $policy weights', ({ policy, cases }) => {
  const openUnet = (size: { T: number; h: number; w: number }, cached?: CachedForm) =>
    openSession(unet(weights.unet, configs.unet, { B: 1, ...size }, { policy }, cached), { threads: 1 });
  const formsOf = async (size: { T: number; h: number; w: number }, depth: number) => ({
    whole: await openUnet(size, { depth, form: 'whole' }),
    shallow: await openUnet(size, { depth, form: 'shallow' }),
  });

  for (const golden of goldens.loops.filter(({ id }: { id: never }) => cases.includes(id)))
    test(`${golden.id}: the latents and the runs are the reference’s`, async () => {
      const ran = recordRuns();
      const {
        T,
        h,
        w,
        ids,
        layers,
        steps,
        guidance,
        guidance_interval: [guidance_sigma_min, guidance_sigma_max] = [0, Infinity],
        interval,
      } = golden;
      const [latent, embedding] = [floats(golden.latent_b64), floats(golden.context_b64)];
      const { whole, shallow } = await formsOf({ T, h, w }, layers);
      const [fps, motion_bucket_id, cond_aug] = ids;
      const added = new Float32Array(96);
      for (const [i, id] of addedTimeIds({ fps: fps + 1, motion_bucket_id, cond_aug }).entries())
        added.set(timestepEmbedding(id, 32), i * 32);
      const plane = 4 * h * w;
      const features: Features = new Map();
      const branch = vPrediction(async (x, c_noise, conditional, step) => {
        const sample = new Float32Array(2 * x.length);
        for (let t = 0; t < T; t++) {
          sample.set(x.subarray(t * plane, (t + 1) * plane), 2 * t * plane);
          if (conditional) sample.set(latent, (2 * t + 1) * plane);
        }
        const context = conditional ? embedding : new Float32Array(embedding.length);
        const inputs = { sample, time: timestepEmbedding(c_noise, 64), added, context };
        return evaluate({ whole, shallow }, inputs, features, { conditional, step, interval });
      });
      const [min_guidance_scale, max_cfg_scale] = guidance;
      const scales = guidanceScales(T, { guider: 'LinearPredictionGuider', min_guidance_scale, max_cfg_scale });
      const latents = await eulerEDM(
        {
          denoise: withGuidance(branch, scales, { guidance_sigma_min, guidance_sigma_max }),
          noise: floats(golden.noise_b64),
          sigmas: noiseLevels(steps, EDM),
          randn: () => expect.fail('no noise is expected'),
        },
        CALM,
      );
      expect(psnr(latents, floats(golden.last_b64))).toBeGreaterThan(100);
      expect(ran).toEqual(golden.ran.flatMap((step: string) => step.split(' ')));
    });

  test('the whole form gives the bits of the network without a cache, and the shallow one at the same input the same', async () => {
    const { randn } = generator(3);
    const inputs = { sample: randn(2 * 8 * 9 * 7), time: randn(64), added: randn(96), context: randn(64) };
    const size = { T: 2, h: 9, w: 7 };
    const plain = await openUnet(size);
    const expected = await plain.run(inputs);
    await plain.close();
    for (const depth of policy === 'mapped' ? [1, 5] : [2]) {
      const { whole, shallow } = await formsOf(size, depth);
      const [v, feature] = await whole.runAll(inputs);
      expect(v).toEqual(expected);
      const again = await shallow.run({ ...inputs, feature: feature! });
      expect(psnr(again, expected)).toBeGreaterThan(SAME); // onnxruntime may choose other memory layouts
      for (const session of [whole, shallow]) await session.close();
    }
  });
});

describe('a clip', () => {
  const size = { H: 64, W: 64, T: 3 };
  const still = { data: Uint8Array.from({ length: 3 * 64 * 64 }, (_, i) => i % 251), width: 64, height: 64 };
  const numbers = { ...size, fps: 6, motion_bucket_id: 127, cond_aug: 0.02, decoding_t: 1, still };
  const latents = (seed: number) => generator(seed).randn(3 * 4 * 8 * 8);
  const folder = mkdtempSync(join(tmpdir(), 'svd-cache-'));
  let model: SvdModel;
  beforeAll(() => {
    withFewLayers(folder);
    model = openSvd(folder, { threads: 1 });
  });
  afterAll(async () => {
    await model.close();
    rmSync(folder, { recursive: true });
  });
  const open = (cache: { cache_interval?: number; cache_depth?: number; T?: number }, of = model) =>
    of.open({ ...numbers, steps: 25, ...cache, randn: generator(1).randn, signal: new AbortController().signal });

  test('Heun’s two evaluations of a step are alike: both whole, or both with cached features', async () => {
    const ran = recordRuns();
    const own = openSvd(folder, { threads: 1 });
    const clip = await open(CACHE, own);
    const denoise = withGuidance(clip.denoise, [1, 2, 3]);
    await heunEDM({ denoise, noise: latents(2), sigmas: noiseLevels(3, EDM), randn: generator(1).randn }, CALM);
    const [full, cached] = [
      ['c-full', 'u-full'],
      ['c-cached', 'u-cached'],
    ];
    expect(ran).toEqual([full, full, cached, cached, full].flat());
    await clip.close();
    await own.close();
  });

  test('uses no feature of an earlier clip, nor that of the other branch or of an earlier cycle', async () => {
    const plain = await open({});
    const [x, y] = [latents(4), latents(5)];
    const expected = await plain.denoise(y, 1, false, 5);
    await plain.close();
    const cache = { cache_interval: 4, cache_depth: 2 };
    const before = await open(cache);
    await before.denoise(x, 2, false, 5);
    await before.close();
    const runs = [undefined, { branch: true, step: 4 }, { branch: false, step: 0 }];
    for (const earlier of runs) {
      const clip = await open(cache); // the first is as for a job that another worker began
      if (earlier) await clip.denoise(x, 2, earlier.branch, earlier.step);
      expect(await clip.denoise(y, 1, false, 5)).toEqual(expected);
      expect(psnr(await clip.denoise(y, 1, false, 6), expected)).toBeGreaterThan(SAME); // the feature of the same input
      expect(psnr(await clip.denoise(y, 1.5, false, 6), expected)).toBeLessThan(80);
      await clip.close();
    }
  });

  test('uses the sessions of its own depth, not those of the clip before', async () => {
    const differences = new Set<string>();
    for (const cache_depth of [2, 3, 2]) {
      const clip = await open({ cache_interval: 2, cache_depth });
      await clip.denoise(latents(6), 9, true, 0);
      differences.add(`${cache_depth} ${(await clip.denoise(latents(7), 3, true, 1)).slice(0, 8)}`);
      await clip.close();
    }
    expect(differences.size).toBe(2);
  });

  describe.each([
    ['memory is too small for both forms', { memory: 8 * MIB }, undefined],
    ['memory runs out while the shallow form is opened', {}, 'std::bad_alloc'],
  ])('where %s', (_, options, failure) => {
    test('all of the network runs in every step, with a warning', async () => {
      const larger = { T: 8 };
      const [x, y] = [generator(4).randn(8 * 4 * 64), generator(5).randn(8 * 4 * 64)];
      const plain = await open(larger);
      const expected = await plain.denoise(y, 2, true, 1);
      await plain.close();
      if (failure) failOnce('feature', failure);
      const limited = openSvd(folder, { threads: 1, ...options });
      const clip = await open({ ...larger, ...CACHE }, limited);
      await clip.denoise(x, 3, true, 0);
      expect(psnr(await clip.denoise(y, 2, true, 1), expected)).toBeGreaterThan(SAME - 20);
      const message = 'memory is not enough to keep features of the network, so every step runs all of it';
      expect(clip.warnings).toEqual([{ field: 'cache_interval', message }]);
      await clip.close();
      await limited.close();
    });
  });

  test('in little more memory uses its features, without a warning', async () => {
    const ran = recordRuns();
    const limited = openSvd(folder, { threads: 1, memory: 11 * MIB });
    const clip = await open({ T: 8, ...CACHE }, limited);
    for (const step of [0, 1]) await clip.denoise(generator(4).randn(8 * 4 * 64), 3, true, step);
    expect(ran).toEqual(['c-full', 'c-cached']);
    expect(clip.warnings).toEqual([]);
    await clip.close();
    await limited.close();
  });

  test('with more layers than the network has is refused', async () => {
    await expect(open({ cache_interval: 2, cache_depth: 4 })).rejects.toMatchObject({
      code: 'invalid_input',
      message: 'cache_depth: must be from 1 to 3 with this model',
    });
  });
});
