/** Winograd's filtering, which only wide layers have, beside the convolution as the definition says it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { psnr } from '../models/testdata/reference.ts';
import { generator } from '../svd/random.ts';
import { conv2d } from './conv.ts';
import { createGraph, type Policy } from './graph.ts';
import type { SafeTensors } from './safetensors.ts';
import { openSession } from './session.ts';

const C = 256;
const OUT = 272;
const folder = mkdtempSync(join(tmpdir(), 'conv-'));
afterAll(() => rmSync(folder, { recursive: true }));

const { randn } = generator(3);
const tensors = { 'conv.weight': randn(OUT * C * 9), 'conv.bias': randn(OUT) };
writeFileSync(join(folder, 'weights'), Buffer.concat(Object.values(tensors).map((data) => Buffer.from(data.buffer))));
const weights: SafeTensors = {
  ...{ file: join(folder, 'weights'), folder, name: 'weights' },
  get(tensor, shape) {
    const [first, second] = Object.values(tensors).map((data) => data.byteLength) as [number, number];
    const [offset, length] = tensor === 'conv.bias' ? [first, second] : [0, first];
    return { type: 'float32', shape: [...shape], offset, length };
  },
};

function graphOf(policy: Policy, shape: readonly [number, number, number, number]) {
  const g = createGraph(weights, { policy });
  g.output('y', conv2d(g, g.input('x', shape), 'conv', OUT));
  return g;
}

/** The sum itself, in double precision, of one channel. */
function channel(x: Float32Array, [, , H, W]: readonly number[], n: number, out: number): Float32Array {
  const y = new Float32Array(H! * W!);
  for (let i = 0; i < H!; i++)
    for (let j = 0; j < W!; j++) {
      let sum = tensors['conv.bias'][out]!;
      for (let c = 0; c < C; c++)
        for (let k = 0; k < 9; k++) {
          const [row, column] = [i + Math.floor(k / 3) - 1, j + (k % 3) - 1];
          if (row < 0 || row >= H! || column < 0 || column >= W!) continue;
          sum += x[((n * C + c) * H! + row) * W! + column]! * tensors['conv.weight'][(out * C + c) * 9 + k]!;
        }
      y[i * W! + j] = sum;
    }
  return y;
}

test.each([
  ['of even sides', [1, C, 6, 16]],
  ['of odd sides', [1, C, 13, 9]],
  ['of a single row', [1, C, 1, 97]],
  ['several small ones, multiplied at once', [3, C, 5, 8]],
  ['so many that they are taken in parts', [7, C, 64, 62]],
] as const)('pictures %s', async (_, shape) => {
  const [N, , H, W] = shape;
  const x = randn(N * C * H * W);
  const session = await openSession(graphOf('prepacked', shape), { threads: 1 });
  const y = await session.run({ x });
  await session.close();
  expect(y.length).toBe(N * OUT * H * W);
  for (const [n, out] of [
    [0, 0],
    [N - 1, OUT - 1],
  ] as const) {
    const from = (n * OUT + out) * H * W;
    expect(psnr(y.slice(from, from + H * W), channel(x, shape, n, out))).toBeGreaterThan(120);
  }
});

test('it takes fewer multiplications, and holds no more memory between runs', () => {
  const shape = [1, C, 32, 32] as const;
  const [winograd, plain] = [graphOf('prepacked', shape), graphOf('mapped', shape)];
  expect(winograd.operations()).toBeLessThan(0.6 * plain.operations());
  expect(winograd.weightBytes()).toBeLessThan(1.9 * plain.weightBytes());
});
