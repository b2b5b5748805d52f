/** SVD's denoising network: diffusers' UNetSpatioTemporalConditionModel, from its config.json and weights. Blocks have diffusers' names. */
import * as v from 'valibot';
import { timestepEmbedding } from '../models/svd/conditioning.ts';
import { createNetworkGraph } from './formulations/index.ts';
import type { NetworkGraph } from './formulations/types.ts';
import type { Graph, GraphOptions } from './graph.ts';
import * as layers from './layers.ts';
import { attentionNames, conv2d, groupNorm, layerNorm, linear, mlp, pointwise, silu } from './layers.ts';
import type { SafeTensors } from './safetensors.ts';
import type { Value } from './value.ts';

const count = v.pipe(v.number(), v.integer(), v.minValue(1));
const perBlock = v.union([count, v.array(count)]);
const down = v.picklist(['CrossAttnDownBlockSpatioTemporal', 'DownBlockSpatioTemporal']);
const up = v.picklist(['UpBlockSpatioTemporal', 'CrossAttnUpBlockSpatioTemporal']);

export const unetConfig = v.object({
  in_channels: count,
  out_channels: count,
  block_out_channels: v.pipe(v.array(v.pipe(count, v.multipleOf(32))), v.minLength(1)),
  down_block_types: v.array(down),
  up_block_types: v.array(up),
  layers_per_block: v.optional(perBlock, 2),
  num_attention_heads: v.optional(perBlock, 5),
  transformer_layers_per_block: v.optional(perBlock, 1),
  cross_attention_dim: v.optional(perBlock, 1024),
  addition_time_embed_dim: v.optional(count, 256),
  projection_class_embeddings_input_dim: v.optional(count, 768),
});
export type UNetConfig = v.InferOutput<typeof unetConfig>;

/** What blocks are conditioned on. */
interface Conditioning {
  /** branches of guidance, and frames */
  B: number;
  T: number;
  /** CLIP's embedding of the still, [B, cross_attention_dim] */
  context: Value;
  /** of time and added numbers, [B, D], and for each frame, [B·T, D] */
  embedding: Value;
  embeddingOfFrames: Value;
  /** elements of a feed-forward's rows that may be computed at a time */
  elements: number;
}

/**
 * DeepCache (Ma et al., arXiv:2312.00858): most of the network changes little from step to step. The last `depth` layers of the way up, and
 * the part of the way down whose skips they take, run in every step; what enters them is kept from an earlier one.
 */
export interface CachedForm {
  /** 1 or more, at most `layersUp(config)` − 1; diffusers' DeepCacheSDHelper counts from 0 (cache_branch_id), DeepCache's SVD code from −1 */
  depth: number;
  /** whole: the whole network, which also outputs the feature. shallow: what runs in every step, which takes it as an input */
  form: 'whole' | 'shallow';
}

/** The number of layers on the way up: each a residual block with its attention, and the upsampler with the last of its block. */
export const layersUp = ({ block_out_channels, layers_per_block }: UNetConfig) =>
  block_out_channels.reduce((sum, _, block) => sum + at(layers_per_block, block) + 1, 0);

const at = (value: number | number[], block: number) => (Array.isArray(value) ? value[block]! : value);

/** [N, C, H, W] → [N, C', H', W'] */
type Layer = (x: Value) => Value;

/**
 * One evaluation: v for noisy latents joined with the still's.
 *
 * Inputs: `sample` [B, T, in_channels, h, w]; `time` [1, block_out_channels[0]], the embedded c_noise; `added` [B, 768], the embedded
 * (fps − 1, motion bucket, augmentation); `context` [B, cross_attention_dim], the picture's CLIP embedding, B being the branches of
 * guidance. Output: `v` [B, T, out_channels, h, w]. With a cached form also `feature` [B·T, C, H, W], an output or an input.
 */
export function unet(
  weights: SafeTensors,
  config: UNetConfig,
  { B, T, h, w }: { B: number; T: number; h: number; w: number },
  options?: GraphOptions,
  cached?: CachedForm,
): Graph {
  const g = createNetworkGraph(weights, options);
  const N = B * T;

  const sample = g.input('sample', [B, T, config.in_channels, h, w]);
  const conditioning = condition(g, config, { B, T, h, w });

  const { down, middle, up } = unetLayers(g, config, conditioning);
  const isShallow = cached?.form === 'shallow';
  const first = cached ? up.length - cached.depth : 0; // the layer on the way up that the feature enters
  let x = g.reshape(sample, [N, config.in_channels, h, w]);
  const skips: Value[] = [];
  for (const layer of isShallow ? down.slice(0, cached.depth) : down) {
    x = layer(x);
    skips.push(x);
  }
  if (isShallow) x = g.input('feature', [N, up[first - 1]!.channels, ...skips.at(-1)!.shape.slice(2)]);
  else for (const layer of middle) x = layer(x);

  let feature = x;
  for (const [i, { layer }] of up.entries()) {
    if (isShallow && i < first) continue;
    if (i === first) feature = x;
    x = layer(x, skips);
  }

  x = conv2d(g, silu(g, groupNorm(g, x, 'conv_norm_out', 1e-5)), 'conv_out', config.out_channels);
  g.output('v', g.reshape(x, [B, T, config.out_channels, h, w]));
  if (cached?.form === 'whole') g.output('feature', feature);
  return g;
}

/**
 * The first residual block of the first level with its transformer, alone: it shows how fast a device is. Inputs: `x`
 * [T, block_out_channels[0], h, w], and `time`, `added`, `context` as in the whole network. Output: `y`, of x's shape.
 */
export function firstBlock(
  weights: SafeTensors,
  config: UNetConfig,
  size: { T: number; h: number; w: number },
  options?: GraphOptions,
): Graph {
  const g = createNetworkGraph(weights, options);
  const { T, h, w } = size;
  const x = g.input('x', [T, config.block_out_channels[0]!, h, w]);
  const { down } = unetLayers(g, config, condition(g, config, { B: 1, ...size }));
  g.output('y', down[1]!(x)); // the layer before it is conv_in
  return g;
}

/** Adds the inputs `time`, `added` and `context`, and embeds them. */
function condition(
  g: NetworkGraph,
  config: UNetConfig,
  { B, T, h, w }: { B: number; T: number; h: number; w: number },
): Conditioning {
  const C = config.block_out_channels[0]!;
  const [N, D] = [B * T, 4 * C];
  const time = g.input('time', [1, C]);
  const added = g.input('added', [B, config.projection_class_embeddings_input_dim]);
  const context = g.input('context', [B, at(config.cross_attention_dim, 0)]);
  const embedding = silu(g, g.add(mlp(g, time, 'time_embedding', D, D), mlp(g, added, 'add_embedding', D, D)));
  const perFrame = [B, T, D];
  const expanded = g.op('Expand', [g.reshape(embedding, [B, 1, D]), g.integers(perFrame)], perFrame);
  const embeddingOfFrames = g.reshape(expanded, [N, D]);
  return { B, T, context, embedding, embeddingOfFrames, elements: (N * h * w * C) / 2 }; // half of the first level's
}

/** The network's layers in the order in which they run. Each on the way down leaves a skip; each on the way up takes the last one left. */
function unetLayers(g: NetworkGraph, config: UNetConfig, conditioning: Conditioning) {
  const channels = config.block_out_channels;
  const blocks = channels.length;
  const residual = (x: Value, name: string, C: number, epsilon: number) =>
    g.formulations.block(g, () => layers.spatioTemporalResBlock(g, x, name, C, { ...conditioning, epsilon }));
  const attention = (x: Value, name: string, block: number) => {
    const [heads, depth] = [at(config.num_attention_heads, block), at(config.transformer_layers_per_block, block)];
    return g.formulations.block(g, () => transformer(g, x, name, heads, depth, conditioning));
  };

  const down: Layer[] = [(x) => conv2d(g, x, 'conv_in', channels[0]!)];
  for (let i = 0; i < blocks; i++) {
    const crosses = config.down_block_types[i] === 'CrossAttnDownBlockSpatioTemporal';
    const name = `down_blocks.${i}`;
    for (let j = 0; j < at(config.layers_per_block, i); j++) {
      down.push((x) => {
        const y = residual(x, `${name}.resnets.${j}`, channels[i]!, crosses ? 1e-6 : 1e-5);
        return crosses ? attention(y, `${name}.attentions.${j}`, i) : y;
      });
    }
    if (i < blocks - 1)
      down.push((x) => layers.plainConv(g, x, `${name}.downsamplers.0.conv`, channels[i]!, { stride: 2 }));
  }

  const innermost = channels.at(-1)!; // UNetMidBlockSpatioTemporal
  const middle: Layer[] = [
    (x) => residual(x, 'mid_block.resnets.0', innermost, 1e-5),
    (x) => attention(x, 'mid_block.attentions.0', blocks - 1),
    (x) => residual(x, 'mid_block.resnets.1', innermost, 1e-5),
  ];

  const up: { channels: number; layer: (x: Value, skips: Value[]) => Value }[] = [];
  for (let i = 0; i < blocks; i++) {
    const level = blocks - 1 - i;
    const crosses = config.up_block_types[i] === 'CrossAttnUpBlockSpatioTemporal';
    const [name, C, last] = [`up_blocks.${i}`, channels[level]!, at(config.layers_per_block, level)];
    for (let j = 0; j <= last; j++) {
      const layer = (x: Value, skips: Value[]) => {
        const joined = g.concat([x, skips.pop()!], 1);
        let y = residual(joined, `${name}.resnets.${j}`, C, crosses ? 1e-5 : 1e-6);
        if (crosses) y = attention(y, `${name}.attentions.${j}`, level);
        if (j < last || i === blocks - 1) return y;
        const [, , height, width] = skips.at(-1)!.shape as [number, number, number, number]; // odd sizes are not doubled exactly
        return layers.upsample(g, y, `${name}.upsamplers.0.conv`, [height, width]);
      };
      up.push({ channels: C, layer });
    }
  }
  return { down, middle, up };
}

/** TransformerSpatioTemporalModel: blocks within each frame and, blended with them, along the frames at each place. */
function transformer(
  g: NetworkGraph,
  x: Value,
  name: string,
  heads: number,
  depth: number,
  given: Conditioning,
): Value {
  const { B, T } = given;
  const [N, C, H, W] = x.shape as [number, number, number, number];

  const positions = new Float32Array(T * C);
  for (let t = 0; t < T; t++) positions.set(timestepEmbedding(t, C), t * C);
  const frames = mlp(g, g.constant('positions', positions, [T, C]), `${name}.time_pos_embed`, 4 * C, C);
  const spatialShare = layers.mixFactor(g, name);

  let rows = layers.rowsOf(g, pointwise(g, groupNorm(g, x, `${name}.norm`, 1e-6), `${name}.proj_in`, C));
  for (let i = 0; i < depth; i++) {
    rows = spatialBlock(g, rows, `${name}.transformer_blocks.${i}`, N, heads, given);
    const placed = g.add(g.reshape(rows, [B, T, H * W, C]), g.reshape(frames, [1, T, 1, C]));
    const block = `${name}.temporal_transformer_blocks.${i}`;
    const temporal = temporalBlock(g, g.reshape(placed, rows.shape), block, heads, given);
    rows = g.add(g.mul(rows, spatialShare), g.mul(temporal, layers.complement(g, spatialShare)));
  }
  return g.add(pointwise(g, layers.picturesOf(g, rows, x.shape), `${name}.proj_out`, C), x);
}

/** BasicTransformerBlock, on the rows of N frames. */
function spatialBlock(g: NetworkGraph, x: Value, name: string, N: number, heads: number, given: Conditioning): Value {
  const names = attentionNames(`${name}.attn1`);
  const attended = layers.selfAttention(g, layerNorm(g, x, `${name}.norm1`), names, N, heads);
  const y = crossAttention(g, g.add(attended, x), `${name}.attn2`, given.context);
  return g.formulations.feedForward(g, y, `${name}.ff`, `${name}.norm3`, given.elements);
}

/** TemporalBasicTransformerBlock, on the rows of each branch of guidance. */
function temporalBlock(g: NetworkGraph, x: Value, name: string, heads: number, given: Conditioning): Value {
  const { B, T, context, elements } = given;
  let y = g.formulations.feedForward(g, x, `${name}.ff_in`, `${name}.norm_in`, elements);
  const normal = layerNorm(g, y, `${name}.norm1`);
  const branches = B === 1 ? [normal] : g.split(normal, 0, Array(B).fill(x.shape[0]! / B));
  const names = attentionNames(`${name}.attn1`);
  const attended = branches.map((branch) => g.formulations.temporalAttention(g, branch, names, T, heads));
  y = g.add(B === 1 ? attended[0]! : g.concat(attended, 0), y);
  y = crossAttention(g, y, `${name}.attn2`, context);
  return g.formulations.feedForward(g, y, `${name}.ff`, `${name}.norm3`, elements);
}

/** Cross-attention to a single key is that key's value for every query: [B, C], added to every row of its branch. */
function crossAttention(g: NetworkGraph, x: Value, name: string, context: Value): Value {
  const [M, C] = x.shape as [number, number];
  const B = context.shape[0]!;
  const value = linear(g, linear(g, context, `${name}.to_v`, C, false), `${name}.to_out.0`, C);
  return g.reshape(g.add(g.reshape(x, [B, M / B, C]), g.reshape(value, [B, 1, C])), [M, C]);
}
