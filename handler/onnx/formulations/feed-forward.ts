/** GEGLU feed-forwards (Shazeer, arXiv:2002.05202): the gate is the second half of the projection to 8·C. */
import { gelu, layerNorm, linear, pointwise } from '../layers.ts';
import type { Value } from '../value.ts';
import type { Formulations } from './types.ts';

/** Fewer rows at a time take longer. */
const MIN_ROWS = 512;

export const linearFeedForward: Formulations['feedForward'] = (g, rows, name, norm) => {
  const C = rows.shape[1]!;
  const normal = layerNorm(g, rows, norm);
  const half = (from: number, to: number) => linear(g, normal, `${name}.net.0.proj`, 8 * C, true, [from, to]);
  const hidden = g.mul(half(0, 4 * C), gelu(g, half(4 * C, 8 * C)));
  return g.add(linear(g, hidden, `${name}.net.2`, C), rows);
};

/**
 * 1×1 convolutions, which a processor runs fastest from about 320 channels, of some rows after the other: the hidden values, eight times as
 * many as the rows', would take the most memory of all.
 */
export const convolutionsInParts: Formulations['feedForward'] = (g, rows, name, norm, elements) => {
  const [M, C] = rows.shape as [number, number];
  const part = (y: Value) => {
    const m = y.shape[0]!;
    const normal = g.transpose(layerNorm(g, y, norm), [1, 0]);
    // With all dimensions known to onnxruntime, or it would take each convolution's result out of its layout.
    const channels = g.op('Reshape', [normal, g.integers([1, C, m, 1])], [1, C, m, 1]);
    const half = (from: number, to: number) => pointwise(g, channels, `${name}.net.0.proj`, 8 * C, [from, to]);
    const hidden = g.mul(half(0, 4 * C), gelu(g, half(4 * C, 8 * C)));
    const result = g.transpose(pointwise(g, hidden, `${name}.net.2`, C), [0, 2, 1, 3]);
    return g.add(g.op('Reshape', [result, g.op('Shape', [y], [2], { type: 'int64' })], y.shape), y);
  };
  const count = Math.max(MIN_ROWS, Math.ceil(elements / C)); // more parts gain little, and opening their graph takes longer
  if (count >= M) return part(rows);
  const starts = Array.from({ length: Math.ceil(M / count) }, (_, i) => i * count);
  return g.concat(
    starts.map((start) => part(g.slice(rows, 0, start, Math.min(start + count, M)))),
    0,
  );
};
