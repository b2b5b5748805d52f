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
