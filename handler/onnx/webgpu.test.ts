import { readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as v from 'valibot';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hasGpu, skipped } from '../../test/support/gpu.ts';
import { openFiles } from '../models/svd/files.ts';
import { NETWORK_CASES } from '../models/testdata/network-cases.ts';
import { inSinglePrecision, psnr, SMALL_SVD } from '../models/testdata/reference.ts';
import { generator } from '../sampling/torch-random.ts';
import type { Graph, GraphOptions } from './graph.ts';
import { clipConfig, clipVision } from './image-encoder.ts';
import type { SafeTensors } from './safetensors.ts';
import { openSession } from './session.ts';
import { unet, unetConfig } from './unet.ts';
import { vaeConfig, vaeDecoder, vaeEncoder } from './vae.ts';
import { LEAST_LIMITS, product } from './value.ts';

const MIB = 2 ** 20;
/** The least PSNR in dB of each network on a GPU, which adds in another order than diffusers. */
const MIN_PSNR = 100;
/** Operators that a GPU leaves to the processor. Data on their way to and fro would cost more than they do. */
const ELSEWHERE: string[] = [];

// A software driver compiles each shader when it first runs, for half a minute in all.
describe.skipIf(!hasGpu)(`on a GPU${skipped}`, { timeout: 300_000 }, () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'webgpu-'));
    inSinglePrecision(folder);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** A run on the GPU: its result, and the operators that ran there and elsewhere, from onnxruntime's profile. */
  async function runOnGpu(graph: Graph, feeds: Record<string, Float32Array>) {
    const profile = await mkdtemp(join(folder, 'profile-'));
    const session = await openSession(graph, { threads: 1, profile: join(profile, 'run') });
    const result = await session.run(feeds);
    await session.close();
    const [file] = readdirSync(profile);
    const events: { cat: string; name: string; args: { provider: string; op_name: string } }[] = JSON.parse(
      readFileSync(join(profile, file!), 'utf8'),
    );
    const nodes = events.filter(({ cat, name }) => cat === 'Node' && name.endsWith('_kernel_time'));
    const [onGpu, elsewhere] = [true, false].map((expected) =>
      nodes
        .filter(({ args }) => (args.provider === 'WebGpuExecutionProvider') === expected)
        .map(({ args }) => args.op_name),
    );
    return { result, onGpu: onGpu!, elsewhere: elsewhere! };
  }

  describe.each<{ files: 'single' | 'half'; only: RegExp }>([
    { files: 'single', only: /^(unet (1x1x8x8|1x3x9x13|2x2x8x8)|encoder 64x96|decoder 2x6x5|clip)$/ },
    { files: 'half', only: /^(unet 1x1x8x8|encoder 72x40|decoder 1x8x8|clip)$/ }, // they stay half on the GPU
  ])('with files in $files precision', ({ files, only }) => {
    const options: GraphOptions = { policy: 'webgpu', limits: { ...LEAST_LIMITS, half: files === 'half' } };

    test.each(NETWORK_CASES.filter(({ name }) => only.test(name)))('$name equals diffusers', async (one) => {
      const graph = one.graph(openFiles(files === 'half' ? SMALL_SVD : folder), options);
      const { result, onGpu, elsewhere } = await runOnGpu(graph, one.feeds);
      expect(psnr(result, one.expected)).toBeGreaterThan(MIN_PSNR);
      expect(elsewhere).toEqual(ELSEWHERE);
      expect(onGpu.length).toBeGreaterThan(40);
      expect(onGpu.includes('Cast')).toBe(files === 'half');
    });
  });

  test('a UNet with 1,024 places, whose values are in parts, equals that of the processor', async () => {
    const { weights, configs } = openFiles(folder);
    const write = (options: GraphOptions) => unet(weights.unet, configs.unet, { B: 1, T: 1, h: 32, w: 32 }, options);
    const onProcessor = write({ policy: 'prepacked' });
    const binding = 400_000;
    expect(onProcessor.largestBytes()).toBeGreaterThan(binding);
    const graph = write({ policy: 'webgpu', limits: { binding, half: false } });
    expect(graph.largestBytes()).toBeLessThanOrEqual(binding);

    const random = generator(5);
    const feeds = Object.fromEntries(graph.inputs.map(({ name, shape }) => [name, random.randn(product(shape))]));
    const session = await openSession(onProcessor, { threads: 1 });
    const expected = await session.run(feeds);
    await session.close();
    const { result, elsewhere } = await runOnGpu(graph, feeds);
    expect(psnr(result, expected)).toBeGreaterThan(MIN_PSNR);
    expect(elsewhere).toEqual(ELSEWHERE);
  });
});

describe('svd_xt with 25 frames of 1024×576', () => {
  const configs = JSON.parse(
    readFileSync(fileURLToPath(new URL('../../infra/tools/svd-xt-configs.json', import.meta.url)), 'utf8'),
  );
  const [clip, vae] = [v.parse(clipConfig, configs.image_encoder), v.parse(vaeConfig, configs.vae)];
  /** Weights that have every tensor, but no file. */
  const weights: SafeTensors = {
    folder: '',
    name: '',
    get: (_, shape) => ({ type: 'float32', shape: [...shape], offset: 0, length: 4 * product(shape) }),
  };
  const [T, h, w] = [25, 72, 128];

  /** onnxruntime opens a graph in up to the square of its nodes. */
  test.each([
    { binding: 128, frames: [1, 2], most: { unet: 22_000, decoder: 8000 } },
    { binding: 1024, frames: [1, 8], most: { unet: 8000, decoder: 6000 } },
    { binding: 2048, frames: [1, 14], most: { unet: 8000, decoder: 8500 } },
  ])('no tensor has more than $binding MiB, where that is the limit', ({ binding, frames, most }) => {
    const options: GraphOptions = { policy: 'webgpu', limits: { binding: binding * MIB, half: false } };
    const graphs: [Graph, most: number][] = [
      [clipVision(weights, clip, options), 1000],
      [vaeEncoder(weights, vae, { B: 1, H: 8 * h, W: 8 * w }, options), 800],
      [unet(weights, v.parse(unetConfig, configs.unet), { B: 1, T, h, w }, options), most.unet],
      ...frames.map((T): [Graph, number] => [vaeDecoder(weights, vae, { T, h, w }, options), most.decoder]),
    ];
    for (const [graph, most] of graphs) {
      expect(graph.largestBytes()).toBeLessThanOrEqual(binding * MIB);
      expect(graph.countNodes()).toBeLessThan(most);
    }
  });
});
