/** Self-attention along the frames. */
import { linear, project, selfAttention } from '../layers.ts';
import type { Attribute } from '../protobuf.ts';
import type { Value } from '../value.ts';
import type { Formulations } from './types.ts';

/** Queries and keys of a place and head are multiplied where they lie, T rows apart. Only the result is brought back into order. */
export const attendInPlace: Formulations['temporalAttention'] = (g, x, names, T, heads) => {
  const [M, C] = x.shape as [number, number];
  const [batch, d] = [(M / T) * heads, C / heads];
  const matMul = (a: Value, b: Value, shape: readonly number[], attributes: Record<string, Attribute>) =>
    g.op('FusedMatMul', [a, b], shape, { domain: 'com.microsoft', attributes });
  const [q, k, v] = project(g, x, names, [T, batch, d], false) as [Value, Value, Value];
  const across = { transBatchA: 1, transBatchB: 1, transB: 1, alpha: { float: d ** -0.5 } }; // [T, batch, d] as [batch, T, d]
  const weights = g.map('Softmax', matMul(q, k, [batch, T, T], across), { attributes: { axis: -1 } });
  const attended = matMul(weights, v, [batch, T, d], { transBatchB: 1 });
  return linear(g, g.reshape(g.transpose(attended, [1, 0, 2]), [M, C]), names('out'), C);
};

/** The rows of each place are brought together, so that they are a sequence. */
export const attendTransposed: Formulations['temporalAttention'] = (g, x, names, T, heads) => {
  const [M, C] = x.shape as [number, number];
  const swap = (rows: Value, shape: readonly number[]) =>
    g.reshape(g.transpose(g.reshape(rows, [...shape, C]), [1, 0, 2]), [M, C]);
  const attended = selfAttention(g, swap(x, [T, M / T]), names, M / T, heads);
  return swap(attended, [M / T, T]);
};
