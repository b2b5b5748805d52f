/**
 * The layers that SVD's networks are made of. Each is named by its place in the weights file; x is [N, C, H, W] for pictures and [M, C] for
 * rows of features. What policies write differently is in `formulations/`.
 */
import type { AttentionNames, NetworkGraph } from './formulations/types.ts';
import type { Value } from './value.ts';

type Rows = readonly [from: number, to: number];

/** x·Wᵀ + b, [M, in] → [M, out], or the outputs `rows` of it */
export function linear(
  g: NetworkGraph,
  x: Value,
  name: string,
  out: number,
  { bias = true, rows }: { bias?: boolean; rows?: Rows } = {},
): Value {
  const [from, to] = rows ?? [0, out];
  const options = rows ? { rows } : {};
  const weight = g.weight(`${name}.weight`, [out, x.shape[1]!], options);
  const product = { domain: 'com.microsoft', attributes: { transB: 1 } } as const;
  const y = g.op('FusedMatMul', [x, weight], [x.shape[0]!, to - from], product);
  return bias ? g.add(y, g.weight(`${name}.bias`, [out], options)) : y;
}

/** Two linear layers around an activation: diffusers' TimestepEmbedding. */
export const mlp = (g: NetworkGraph, x: Value, name: string, inner: number, out: number) =>
  linear(g, silu(g, linear(g, x, `${name}.linear_1`, inner)), `${name}.linear_2`, out);

/** A linear layer over the channels of [N, C, H, W] → [N, out, H, W], or the outputs `rows` of it. */
export function pointwise(g: NetworkGraph, x: Value, name: string, out: number, rows: Rows = [0, out]): Value {
  const C = x.shape[1]!;
  const weight = g.weight(`${name}.weight`, [out, C], { shape: [out, C, 1, 1], rows });
  return g.conv(x, weight, g.weight(`${name}.bias`, [out], { rows }));
}

interface ConvOptions {
  kernel?: number;
  stride?: number;
  /** top, left, bottom, right; half the kernel unless given */
  pads?: readonly [number, number, number, number];
}

/** [N, C, H, W] → [N, out, …] */
export function conv2d(
  g: NetworkGraph,
  x: Value,
  name: string,
  out: number,
  { kernel = 3, stride = 1, pads }: ConvOptions = {},
): Value {
  if (kernel === 3 && stride === 1 && !pads) return g.formulations.conv3x3(g, x, name, out);
  const weight = g.weight(`${name}.weight`, [out, x.shape[1]!, kernel, kernel]);
  return g.conv(x, weight, g.weight(`${name}.bias`, [out]), {
    strides: [stride, stride],
    pads: pads ?? Array(4).fill(kernel >> 1),
  });
}

/**
 * Nearest-neighbour upsampling and a 3×3 convolution: diffusers' Upsample2D.
 * @param size of the result; default: twice as high and wide
 */
export function upsampleConv(g: NetworkGraph, x: Value, name: string, size?: readonly [height: number, width: number]) {
  return g.formulations.upsampleConv(g, x, name, size ?? [2 * x.shape[2]!, 2 * x.shape[3]!]);
}

/** A convolution of three over T frames that lie one below the other: [B, C, T·H, W] → [B, out, T·H, W] */
export const temporalConv = (g: NetworkGraph, x: Value, name: string, out: number, T: number) =>
  g.formulations.temporalConv(g, x, name, out, T);

/** Over groups of channels of [N, C, …]. */
export const groupNorm = (g: NetworkGraph, x: Value, name: string, epsilon: number) =>
  g.formulations.scaleShift(g, g.formulations.normalize(g, x, epsilon), name);

/** Over the features of [M, C]. */
export function layerNorm(g: NetworkGraph, x: Value, name: string, epsilon = 1e-5): Value {
  const C = x.shape.at(-1)!;
  return g.op('LayerNormalization', [x, g.weight(`${name}.weight`, [C]), g.weight(`${name}.bias`, [C])], x.shape, {
    attributes: { axis: -1, epsilon: { float: epsilon } },
  });
}

/** x·sigmoid(alpha·x) */
export const quickGelu = (g: NetworkGraph, x: Value, alpha: number) =>
  g.map('QuickGelu', x, { domain: 'com.microsoft', attributes: { alpha: { float: alpha } } });
export const silu = (g: NetworkGraph, x: Value) => quickGelu(g, x, 1);
export const gelu = (g: NetworkGraph, x: Value) => g.map('Gelu', x);

/** diffusers' names of an attention's projections */
export const attentionNames = (name: string): AttentionNames => ({
  q: `${name}.to_q`,
  k: `${name}.to_k`,
  v: `${name}.to_v`,
  out: `${name}.to_out.0`,
});

/**
 * Self-attention among the S rows of each of N sequences.
 * @param x [N·S, C]
 */
export function selfAttention(
  g: NetworkGraph,
  x: Value,
  names: AttentionNames,
  { N, heads, bias }: { N: number; heads: number; bias: boolean },
): Value {
  const [M, C] = x.shape as [number, number];
  const sequences = [N, M / N, C];
  const qkv = [names.q, names.k, names.v].map((name) => g.reshape(linear(g, x, name, C, { bias }), sequences));
  const options = { domain: 'com.microsoft', attributes: { num_heads: heads } } as const;
  const attended = g.op('MultiHeadAttention', qkv, sequences, options);
  return linear(g, g.reshape(attended, [M, C]), names.out, C);
}

/** The frames of B videos, [B·T, C, H, W], one below the other: [B, C, T·H, W] */
export function overTime(g: NetworkGraph, frames: Value, B = 1): Value {
  const [N, C, H, W] = frames.shape as [number, number, number, number];
  const T = N / B;
  return g.reshape(g.transpose(g.reshape(frames, [B, T, C, H * W]), [0, 2, 1, 3]), [B, C, T * H, W]);
}

/** The other way round: [B, C, T·H, W] → [B·T, C, H, W] */
export function framesOf(g: NetworkGraph, x: Value, T: number): Value {
  const [B, C, height, W] = x.shape as [number, number, number, number];
  const H = height / T;
  return g.reshape(g.transpose(g.reshape(x, [B, C, T, H * W]), [0, 2, 1, 3]), [B * T, C, H, W]);
}

interface BlockOptions {
  epsilon: number;
  /** [N, D] after its activation; none in the VAE */
  embedding?: Value;
}

/** diffusers' ResnetBlock2D: [N, C, H, W] → [N, out, H, W] */
export function resnetBlock(g: NetworkGraph, x: Value, name: string, out: number, options: BlockOptions): Value {
  const { epsilon, embedding } = options;
  let y = conv2d(g, silu(g, groupNorm(g, x, `${name}.norm1`, epsilon)), `${name}.conv1`, out);
  if (embedding) y = g.add(y, projected(g, embedding, name, out));
  y = conv2d(g, silu(g, groupNorm(g, y, `${name}.norm2`, epsilon)), `${name}.conv2`, out);
  return g.add(x.shape[1] === out ? x : conv2d(g, x, `${name}.conv_shortcut`, out, { kernel: 1 }), y);
}

/** The time embedding that a residual block adds to each channel. */
const projected = (g: NetworkGraph, embedding: Value, name: string, out: number) =>
  g.reshape(linear(g, embedding, `${name}.time_emb_proj`, out), [embedding.shape[0]!, out, 1, 1]);

/**
 * diffusers' TemporalResnetBlock and AlphaBlender, without the skip: what SpatioTemporalResBlock adds to its spatial block's output.
 * @param s that output, [B, C, T·H, W]
 * @param switched whether the blend's factor counts the temporal part, as in the VAE
 */
export function temporalResidual(
  g: NetworkGraph,
  s: Value,
  name: string,
  { T, epsilon, embedding, switched = false }: BlockOptions & { T: number; switched?: boolean },
): Value {
  const C = s.shape[1]!;
  const block = `${name}.temporal_res_block`;
  const layer = (x: Value, norm: string, conv: string) =>
    g.formulations.perPlace(g, g.formulations.normalize(g, x, epsilon), T, (part) =>
      temporalConv(g, silu(g, g.formulations.scaleShift(g, part, `${block}.${norm}`)), `${block}.${conv}`, C, T),
    );
  let h = layer(s, 'norm1', 'conv1');
  if (embedding) h = g.add(h, projected(g, embedding, block, C));
  h = layer(h, 'norm2', 'conv2');
  const factor = mixFactor(g, name);
  return g.mul(h, switched ? factor : complement(g, factor));
}

/** How much of a blend is spatial: the sigmoid of one learned number. */
export const mixFactor = (g: NetworkGraph, name: string) =>
  g.map('Sigmoid', g.weight(`${name}.time_mixer.mix_factor`, [1]));
export const complement = (g: NetworkGraph, factor: Value) => g.sub(g.constant('one', Float32Array.of(1), [1]), factor);

/** A layer on each item of the first dimension, so that its values take the memory of one: [N, …] → [N, …] */
export const oneByOne = (g: NetworkGraph, x: Value, layer: (item: Value) => Value) =>
  x.shape[0] === 1 ? layer(x) : g.formulations.oneByOne(g, x, layer);
