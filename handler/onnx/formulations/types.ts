import type { Graph } from '../graph.ts';
import type { Value } from '../value.ts';

/** A graph together with the formulations of its policy. */
export interface NetworkGraph extends Graph {
  readonly formulations: Formulations;
}

/** The place of each of an attention's projections in the weights file. */
export type AttentionNames = (part: 'q' | 'k' | 'v' | 'out') => string;

/**
 * The layers that policies write differently. All formulations of a layer compute the same; they differ in speed and memory. `name` is the
 * layer's place in the weights file, x is [N, C, H, W] for pictures and [M, C] for rows of features.
 */
export interface Formulations {
  /** x·Wᵀ + b: [M, in], [out, in], [out] → [M, out] */
  linear(g: NetworkGraph, x: Value, weight: Value, bias?: Value): Value;
  /** A 3×3 convolution of stride 1, padded by one: [N, C, H, W] → [N, out, H, W] */
  conv3x3(g: NetworkGraph, x: Value, name: string, out: number): Value;
  /** Nearest-neighbour upsampling to `size`, then a 3×3 convolution. */
  upsample(g: NetworkGraph, x: Value, name: string, size: readonly [height: number, width: number]): Value;
  /** The frames of B videos, [B·T, C, H, W], as the temporal layers take them, and back. */
  videoOf(g: NetworkGraph, frames: Value, T: number): Value;
  framesOf(g: NetworkGraph, video: Value, T: number): Value;
  /** A convolution of three over the T frames of a video: C → out channels */
  temporalConv(g: NetworkGraph, video: Value, name: string, out: number, T: number): Value;
  /** A layer that does the same at each place of a video. */
  perPlace(g: NetworkGraph, video: Value, T: number, layer: (part: Value) => Value): Value;
  /** Group norm without scale and shift: of each picture, and of a video's frames together. */
  normalize(g: NetworkGraph, x: Value, epsilon: number): Value;
  normalizeVideo(g: NetworkGraph, video: Value, epsilon: number, T: number): Value;
  /** Each channel's scale and shift. */
  scaleShift(g: NetworkGraph, x: Value, name: string): Value;
  /** Scaled dot-product attention among the S rows of each of N sequences: queries, keys and values [N, S, C] → [N, S, C] */
  attention(g: NetworkGraph, q: Value, k: Value, v: Value, heads: number): Value;
  /** Self-attention at each place along the T frames, which come one after the other: [T·H·W, C] */
  temporalAttention(g: NetworkGraph, x: Value, names: AttentionNames, T: number, heads: number): Value;
  /**
   * A GEGLU feed-forward with layer norm and skip connection, rows + feedForward(layerNorm(rows)): [M, C] → [M, C]
   * @param norm the layer norm's place in the weights file
   * @param elements the input values of one part, if a policy computes the rows in parts to save memory
   */
  feedForward(g: NetworkGraph, rows: Value, name: string, norm: string, elements: number): Value;
  /** A layer on each item of the first dimension, so that its values take the memory of one: [N, …] → [N, …], N > 1 */
  oneByOne(g: NetworkGraph, x: Value, layer: (item: Value) => Value): Value;
  /** A block of layers, which may become a graph of its own. */
  block(g: NetworkGraph, make: () => Value): Value;
}
