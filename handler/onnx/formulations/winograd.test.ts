/** Winograd's filtering of wide layers against the convolution by its definition. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { psnr } from '../../models/testdata/reference.ts';
import { generator } from '../../sampling/torch-random.ts';
import { conv2d } from '../layers.ts';
import type { SafeTensors } from '../safetensors.ts';
import { openSession } from '../session.ts';
import type { Policy } from '../value.ts';
import { createNetworkGraph } from './index.ts';

const C = 256;
/** output channels whose transformed kernels are kept, and others whose kernels are transformed in each run */
const OUTS = [528, 1040] as const;
const folder = mkdtempSync(join(tmpdir(), 'conv-'));
afterAll(() => rmSync(folder, { recursive: true }));

const { randn } = generator(3);
const tensors = { 'conv.weight': randn(OUTS[1] * C * 9), 'conv.bias': randn(OUTS[1]) };
writeFileSync(join(folder, 'weights'), Buffer.concat(Object.values(tensors).map((data) => Buffer.from(data.buffer))));
const weights: SafeTensors = {
  folder,
  name: 'weights',
  get(tensor, shape) {
    const offset = tensor === 'conv.bias' ? tensors['conv.weight'].byteLength : 0;
    return { type: 'float32', shape: [...shape], offset, length: 4 * shape.reduce((a, b) => a * b, 1) };
  },
};

function graphOf(policy: Policy, shape: readonly [number, number, number, number], out: number) {
  const g = createNetworkGraph(weights, { policy });
  g.output('y', conv2d(g, g.input('x', shape), 'conv', out));
  return g;
}

/** One channel of the convolution by its definition, in double precision. */
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

describe.each(OUTS)('with %i output channels', (out) => {
  test.each([
    ['with even sides', [1, C, 6, 16]],
    ['with odd sides', [1, C, 13, 9]],
    ['with a single row', [1, C, 1, 97]],
    ['that are several and small, multiplied at once,', [3, C, 5, 8]],
    ['that are so many that they are filtered in parts', [10, C, 94, 92]],
  ] as const)('Winograd equals the definition for pictures %s', async (_, shape) => {
    const [N, , H, W] = shape;
    const x = randn(N * C * H * W);
    const graph = graphOf('prepacked', shape, out);
    if (H * W > 1000) expect(graph.operations()).toBeLessThan(0.6 * graphOf('mapped', shape, out).operations());
    const session = await openSession(graph, { threads: 1 });
    const y = await session.run({ x });
    await session.close();
    expect(y.length).toBe(N * out * H * W);
    for (const [n, o] of [
      [0, 0],
      [N - 1, out - 1],
    ] as const) {
      const from = (n * out + o) * H * W;
      expect(psnr(y.slice(from, from + H * W), channel(x, shape, n, o))).toBeGreaterThan(120);
    }
  });

  test('Winograd holds less than twice the weights between runs, and hardly more where kernels are large', () => {
    const winograd = graphOf('prepacked', [1, C, 32, 32], out);
    const plain = graphOf('mapped', [1, C, 32, 32], out);
    expect(winograd.weightBytes() / plain.weightBytes()).toBeLessThan(out === OUTS[0] ? 1.9 : 1.02);
  });
});
