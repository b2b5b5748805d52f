import { readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openFiles } from '../models/svd/files.ts';
import { NETWORK_CASES } from '../models/testdata/network-cases.ts';
import { inSinglePrecision, psnr, reference, SMALL_SVD } from '../models/testdata/reference.ts';
import { generator } from '../sampling/torch-random.ts';
import { createGraph, type Graph, type GraphOptions } from './graph.ts';
import { clipVision } from './image-encoder.ts';
import { openSafeTensors } from './safetensors.ts';
import { openSession } from './session.ts';
import { vaeDecoder } from './vae.ts';

/** The least PSNR in dB of each network against diffusers in float32 on the same weights. */
const MIN_PSNR = 110;
const { configs } = openFiles(SMALL_SVD);
let single: string;

beforeAll(async () => {
  single = await mkdtemp(join(tmpdir(), 'small-svd-'));
  inSinglePrecision(single);
});
afterAll(() => rm(single, { recursive: true, force: true }));

/** Runs a graph of any policy on a processor. */
async function run(graph: Graph, feeds: Record<string, Float32Array>) {
  const policy = graph.policy === 'mapped' ? 'mapped' : 'prepacked';
  const session = await openSession(graph, { threads: 1, policy });
  const result = await session.run(feeds);
  await session.close();
  return result;
}

interface Variant {
  files: 'half' | 'single';
  graph: GraphOptions;
  minPsnr: number;
  cases?: typeof NETWORK_CASES;
}
/** One of each network: the last of its sizes. */
const ONE_OF_EACH = [...new Map(NETWORK_CASES.map((one) => [one.name.split(' ')[0], one])).values()];
/** Without a size of the UNet that has nothing the others lack. */
const OTHER_SIZES = NETWORK_CASES.filter(({ name }) => name !== 'unet 1x5x8x16');
const prepacked = { graph: { policy: 'prepacked' }, minPsnr: MIN_PSNR } as const;
const mapped = { graph: { policy: 'mapped' }, minPsnr: MIN_PSNR } as const;
/** A WebGPU device's graphs, run by a processor: no value, also of a single picture, has more bytes. */
const inParts = { graph: { policy: 'webgpu', limits: { binding: 800_000, half: false } }, minPsnr: MIN_PSNR } as const;
/** A GPU's graphs, run by a processor: rounded to half precision. */
const float16 = { graph: { policy: 'cuda', precision: 'float16' }, minPsnr: 70 } as const;

describe.each<Variant>([
  { files: 'half', ...prepacked },
  { files: 'half', ...mapped, cases: OTHER_SIZES },
  { files: 'single', ...inParts, cases: OTHER_SIZES },
  { files: 'half', ...float16, cases: OTHER_SIZES },
  // The same graphs with all sizes are above: files in another precision only change how a tensor is read.
  { files: 'single', ...prepacked, cases: ONE_OF_EACH },
  { files: 'single', ...mapped, cases: ONE_OF_EACH },
  { files: 'single', ...float16, cases: ONE_OF_EACH },
])('with files in $files precision, graphs $graph', ({ files, graph: options, minPsnr, cases = NETWORK_CASES }) => {
  test.each(cases)('$name equals diffusers', async ({ graph, feeds, expected }) => {
    const got = await run(graph(openFiles(files === 'half' ? SMALL_SVD : single), options), feeds);
    expect(psnr(got, expected)).toBeGreaterThan(minPsnr);
  });
});

test('large frames, whose temporal layers run in strips, decode to the same frames as without strips', async () => {
  const file = openSafeTensors(join(single, 'vae/diffusion_pytorch_model.safetensors'));
  const size = { T: 2, h: 25, w: 22 };
  const latents = generator(7).randn(2 * 4 * size.h * size.w);
  const [inStrips, whole] = await Promise.all(
    (['prepacked', 'mapped'] as const).map((policy) =>
      run(vaeDecoder(file, configs.vae, size, { policy }), { latents }),
    ),
  );
  expect(psnr(inStrips!, whole!)).toBeGreaterThan(MIN_PSNR);
});

test('a run with a missing or unknown input or one of another length fails with the name of the input', async () => {
  const weights = openSafeTensors(join(SMALL_SVD, 'image_encoder/model.fp16.safetensors'));
  const session = await openSession(clipVision(weights, configs.clip));
  await expect(session.run({})).rejects.toThrow('input pixels is [1,3,224,224], 150528 values, not nothing');
  await expect(session.run({ pixels: new Float32Array(5) })).rejects.toThrow('150528 values, not 5');
  await expect(session.run({ pixels: new Float32Array(150528), more: new Float32Array(1) })).rejects.toThrow(
    'more: the network has no such input',
  );
  await session.close();
});

test('writing an operator whose shapes do not fit fails with the operator and the shapes', () => {
  const g = createGraph(openSafeTensors(join(SMALL_SVD, 'image_encoder/model.fp16.safetensors')));
  const [a, b] = [g.input('a', [2, 3]), g.input('b', [3, 2])];
  expect(() => g.add(a, b)).toThrow('Add of [2,3] and [3,2]');
  expect(() => g.reshape(a, [7])).toThrow('[2,3] can’t be reshaped to [7]');
});

describe('a weights file', () => {
  let folder: string;
  let file: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'weights-'));
    file = join(folder, 'model.safetensors');
    await cp(join(SMALL_SVD, 'image_encoder/model.fp16.safetensors'), file);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test('opens through a link, as in a cache', async () => {
    const link = join(folder, 'link.safetensors');
    symlinkSync(file, link);
    const got = await run(clipVision(openSafeTensors(link), configs.clip), {
      pixels: reference('clip/pixels').data,
    });
    expect(psnr(got, reference('clip/embedding').data)).toBeGreaterThan(MIN_PSNR);
  });

  test('without a tensor, or with another shape of it, fails with file and tensor', () => {
    const weights = openSafeTensors(file);
    expect(() => weights.get('nothing', [1])).toThrow(`${file}: has no tensor nothing`);
    expect(() => weights.get('visual_projection.weight', [64, 65])).toThrow(
      'visual_projection.weight has shape [64,64], not [64,65]',
    );
  });

  test('that is missing, truncated or of another format fails with its path', () => {
    expect(() => openSafeTensors(join(folder, 'none'))).toThrow(`${join(folder, 'none')}: can’t be read`);
    const cut = join(folder, 'cut.safetensors');
    writeFileSync(cut, readFileSync(file));
    truncateSync(cut, 500_000);
    expect(() => openSafeTensors(cut)).toThrow(/cut.safetensors: truncated: .* ends at byte \d+, the file at 500000/);
    truncateSync(cut, 100);
    expect(() => openSafeTensors(cut)).toThrow('truncated, or no safetensors file');
    truncateSync(cut, 5);
    expect(() => openSafeTensors(cut)).toThrow('truncated: it has no header');
    writeFileSync(cut, 'x'.repeat(5000));
    expect(() => openSafeTensors(cut)).toThrow('truncated, or no safetensors file');
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(9n);
    writeFileSync(cut, Buffer.concat([length, Buffer.from('{"a": 5 }')]));
    expect(() => openSafeTensors(cut)).toThrow('its header is not that of a safetensors file');
    const bf16 = Buffer.from('{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}');
    length.writeBigUInt64LE(BigInt(bf16.length));
    writeFileSync(cut, Buffer.concat([length, bf16, Buffer.alloc(2)]));
    expect(() => openSafeTensors(cut).get('a', [1])).toThrow('a is BF16, not F32 or F16');
  });
});
