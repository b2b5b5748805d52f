import { join } from 'node:path';
import { expect, test } from 'vitest';
import { SMALL_SVD } from '../models/testdata/reference.ts';
import { createNetworkGraph } from './formulations/index.ts';
import { oneByOne } from './layers.ts';
import { choosePolicy, demand } from './policy.ts';
import { openSafeTensors } from './safetensors.ts';
import type { Policy, Value } from './value.ts';

const GIB = 2 ** 30;
/** The part of a graph that choosePolicy uses. */
const graph = (weights: number, values: number) => (policy: Policy) => ({
  policy,
  weightBytes: () => weights * GIB,
  peakBytes: () => values * GIB,
});
const unet = graph(5.68, 4.7); // svd_xt's, 25 frames of 1024×576

test.each([
  ['a GPU', 'cuda', { device: 'cuda' }],
  ['much memory and many steps', 'prepacked', {}],
  ['few steps', 'mapped', { runs: 8 }],
  ['too little memory to open it', 'mapped', { memory: 15 * GIB }],
  ['too little memory for other sessions', 'mapped', { memory: 24 * GIB, reservedBytes: 20 * GIB }],
] as const)('with %s the policy of a large network is %s', (_, policy, changes) => {
  expect(choosePolicy(unet, { device: 'cpu', runs: 60, memory: 64 * GIB, reservedBytes: 0, ...changes })).toBe(policy);
});

test('the policy of a small network is prepacked, also for one run', () => {
  expect(choosePolicy(graph(0.25, 1), { device: 'cpu', runs: 1, memory: 64 * GIB, reservedBytes: 0 })).toBe(
    'prepacked',
  );
});

test('with mapped weights only the memory of values is held between runs', () => {
  expect(demand(unet('mapped')).held).toBeLessThan(8 * GIB);
  expect(demand(unet('prepacked')).held).toBeGreaterThan(demand(unet('mapped')).held + 5.6 * GIB);
});

test('peakBytes is the most memory that values take at one time', () => {
  const g = createNetworkGraph(openSafeTensors(join(SMALL_SVD, 'image_encoder/model.fp16.safetensors')));
  const x = g.input('x', [1000]);
  const a = g.map('Sigmoid', x); // 4,000 bytes
  const wide = g.concat([a, a, a], 0); // 12,000 while a lives
  const b = g.map('Sigmoid', g.reshape(wide, [3, 1000])); // 12,000 while wide lives, and a is still needed
  g.output('y', g.concat([g.reshape(b, [3000]), a], 0));
  expect(g.peakBytes()).toBe(4000 + 12_000 + 16_000); // a, b and their concatenation; a reshape is no copy
});

test('peakBytes of a layer applied one by one counts the memory of one item and the whole result', () => {
  const g = createNetworkGraph(openSafeTensors(join(SMALL_SVD, 'image_encoder/model.fp16.safetensors')));
  const twice = (x: Value) => g.map('Sigmoid', g.map('Sigmoid', x)); // 4,000 bytes each
  g.output('y', oneByOne(g, g.input('x', [10, 1000]), twice));
  expect(g.peakBytes()).toBe(40_000 + 8000);
});

test('values of a subgraph live no longer than the subgraph', () => {
  const peak = (policy: Policy) => {
    const g = createNetworkGraph(openSafeTensors(join(SMALL_SVD, 'image_encoder/model.fp16.safetensors')), { policy });
    const layer = (x: Value) =>
      g.formulations.block(g, () => g.map('Sigmoid', g.slice(g.concat([x, x], 0), 0, 0, 1000)));
    g.output('y', layer(layer(g.input('x', [1000]))));
    return g.peakBytes();
  };
  expect(peak('prepacked')).toBe(12_000);
  expect(peak('mapped')).toBe(16_000 + 1); // its input lives until it ends; and the condition
});
