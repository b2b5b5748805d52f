/** Attention. */

import { partEnds } from '../graph/parts.ts';
import { linear, project, selfAttention } from '../layers.ts';
import type { Attribute } from '../protobuf.ts';
import { sizeOf, type Value } from '../value.ts';
import type { Formulations } from './types.ts';

export const multiHead: Formulations['attention'] = (g, q, k, v, heads) =>
  g.op('MultiHeadAttention', [q, k, v], q.shape, { domain: 'com.microsoft', attributes: { num_heads: heads } });

/** Bytes of scores at one time: they are the largest values of all. */
const MAX_SCORES = 2 ** 29;

/**
 * For WebGPU: products and a softmax, for some sequences or some queries of one sequence at a time. onnxruntime's MultiHeadAttention is
 * wrong on Vulkan from 32 rows, because Dawn zeroes a variable that a loop declares only once.
 */
export const inSlices: Formulations['attention'] = (g, q, k, v, heads) => {
  const [, S, C] = q.shape as [number, number, number];
  const d = C / heads;
  const limit = Math.min(g.limits.binding, MAX_SCORES);
  const bytes = sizeOf({ type: q.type, shape: [heads, S, S] }); // of one sequence's scores
  const sequences = Math.max(1, Math.floor(limit / bytes)); // at one time
  const rows = Math.max(1, Math.min(S, Math.floor((limit / bytes) * S))); // queries at one time, of one sequence

  /** Some sequences, whose queries, keys and values fit into the largest binding. */
  const attend = (q: Value, k: Value, v: Value) => {
    const n = q.shape[0]!;
    const byHeads = (x: Value, order: readonly number[]) => g.transpose(g.reshape(x, [n, S, heads, d]), order);
    const queries = byHeads(g.mul(q, g.constant(`scale ${d}`, Float32Array.of(d ** -0.5), [1])), [0, 2, 1, 3]);
    const [keys, values] = [byHeads(k, [0, 2, 3, 1]), byHeads(v, [0, 2, 1, 3])];
    const attended = ranges(n, sequences).map(([from, to]) => {
      const [someQueries, someKeys, someValues] = [queries, keys, values].map((x) => g.slice(x, 0, from, to)) as [
        Value,
        Value,
        Value,
      ];
      const results = ranges(S, rows).map(([first, last]) => {
        const shape = [to - from, heads, last - first];
        const scores = g.op('MatMul', [g.slice(someQueries, 2, first, last), someKeys], [...shape, S]);
        const weights = g.map('Softmax', scores, { attributes: { axis: -1 } });
        return g.op('MatMul', [weights, someValues], [...shape, d]);
      });
      return g.concat(results, 2);
    });
    return g.reshape(g.transpose(g.concat(attended, 0), [0, 2, 1, 3]), [n, S, C]);
  };
  const ends = partEnds(q, 0);
  const parts = ends.map((to, i) => [ends[i - 1] ?? 0, to] as const);
  return g.concat(
    parts.map(([from, to]) => attend(g.slice(q, 0, from, to), g.slice(k, 0, from, to), g.slice(v, 0, from, to))),
    0,
  );
};

const ranges = (length: number, step: number) =>
  Array.from({ length: Math.ceil(length / step) }, (_, i) => [i * step, Math.min(length, (i + 1) * step)] as const);

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

/** For some places at a time, whose rows of all frames are brought together. */
export const attendByPlaces: Formulations['temporalAttention'] = (g, x, names, T, heads) => {
  const [M, C] = x.shape as [number, number];
  const places = M / T;
  const frames = g.reshape(x, [T, places, C]);
  const bytes = sizeOf({ type: x.type, shape: [T, C] }); // of one place
  const attended = ranges(places, Math.floor(g.limits.binding / bytes)).map(([from, to]) => {
    const some = g.transpose(g.slice(frames, 1, from, to), [1, 0, 2]);
    const y = selfAttention(g, g.reshape(some, [(to - from) * T, C]), names, to - from, heads);
    return g.transpose(g.reshape(y, [to - from, T, C]), [1, 0, 2]);
  });
  return g.reshape(g.concat(attended, 1), [M, C]);
};
