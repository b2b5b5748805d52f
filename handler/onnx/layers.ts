/**
 * The layers that SVD's networks are made of, in the formulations that onnxruntime runs fastest on a CPU (measured; ARCHITECTURE.md).
 * Each is named by its place in the weights file; x is [N, C, H, W] for pictures, [M, C] for rows of features.
 */
import type { Graph, Value } from './graph.ts';
import type { Attribute } from './protobuf.ts';

const GROUPS = 32; // of every group norm in these networks

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

interface ConvOptions {
  kernel?: number;
  stride?: number;
  /** top, left, bottom, right; half the kernel unless given */
  pads?: readonly [number, number, number, number];
}

/** [N, C, H, W] → [N, out, …] */
export function conv2d(
  g: Graph,
  x: Value,
  name: string,
  out: number,
  { kernel = 3, stride = 1, pads }: ConvOptions = {},
): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const [top, left, bottom, right] = pads ?? Array<number>(4).fill(kernel >> 1);
  const size = (length: number, before: number, after: number) =>
    Math.floor((length + before + after - kernel) / stride) + 1;
  const operands = [x, g.weight(`${name}.weight`, [out, C, kernel, kernel]), g.weight(`${name}.bias`, [out])];
  return g.op('Conv', operands, [N, out, size(H, top!, bottom!), size(W, left!, right!)], {
    attributes: { kernel_shape: [kernel, kernel], strides: [stride, stride], pads: [top!, left!, bottom!, right!] },
  });
}

/** A linear layer over the channels of [N, C, H, W] → [N, out, H, W]: from about 320 channels the fastest way to multiply by a matrix. */
export function pointwise(
  g: Graph,
  x: Value,
  name: string,
  out: number,
  rows: readonly [from: number, to: number] = [0, out],
): Value {
  const C = x.shape[1]!;
  const weight = g.weight(`${name}.weight`, [out, C], { shape: [out, C, 1, 1], rows });
  return g.op('Conv', [x, weight, g.weight(`${name}.bias`, [out], { rows })], x.shape.with(1, rows[1] - rows[0]), {
    attributes: { kernel_shape: [1, 1] },
  });
}

/** A convolution of three over the frames: [B, C, T, H·W] → [B, out, T, H·W]; the Conv3d kernel is seen as a 3×1 one. */
export function temporalConv(g: Graph, x: Value, name: string, out: number): Value {
  const [B, C, T, HW] = x.shape as [number, number, number, number];
  const weight = g.weight(`${name}.weight`, [out, C, 3, 1, 1], { shape: [out, C, 3, 1] });
  return g.op('Conv', [x, weight, g.weight(`${name}.bias`, [out])], [B, out, T, HW], {
    attributes: { kernel_shape: [3, 1], pads: [1, 0, 1, 0] },
  });
}

/**
 * Over groups of channels of [N, C, …]. On a processor it is LayerNormalization, since InstanceNormalization runs in one thread, and each
 * channel's scale and shift is a depthwise 1×1 convolution, which fuses.
 */
export function groupNorm(g: Graph, x: Value, name: string, epsilon: number): Value {
  const [N, C, ...rest] = x.shape as [number, number, ...number[]];
  const length = (C / GROUPS) * rest.reduce((total, size) => total * size, 1);
  const groups = g.reshape(x, [N, GROUPS, length]);
  const options = { attributes: { epsilon: { float: epsilon } } };
  const point = rest.map(() => 1);
  if (g.device === 'cuda') {
    const ones = g.constant('ones', new Float32Array(GROUPS).fill(1), [GROUPS]);
    const zeros = g.constant('zeros', new Float32Array(GROUPS), [GROUPS]);
    const normal = g.op('InstanceNormalization', [groups, ones, zeros], groups.shape, options);
    const [scale, shift] = ['weight', 'bias'].map((part) => g.weight(`${name}.${part}`, [C], { shape: [C, ...point] }));
    return g.add(g.mul(g.reshape(normal, x.shape), scale!), shift!);
  }
  const normal = g.op('LayerNormalization', [groups, g.ones(length)], groups.shape, options);
  const scale = g.weight(`${name}.weight`, [C], { shape: [C, 1, ...point] });
  return g.op('Conv', [g.reshape(normal, x.shape), scale, g.weight(`${name}.bias`, [C])], x.shape, {
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
  if (g.device === 'cuda') {
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

/**
 * Nearest-neighbour upsampling and a 3×3 convolution, of each of several pictures of one shape. For a doubling on a processor they are
 * four 2×2 convolutions, one for each corner of the new pixels, whose kernels are sums of the 3×3 one's rows and columns: 2.25 times
 * fewer multiplications.
 */
export function upsampleConv(
  g: Graph,
  pictures: readonly Value[],
  name: string,
  [height, width]: readonly [number, number],
): Value[] {
  const [N, C, H, W] = pictures[0]!.shape as [number, number, number, number];
  if (height !== 2 * H || width !== 2 * W || g.device === 'cuda') {
    const sizes = g.integers([N, C, height, width]);
    const attributes = { mode: 'nearest', coordinate_transformation_mode: 'asymmetric', nearest_mode: 'floor' };
    return pictures.map((x) =>
      conv2d(g, g.op('Resize', [x, undefined, undefined, sizes], [N, C, height, width], { attributes }), name, C),
    );
  }
  const bias = g.weight(`${name}.bias`, [C]);
  /** The first of three rows and the sum of the others, and the other way round. */
  const merged = (kernel: Value, axis: number) => {
    const [a, b, c] = g.split(kernel, axis, [1, 1, 1]) as [Value, Value, Value];
    return [g.concat([a, g.add(b, c)], axis), g.concat([g.add(a, b), c], axis)];
  };
  const kernels = merged(g.weight(`${name}.weight`, [C, C, 3, 3]), 2).flatMap((rows) => merged(rows, 3));
  return pictures.map((x) => {
    const corners = kernels.map((kernel, i) => {
      const [bottom, right] = [i >> 1, i & 1];
      return g.op('Conv', [x, kernel, bias], [N, C, H, W], {
        attributes: { kernel_shape: [2, 2], pads: [1 - bottom, 1 - right, bottom, right] },
      });
    });
    const [top, bottom] = [corners.slice(0, 2), corners.slice(2)].map((pair) => {
      const columns = pair.map((corner) => g.reshape(corner, [N, C * H * W, 1]));
      return g.reshape(g.concat(columns, 2), [N, C * H, width]); // DepthToSpace takes four times as long
    });
    return g.reshape(g.concat([top!, bottom!], 2), [N, C, height, width]);
  });
}

interface TemporalOptions {
  epsilon: number;
  /** [B, D] after its activation, or undefined where the network has none */
  embedding?: Value;
  /** how the blend's factor comes from the stored one: in the VAE it is switched */
  blend: 'unet' | 'vae';
}

/**
 * What SVD's temporal residual block adds to the spatial block's output s: k·f(s).
 * @param s [B, C, T, H·W]
 */
export function temporalResidual(
  g: Graph,
  s: Value,
  name: string,
  { epsilon, embedding, blend }: TemporalOptions,
): Value {
  const [B, C] = s.shape as [number, number];
  const block = `${name}.temporal_res_block`;
  let h = temporalConv(g, silu(g, groupNorm(g, s, `${block}.norm1`, epsilon)), `${block}.conv1`, C);
  if (embedding) h = g.add(h, g.reshape(linear(g, embedding, `${block}.time_emb_proj`, C), [B, C, 1, 1]));
  h = temporalConv(g, silu(g, groupNorm(g, h, `${block}.norm2`, epsilon)), `${block}.conv2`, C);
  const factor = mixFactor(g, name);
  return g.mul(h, blend === 'vae' ? factor : complement(g, factor));
}

/** How much of a blend is spatial: the sigmoid of one learned number. */
export const mixFactor = (g: Graph, name: string) => g.map('Sigmoid', g.weight(`${name}.time_mixer.mix_factor`, [1]));
export const complement = (g: Graph, factor: Value) => g.sub(g.constant('one', Float32Array.of(1), [1]), factor);
