/**
 * The layers that SVD's networks are made of, in the formulations that onnxruntime runs fastest on a CPU (measured; ARCHITECTURE.md).
 * Each is named by its place in the weights file; x is [N, C, H, W] for pictures, [M, C] for rows of features.
 */
import { temporalConv } from './conv.ts';
import type { Graph } from './graph.ts';
import type { Attribute } from './protobuf.ts';
import { product, type Value } from './value.ts';

const GROUPS = 32; // of every group norm in these networks
/** Bytes of a frame's values that don't stay in a processor's cache, */
const LARGE_FRAME = 2 ** 23;
/** and of a frame's part in a strip. */
const STRIP = 2 ** 19;

/** x·Wᵀ + b, [M, in] → [M, out] */
export function linear(
  g: Graph,
  x: Value,
  name: string,
  out: number,
  { bias = true, rows }: { bias?: boolean; rows?: readonly [from: number, to: number] } = {},
): Value {
  const [from, to] = rows ?? [0, out];
  const options = rows ? { rows } : {};
  const weight = g.weight(`${name}.weight`, [out, x.shape[1]!], options);
  const y = g.op('FusedMatMul', [x, weight], [x.shape[0]!, to - from], {
    domain: 'com.microsoft',
    attributes: { transB: 1 },
  });
  return bias ? g.add(y, g.weight(`${name}.bias`, [out], options)) : y;
}

/** Over groups of channels of [N, C, …]. */
export const groupNorm = (g: Graph, x: Value, name: string, epsilon: number) =>
  affine(g, normalised(g, x, epsilon), name);

/** Group norm without scale and shift. On a processor it is LayerNormalization, since InstanceNormalization runs in one thread. */
function normalised(g: Graph, x: Value, epsilon: number): Value {
  const [N, C, ...rest] = x.shape as [number, number, ...number[]];
  const length = (C / GROUPS) * product(rest);
  const groups = g.reshape(x, [N, GROUPS, length]);
  const options = { attributes: { epsilon: { float: epsilon } } };
  if (g.policy !== 'cuda')
    return g.reshape(g.op('LayerNormalization', [groups, g.ones(length)], groups.shape, options), x.shape);
  const ones = g.constant('ones', new Float32Array(GROUPS).fill(1), [GROUPS]);
  const zeros = g.constant('zeros', new Float32Array(GROUPS), [GROUPS]);
  return g.reshape(g.op('InstanceNormalization', [groups, ones, zeros], groups.shape, options), x.shape);
}

/** Each channel's scale and shift, on a processor as a depthwise 1×1 convolution, which fuses. */
function affine(g: Graph, x: Value, name: string): Value {
  const [, C, ...rest] = x.shape as [number, number, ...number[]];
  const point = rest.map(() => 1);
  if (g.policy === 'cuda') {
    const [scale, shift] = ['weight', 'bias'].map((part) => g.weight(`${name}.${part}`, [C], { shape: [C, ...point] }));
    return g.add(g.mul(x, scale!), shift!);
  }
  const scale = g.weight(`${name}.weight`, [C], { shape: [C, 1, ...point] });
  return g.op('Conv', [x, scale, g.weight(`${name}.bias`, [C])], x.shape, {
    attributes: { kernel_shape: point, group: C },
  });
}

/** Over the features of [M, C]. */
export function layerNorm(g: Graph, x: Value, name: string, epsilon = 1e-5): Value {
  const C = x.shape.at(-1)!;
  return g.op('LayerNormalization', [x, g.weight(`${name}.weight`, [C]), g.weight(`${name}.bias`, [C])], x.shape, {
    attributes: { axis: -1, epsilon: { float: epsilon } },
  });
}

export const silu = (g: Graph, x: Value) => quickGelu(g, x, 1);
export const quickGelu = (g: Graph, x: Value, alpha: number) =>
  g.map('QuickGelu', x, { domain: 'com.microsoft', attributes: { alpha: { float: alpha } } });
export const gelu = (g: Graph, x: Value) => g.map('Gelu', x);

/**
 * Self-attention among the S rows of each of N sequences.
 * @param x [N·S, C]
 */
export function selfAttention(
  g: Graph,
  x: Value,
  names: AttentionNames,
  { N, heads, bias }: { N: number; heads: number; bias: boolean },
): Value {
  const [M, C] = x.shape as [number, number];
  const sequences = [N, M / N, C];
  const [q, k, v] = [names.q, names.k, names.v].map((name) => g.reshape(linear(g, x, name, C, { bias }), sequences));
  const attended = g.op('MultiHeadAttention', [q, k, v], sequences, {
    domain: 'com.microsoft',
    attributes: { num_heads: heads },
  });
  return linear(g, g.reshape(attended, [M, C]), names.out, C);
}

/**
 * Self-attention at each place along the T frames, which come one after the other. Queries and keys of a place and head are multiplied
 * as they lie, T rows apart; only the result is brought back into order.
 * @param x [T·H·W, C]
 */
export function temporalAttention(
  g: Graph,
  x: Value,
  names: AttentionNames,
  { T, heads }: { T: number; heads: number },
): Value {
  const [M, C] = x.shape as [number, number];
  if (g.policy === 'cuda') {
    const swapped = (rows: Value, shape: readonly number[]) =>
      g.reshape(g.transpose(g.reshape(rows, [...shape, C]), [1, 0, 2]), [M, C]);
    const attended = selfAttention(g, swapped(x, [T, M / T]), names, { N: M / T, heads, bias: false });
    return swapped(attended, [M / T, T]);
  }
  const [batch, d] = [(M / T) * heads, C / heads];
  const matMul = (a: Value, b: Value, shape: readonly number[], attributes: Record<string, Attribute>) =>
    g.op('FusedMatMul', [a, b], shape, { domain: 'com.microsoft', attributes });
  const [q, k, v] = [names.q, names.k, names.v].map((name) =>
    g.reshape(linear(g, x, name, C, { bias: false }), [T, batch, d]),
  ) as [Value, Value, Value];
  const across = { transBatchA: 1, transBatchB: 1, transB: 1, alpha: { float: d ** -0.5 } }; // [T, batch, d] as [batch, T, d]
  const weights = g.map('Softmax', matMul(q, k, [batch, T, T], across), { attributes: { axis: -1 } });
  const attended = matMul(weights, v, [batch, T, d], { transBatchB: 1 });
  return linear(g, g.reshape(g.transpose(attended, [1, 0, 2]), [M, C]), names.out, C);
}

export interface AttentionNames {
  q: string;
  k: string;
  v: string;
  out: string;
}

/** diffusers' names of an attention's projections */
export const attentionNames = (name: string): AttentionNames => ({
  q: `${name}.to_q`,
  k: `${name}.to_k`,
  v: `${name}.to_v`,
  out: `${name}.to_out.0`,
});

/** The frames of B videos, [B·T, C, H, W], one below the other: [B, C, T·H, W] */
export function overTime(g: Graph, frames: Value, B = 1): Value {
  const [N, C, H, W] = frames.shape as [number, number, number, number];
  const T = N / B;
  return g.reshape(g.transpose(g.reshape(frames, [B, T, C, H * W]), [0, 2, 1, 3]), [B, C, T * H, W]);
}

/** The other way round: [B, C, T·H, W] → [B·T, C, H, W] */
export function framesOf(g: Graph, x: Value, T: number): Value {
  const [B, C, height, W] = x.shape as [number, number, number, number];
  const H = height / T;
  return g.reshape(g.transpose(g.reshape(x, [B, C, T, H * W]), [0, 2, 1, 3]), [B * T, C, H, W]);
}

interface TemporalOptions {
  /** frames */
  T: number;
  epsilon: number;
  /** [B, D] after its activation, or undefined where the network has none */
  embedding?: Value;
  /** how the blend's factor comes from the stored one: in the VAE it is switched */
  blend: 'unet' | 'vae';
}

/**
 * What SVD's temporal residual block adds to the spatial block's output s: k·f(s).
 * @param s [B, C, T·H, W], each frame's rows below the ones of the frame before
 */
export function temporalResidual(
  g: Graph,
  s: Value,
  name: string,
  { T, epsilon, embedding, blend }: TemporalOptions,
): Value {
  const [B, C] = s.shape as [number, number];
  const block = `${name}.temporal_res_block`;
  const layer = (x: Value, norm: string, conv: string) =>
    inStrips(g, normalised(g, x, epsilon), T, (strip) =>
      temporalConv(g, silu(g, affine(g, strip, `${block}.${norm}`)), `${block}.${conv}`, C, T),
    );
  let h = layer(s, 'norm1', 'conv1');
  if (embedding) h = g.add(h, g.reshape(linear(g, embedding, `${block}.time_emb_proj`, C), [B, C, 1, 1]));
  h = layer(h, 'norm2', 'conv2');
  const factor = mixFactor(g, name);
  return g.mul(h, blend === 'vae' ? factor : complement(g, factor));
}

/**
 * What does the same at each place of [1, C, T·H, W], in strips of some rows of all frames. A convolution over the frames reads each row
 * three times and more; where frames are large it would come from memory each time, and here from the processor's cache.
 */
function inStrips(g: Graph, x: Value, T: number, layer: (strip: Value) => Value): Value {
  const [B, C, height, W] = x.shape as [number, number, number, number];
  const H = height / T;
  const bytes = 4 * C * W; // of a row
  if (g.policy !== 'prepacked' || B > 1 || H * bytes < LARGE_FRAME) return layer(x);
  let rows = Math.max(1, Math.floor(STRIP / bytes));
  while (H % rows > 0) rows--;
  const swapped = (value: Value, shape: readonly number[]) =>
    g.transpose(g.reshape(value, [...shape, rows * W]), [1, 0, 2]);
  const strips = g.reshape(swapped(x, [C * T, H / rows]), [H / rows, C, T * rows, W]);
  const y = g.each(strips, layer);
  const out = y.shape[1]!;
  return g.reshape(swapped(y, [H / rows, out * T]), [1, out, height, W]);
}

/** How much of a blend is spatial: the sigmoid of one learned number. */
export const mixFactor = (g: Graph, name: string) => g.map('Sigmoid', g.weight(`${name}.time_mixer.mix_factor`, [1]));
export const complement = (g: Graph, factor: Value) => g.sub(g.constant('one', Float32Array.of(1), [1]), factor);
