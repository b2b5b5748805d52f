import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { psnr } from '../../handler/models/testdata/reference.ts';
import { createGraph } from '../../handler/onnx/graph.ts';
import { openSafeTensors, type SafeTensors } from '../../handler/onnx/safetensors.ts';
import { openSession } from '../../handler/onnx/session.ts';
import { shapesOf, writeRandomWeights } from './svd-xt-weights.ts';

const folder = mkdtempSync(join(tmpdir(), 'weights-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** A kernel of more values than are made at random, the factors of a norm, and a bias. */
const SHAPES = { 'conv.weight': [300, 400, 3, 3], 'norm1.weight': [7], 'conv.bias': [5] };

function write(weights: SafeTensors) {
  const graph = createGraph(weights);
  const one = graph.input('one', [1]);
  for (const [name, shape] of Object.entries(SHAPES)) graph.output(name, graph.mul(graph.weight(name, shape), one));
  return graph;
}

test('random weights are the same in both precisions: kernels of the variance 1 / inputs, factors 1 and biases 0', async () => {
  const read = async (type: 'float32' | 'float16') => {
    const path = join(folder, `${type}.safetensors`);
    writeRandomWeights(path, shapesOf(write), type);
    const session = await openSession(write(openSafeTensors(path)));
    const values = await session.runAll({ one: Float32Array.of(1) });
    await session.close();
    return values;
  };
  const [single, half] = [await read('float32'), await read('float16')];
  const kernel = single[0]!;
  const variance = kernel.reduce((sum, x) => sum + x * x, 0) / kernel.length;
  expect(variance * 400 * 9).toBeCloseTo(1, 2);
  expect(psnr(half[0]!, kernel)).toBeGreaterThan(80);
  for (const each of [single, half])
    expect(each.slice(1).map((values) => [...values])).toEqual([Array(7).fill(1), Array(5).fill(0)]);
});
