/** Group norm (Wu and He, arXiv:1803.08494) in two steps: normalization, then each channel's scale and shift. */
import { product, type Value } from '../value.ts';
import type { Formulations, NetworkGraph } from './types.ts';

const GROUPS = 32; // of every group norm in SVD's networks

/** Normalizes [N, 32, …] by an operator with further operands, and brings the result back into x's shape. */
function byGroups(g: NetworkGraph, x: Value, epsilon: number, kind: string, operands: (length: number) => Value[]) {
  const [N, C, ...rest] = x.shape as [number, number, ...number[]];
  const length = (C / GROUPS) * product(rest);
  const groups = g.reshape(x, [N, GROUPS, length]);
  const attributes = { epsilon: { float: epsilon } };
  return g.reshape(g.op(kind, [groups, ...operands(length)], groups.shape, { attributes }), x.shape);
}

/** For a processor, where InstanceNormalization runs in one thread. */
export const layerNormOfGroups: Formulations['normalize'] = (g, x, epsilon) =>
  byGroups(g, x, epsilon, 'LayerNormalization', (length) => [g.ones(length)]);

export const instanceNorm: Formulations['normalize'] = (g, x, epsilon) =>
  byGroups(g, x, epsilon, 'InstanceNormalization', () => [
    g.constant('ones', new Float32Array(GROUPS).fill(1), [GROUPS]),
    g.constant('zeros', new Float32Array(GROUPS), [GROUPS]),
  ]);

/**
 * In two passes: the mean, then the mean square of what differs from it. For WebGPU, whose InstanceNormalization subtracts the squared mean
 * from the mean square: where a group's values differ little from their mean, that has 45 dB. Both passes also take values in parts.
 */
export const byMeans: Formulations['normalizeVideo'] = (g, x, epsilon, T) => {
  const centered = g.sub(x, videoMean(g, x, T));
  const squares = videoMean(g, g.mul(centered, centered), T);
  const variance = g.add(squares, g.constant(`epsilon ${epsilon}`, Float32Array.of(epsilon), [1]));
  return g.mul(centered, g.map('Reciprocal', g.map('Sqrt', variance)));
};

/** The mean of each group over the T frames of a video: [B·T, C, H, W] → [B·T, C, 1, 1] */
function videoMean(g: NetworkGraph, x: Value, T: number): Value {
  const [N, C] = x.shape as [number, number];
  const expand = (y: Value, shape: readonly number[]) => g.op('Expand', [y, g.integers(shape)], shape);
  let means = groupMeans(g, x);
  if (T > 1) {
    const videos = g.reshape(means, [N / T, T, GROUPS]);
    means = expand(g.op('ReduceMean', [videos, g.integers([1])], [N / T, 1, GROUPS]), videos.shape);
  }
  return g.reshape(expand(g.reshape(means, [N, GROUPS, 1]), [N, GROUPS, C / GROUPS]), [N, C, 1, 1]);
}

/** The mean of each picture's groups: [N, C, H, W] → [N, 32, 1] */
function groupMeans(g: NetworkGraph, x: Value): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  if (!x.parts) {
    const groups = g.reshape(x, [N, GROUPS, (C / GROUPS) * H * W]);
    return g.op('ReduceMean', [groups, g.integers([2])], [N, GROUPS, 1]);
  }
  const { axis, values } = x.parts;
  const means = values.map((part) => groupMeans(g, part));
  if (axis === 0) return g.concat(means, 0);
  const shares = values.map((part, i) => {
    const share = part.shape[2]! / H; // strips weigh as much as they are high
    return g.mul(means[i]!, g.constant(`share ${share}`, Float32Array.of(share), [1]));
  });
  return shares.reduce((sum, one) => g.add(sum, one));
}

/** A depthwise 1×1 convolution, for a processor: it is fused with its neighbours. */
export const depthwise: Formulations['scaleShift'] = (g, x, name) => {
  const [, C, ...rest] = x.shape as [number, number, ...number[]];
  const scale = g.weight(`${name}.weight`, [C], { shape: [C, 1, ...rest.map(() => 1)] });
  return g.conv(x, scale, g.weight(`${name}.bias`, [C]), { group: C });
};

export const multiplyAdd: Formulations['scaleShift'] = (g, x, name) => {
  const [, C, ...rest] = x.shape as [number, number, ...number[]];
  const perChannel = { shape: [C, ...rest.map(() => 1)] };
  const [scale, shift] = ['weight', 'bias'].map((part) => g.weight(`${name}.${part}`, [C], perChannel));
  return g.add(g.mul(x, scale!), shift!);
};
