/**
 * The layers that SVD's networks are made of. Each is named by its place in the weights file; x is [N, C, H, W] for pictures and [M, C] for
 * rows of features. What policies write differently is in `formulations/`.
 */
import type { AttentionNames, NetworkGraph } from './formulations/types.ts';
import type { Value } from './value.ts';

type Range = readonly [from: number, to: number];
type Size = readonly [height: number, width: number];

/** x·Wᵀ + b, [M, in] → [M, out], or the outputs `rows` of it */
export function linear(g: NetworkGraph, x: Value, name: string, out: number, bias = true, rows?: Range): Value {
  const options = rows ? { rows } : {};
  const weight = g.weight(`${name}.weight`, [out, x.shape[1]!], options);
  return g.formulations.linear(g, x, weight, bias ? g.weight(`${name}.bias`, [out], options) : undefined);
}

/** Two linear layers around an activation: diffusers' TimestepEmbedding. */
export const mlp = (g: NetworkGraph, x: Value, name: string, inner: number, out: number) =>
  linear(g, silu(g, linear(g, x, `${name}.linear_1`, inner)), `${name}.linear_2`, out);

/** A linear layer over the channels of [N, C, H, W] → [N, out, H, W], or the outputs `rows` of it. */
export function pointwise(g: NetworkGraph, x: Value, name: string, out: number, rows: Range = [0, out]): Value {
  const C = x.shape[1]!;
  const weight = g.weight(`${name}.weight`, [out, C], { shape: [out, C, 1, 1], rows });
  return g.conv(x, weight, g.weight(`${name}.bias`, [out], { rows }));
}

/** A 3×3 convolution, padded by one: [N, C, H, W] → [N, out, H, W] */
export const conv2d = (g: NetworkGraph, x: Value, name: string, out: number) => g.formulations.conv3x3(g, x, name, out);

/** Any convolution: [N, C, H, W] → [N, out, …]. @param pads top, left, bottom, right; default: half the kernel */
export function plainConv(
  g: NetworkGraph,
  x: Value,
  name: string,
  out: number,
  { kernel = 3, stride = 1, pads = Array<number>(4).fill(kernel >> 1) } = {},
): Value {
  const weight = g.weight(`${name}.weight`, [out, x.shape[1]!, kernel, kernel]);
  return g.conv(x, weight, g.weight(`${name}.bias`, [out]), { strides: [stride, stride], pads });
}

/** diffusers' Upsample2D: nearest neighbours and a 3×3 convolution. @param size default: twice as high and wide */
export const upsample = (g: NetworkGraph, x: Value, name: string, size: Size = [2 * x.shape[2]!, 2 * x.shape[3]!]) =>
  g.formulations.upsample(g, x, name, size);

/** Over groups of channels of [N, C, …]. */
export const groupNorm = (g: NetworkGraph, x: Value, name: string, epsilon: number) =>
  g.formulations.scaleShift(g, g.formulations.normalize(g, x, epsilon), name);

/** Over the features of [M, C]. */
export function layerNorm(g: NetworkGraph, x: Value, name: string, epsilon = 1e-5): Value {
  const C = x.shape.at(-1)!;
  const operands = [x, g.weight(`${name}.weight`, [C]), g.weight(`${name}.bias`, [C])];
  return g.op('LayerNormalization', operands, x.shape, { attributes: { axis: -1, epsilon: { float: epsilon } } });
}

/** x·sigmoid(alpha·x) */
export const quickGelu = (g: NetworkGraph, x: Value, alpha: number) =>
  g.map('QuickGelu', x, { domain: 'com.microsoft', attributes: { alpha: { float: alpha } } });
export const silu = (g: NetworkGraph, x: Value) => quickGelu(g, x, 1);
export const gelu = (g: NetworkGraph, x: Value) => g.map('Gelu', x);

/** diffusers' names of an attention's projections */
export const attentionNames =
  (name: string): AttentionNames =>
  (part) =>
    `${name}.to_${part}${part === 'out' ? '.0' : ''}`;

/** Queries, keys and values of rows, in another shape. */
export const project = (g: NetworkGraph, x: Value, names: AttentionNames, shape: readonly number[], bias: boolean) =>
  (['q', 'k', 'v'] as const).map((part) => g.reshape(linear(g, x, names(part), x.shape[1]!, bias), shape));

/** Self-attention among the S rows of each of N sequences: [N·S, C]. @param bias whether queries, keys and values have one */
export function selfAttention(
  g: NetworkGraph,
  x: Value,
  names: AttentionNames,
  N: number,
  heads: number,
  bias = false,
) {
  const [M, C] = x.shape as [number, number];
  const [q, k, v] = project(g, x, names, [N, M / N, C], bias) as [Value, Value, Value];
  return linear(g, g.reshape(g.formulations.attention(g, q, k, v, heads), [M, C]), names('out'), C);
}

/** The places of pictures as rows of features, one picture's after the other's: [N, C, H, W] → [N·H·W, C] */
export function rowsOf(g: NetworkGraph, x: Value): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  return g.reshape(g.transpose(g.reshape(x, [N, C, H * W]), [0, 2, 1]), [N * H * W, C]);
}

/** The other way round. */
export function picturesOf(g: NetworkGraph, rows: Value, shape: readonly number[]): Value {
  const [N, C, H, W] = shape as [number, number, number, number];
  return g.reshape(g.transpose(g.reshape(rows, [N, H * W, C]), [0, 2, 1]), shape);
}

/** diffusers' ResnetBlock2D: [N, C, H, W] → [N, out, H, W]. @param embedding of the time, [N, D] after its activation */
export function resnetBlock(g: NetworkGraph, x: Value, name: string, out: number, epsilon: number, embedding?: Value) {
  let y = conv2d(g, silu(g, groupNorm(g, x, `${name}.norm1`, epsilon)), `${name}.conv1`, out);
  y = addEmbedding(g, y, name, embedding);
  y = conv2d(g, silu(g, groupNorm(g, y, `${name}.norm2`, epsilon)), `${name}.conv2`, out);
  return g.add(x.shape[1] === out ? x : plainConv(g, x, `${name}.conv_shortcut`, out, { kernel: 1 }), y);
}

function addEmbedding(g: NetworkGraph, x: Value, name: string, embedding?: Value): Value {
  const [N, C] = x.shape as [number, number];
  return embedding ? g.add(x, g.reshape(linear(g, embedding, `${name}.time_emb_proj`, C), [N, C, 1, 1])) : x;
}

/** diffusers' TemporalResnetBlock without its skip, of a video */
function temporalBranch(g: NetworkGraph, x: Value, name: string, T: number, epsilon: number, embedding?: Value): Value {
  const { normalizeVideo, perPlace, scaleShift, temporalConv } = g.formulations;
  const C = x.shape[1]!;
  const layer = (y: Value, norm: string, conv: string) =>
    perPlace(g, normalizeVideo(g, y, epsilon, T), T, (part) =>
      temporalConv(g, silu(g, scaleShift(g, part, `${name}.${norm}`)), `${name}.${conv}`, C, T),
    );
  return layer(addEmbedding(g, layer(x, 'norm1', 'conv1'), name, embedding), 'norm2', 'conv2');
}

interface BlockOptions {
  T: number;
  epsilon: number;
  /** default: epsilon */
  temporalEpsilon?: number;
  /** of the time, [B, D] and [B·T, D] after the activation; none in the VAE */
  embedding?: Value;
  embeddingOfFrames?: Value;
  /** how a spatial layer is applied to the frames; default: to all at once */
  spatially?: (x: Value, layer: (frames: Value) => Value) => Value;
  /** whether the learned mix factor weighs the temporal branch, as in the VAE, and not the spatial one (diffusers: switch_spatial_to_temporal_mix) */
  switched?: boolean;
}

/** diffusers' SpatioTemporalResBlock, whose AlphaBlender becomes s + k·temporal(s): [B·T, C, H, W] → [B·T, out, H, W] */
export function spatioTemporalResBlock(
  g: NetworkGraph,
  x: Value,
  name: string,
  out: number,
  options: BlockOptions,
): Value {
  const { T, epsilon, temporalEpsilon = epsilon, embedding, embeddingOfFrames, switched } = options;
  const { spatially = (frames, layer) => layer(frames) } = options;
  const s = spatially(x, (frames) =>
    resnetBlock(g, frames, `${name}.spatial_res_block`, out, epsilon, embeddingOfFrames),
  );
  const video = g.formulations.videoOf(g, s, T);
  const ofVideo = embedding?.shape[0] === video.shape[0] ? embedding : embeddingOfFrames;
  const h = temporalBranch(g, video, `${name}.temporal_res_block`, T, temporalEpsilon, ofVideo);
  const factor = mixFactor(g, name);
  return g.add(s, g.formulations.framesOf(g, g.mul(h, switched ? factor : complement(g, factor)), T));
}

/** How much of a blend is spatial: the sigmoid of one learned number. */
export const mixFactor = (g: NetworkGraph, name: string) =>
  g.map('Sigmoid', g.weight(`${name}.time_mixer.mix_factor`, [1]));
export const complement = (g: NetworkGraph, factor: Value) => g.sub(g.constant('one', Float32Array.of(1), [1]), factor);

/** A layer on each item of the first dimension, so that its values take the memory of one: [N, …] → [N, …] */
export const oneByOne = (g: NetworkGraph, x: Value, layer: (item: Value) => Value) =>
  x.shape[0] === 1 ? layer(x) : g.formulations.oneByOne(g, x, layer);
