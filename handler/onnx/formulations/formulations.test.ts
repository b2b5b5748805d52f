/** Every column of the table of formulations computes the same. Winograd's filtering has a test of its own. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { psnr } from '../../models/testdata/reference.ts';
import { generator } from '../../sampling/torch-random.ts';
import { attentionNames, conv2d, groupNorm, oneByOne, silu } from '../layers.ts';
import type { SafeTensors } from '../safetensors.ts';
import { openSession } from '../session.ts';
import { type Policy, product, sizeOf, type Value } from '../value.ts';
import { createNetworkGraph } from './index.ts';
import type { NetworkGraph } from './types.ts';

const [C, T] = [64, 3];
const folder = mkdtempSync(join(tmpdir(), 'formulations-'));
afterAll(() => rmSync(folder, { recursive: true }));

const { randn } = generator(11);
const numbers = randn(2 ** 16).map((value) => value / 8);
writeFileSync(join(folder, 'weights'), Buffer.from(numbers.buffer));
/** Every tensor begins at a place of its own in the same numbers. */
const weights: SafeTensors = {
  folder,
  name: 'weights',
  get: (tensor, shape) => ({
    type: 'float32',
    shape,
    offset: 4 * tensor.length,
    length: sizeOf({ type: 'float32', shape }),
  }),
};

/** The layer's output with the formulations of a policy, computed in single precision by a processor. */
async function outputOf(policy: Policy, shape: readonly number[], layer: (g: NetworkGraph, x: Value) => Value) {
  const g = createNetworkGraph(weights, { policy });
  g.output('y', layer(g, g.input('x', shape)));
  const session = await openSession(g, { threads: 1, policy: policy === 'mapped' ? 'mapped' : 'prepacked' });
  const y = await session.run({ x: generator(5).randn(product(shape)) });
  await session.close();
  return y;
}

/** A layer of a video, between its frames. */
function asVideo(layer: (g: NetworkGraph, video: Value) => Value) {
  return (g: NetworkGraph, x: Value) => g.formulations.framesOf(g, layer(g, g.formulations.videoOf(g, x, T)), T);
}

test.each<[string, readonly number[], (g: NetworkGraph, x: Value) => Value]>([
  ['conv3x3', [2, C, 9, 7], (g, x) => g.formulations.conv3x3(g, x, 'conv', 32)],
  ['upsample to twice the size', [2, C, 5, 6], (g, x) => g.formulations.upsample(g, x, 'up', [10, 12])],
  ['upsample to an odd size', [2, C, 5, 6], (g, x) => g.formulations.upsample(g, x, 'up', [9, 12])],
  ['temporalConv', [2 * T, C, 5, 6], asVideo((g, x) => g.formulations.temporalConv(g, x, 'time', C, T))],
  ['temporalConv of one frame', [2, C, 5, 6], (g, x) => g.formulations.temporalConv(g, x, 'time', C, 1)],
  ['perPlace', [T, C, 200, 192], asVideo((g, x) => g.formulations.perPlace(g, x, T, (part) => silu(g, part)))],
  ['normalizeVideo', [2 * T, C, 5, 6], asVideo((g, x) => g.formulations.normalizeVideo(g, x, 1e-5, T))],
  ['normalize and scaleShift', [2, C, 5, 6], (g, x) => groupNorm(g, x, 'norm', 1e-5)],
  ['attention', [3, 40, C], (g, x) => g.formulations.attention(g, x, x, x, 4)],
  [
    'temporalAttention',
    [T * 20, C],
    (g, x) => g.formulations.temporalAttention(g, x, attentionNames('attention'), T, 4),
  ],
  ['feedForward', [1300, C], (g, x) => g.formulations.feedForward(g, x, 'ff', 'norm', 600 * C)],
  ['oneByOne', [4, C, 5, 6], (g, x) => oneByOne(g, x, (one) => conv2d(g, one, 'conv', C))],
  ['block', [2, C, 5, 6], (g, x) => g.formulations.block(g, () => silu(g, x))],
])('%s is the same with every policy', async (_, shape, layer) => {
  const expected = await outputOf('mapped', shape, layer);
  expect(expected.every(Number.isFinite)).toBe(true);
  for (const policy of ['prepacked', 'cuda', 'webgpu'] as const)
    expect(psnr(await outputOf(policy, shape, layer), expected), policy).toBeGreaterThan(110);
});

test.each<[string, readonly number[]]>([
  ['some pictures', [5, 8, 6, 7]],
  ['pictures each of which exceeds it', [2, 16, 6, 7]],
  ['one picture', [1, 16, 6, 7]],
  ['the frames of one video', [1, 3, 8, 6, 7]],
])(
  'inputs and outputs that exceed a GPU’s largest tensor, of %s, keep the order of their numbers',
  async (_, shape) => {
    const binding = 2000; // bytes: one picture of 8 channels has 1344
    const g = createNetworkGraph(weights, { policy: 'webgpu', limits: { binding, half: false } });
    const x = g.input('x', shape);
    g.output('y', silu(g, shape.length === 5 ? g.reshape(x, shape.slice(1)) : x));
    expect(g.inputs[0]!.tensors.length).toBeGreaterThan(1);
    expect(g.largestBytes()).toBeLessThanOrEqual(binding);
    const session = await openSession(g, { threads: 1, policy: 'prepacked' });
    const values = generator(5).randn(product(shape));
    const y = await session.run({ x: values });
    await session.close();
    expect(
      psnr(
        y,
        values.map((value) => value / (1 + Math.exp(-value))),
      ),
    ).toBeGreaterThan(130);
  },
);
