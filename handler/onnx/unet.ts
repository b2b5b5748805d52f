/** SVD's denoising network: diffusers' UNetSpatioTemporalConditionModel, from its config.json and weights. */
import * as v from 'valibot';
import { timestepEmbedding } from '../models/svd/conditioning.ts';
import { conv2d, pointwise, upsampleConv } from './conv.ts';
import { createGraph, type Graph, type GraphOptions } from './graph.ts';
import {
  attentionNames,
  complement,
  framesOf,
  gelu,
  groupNorm,
  layerNorm,
  linear,
  mixFactor,
  overTime,
  selfAttention,
  silu,
  temporalAttention,
  temporalResidual,
} from './layers.ts';
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

/** Rows that go through a feed-forward at a time, at least: fewer take longer. */
const FEW_ROWS = 512;

/**
 * One evaluation: v for noisy latents beside the still's.
 *
 * Inputs: `sample` [B, T, in_channels, h, w]; `time` [1, block_out_channels[0]], the embedded c_noise; `added` [B, 768], the embedded
 * (fps − 1, motion bucket, augmentation); `context` [B, cross_attention_dim], the picture's CLIP embedding, B being the branches of
 * guidance. Output: `v` [B, T, out_channels, h, w].
 */
export function unet(
  weights: SafeTensors,
  config: UNetConfig,
  { B, T, h, w }: { B: number; T: number; h: number; w: number },
  options?: GraphOptions,
): Graph {
  const g = createGraph(weights, options);
  const N = B * T;
  const channels = config.block_out_channels;
  const blocks = channels.length;
  const each = (value: number | number[], block: number) => (Array.isArray(value) ? value[block]! : value);
  const D = channels[0]! * 4; // of the time embedding

  const sample = g.input('sample', [B, T, config.in_channels, h, w]);
  const time = g.input('time', [1, channels[0]!]);
  const added = g.input('added', [B, config.projection_class_embeddings_input_dim]);
  const context = g.input('context', [B, each(config.cross_attention_dim, 0)]);

  /** Two linear layers around an activation. */
  const mlp = (x: Value, name: string, inner: number, out: number) =>
    linear(g, silu(g, linear(g, x, `${name}.linear_1`, inner)), `${name}.linear_2`, out);

  const embedding = silu(g, g.add(mlp(time, 'time_embedding', D, D), mlp(added, 'add_embedding', D, D))); // [B, D]
  const embeddingOfFrames = perFrame(embedding);

  /** [B, D] → [B·T, D] */
  function perFrame(x: Value): Value {
    const shape = [B, T, x.shape[1]!];
    return g.reshape(g.op('Expand', [g.reshape(x, [B, 1, x.shape[1]!]), g.integers(shape)], shape), [N, x.shape[1]!]);
  }

  /** A spatial residual block, then a temporal one. */
  const residual = (x: Value, name: string, C: number, epsilon: number) =>
    g.section(() => {
      const block = `${name}.spatial_res_block`;
      let y = conv2d(g, silu(g, groupNorm(g, x, `${block}.norm1`, epsilon)), `${block}.conv1`, C);
      y = g.add(y, g.reshape(linear(g, embeddingOfFrames, `${block}.time_emb_proj`, C), [N, C, 1, 1]));
      y = conv2d(g, silu(g, groupNorm(g, y, `${block}.norm2`, epsilon)), `${block}.conv2`, C);
      const skip = x.shape[1] === C ? x : conv2d(g, x, `${block}.conv_shortcut`, C, { kernel: 1 });
      const spatial = g.add(skip, y);
      const temporal = temporalResidual(g, overTime(g, spatial, B), name, { T, epsilon, embedding, blend: 'unet' });
      return g.add(spatial, framesOf(g, temporal, T));
    });

  /**
   * The rows [M, C] and their GEGLU feed-forward after a norm, at the first level one half after the other: its intermediate values, of
   * four times the width twice over, would take the most memory of all. The gate is the second half of the projection.
   */
  function feedForward(rows: Value, name: string, norm: string): Value {
    const [M, C] = rows.shape as [number, number];
    const onRows = g.policy === 'cuda'; // which has no use for convolutions here
    const half = (x: Value, part: readonly [number, number]) =>
      onRows
        ? linear(g, x, `${name}.net.0.proj`, 8 * C, { rows: part })
        : pointwise(g, x, `${name}.net.0.proj`, 8 * C, part);
    const geglu = (x: Value) => g.mul(half(x, [0, 4 * C]), gelu(g, half(x, [4 * C, 8 * C])));
    const added = (y: Value) => {
      const [m] = y.shape as [number];
      const normal = layerNorm(g, y, norm);
      if (onRows) return g.add(linear(g, geglu(normal), `${name}.net.2`, C), y);
      // With all dimensions known to onnxruntime, or it would take each convolution's result out of its layout.
      const channels = g.op('Reshape', [g.transpose(normal, [1, 0]), g.integers([1, C, m, 1])], [1, C, m, 1]);
      const result = g.transpose(pointwise(g, geglu(channels), `${name}.net.2`, C), [0, 2, 1, 3]);
      return g.add(g.op('Reshape', [result, g.op('Shape', [y], [2], { type: 'int64' })], y.shape), y);
    };
    const part = Math.max(FEW_ROWS, Math.ceil((N * h * w * channels[0]!) / 2 / C)); // more parts gain little, and opening their graph takes longer
    if (part >= M || onRows) return added(rows);
    const starts = Array.from({ length: Math.ceil(M / part) }, (_, i) => i * part);
    return g.concat(
      starts.map((start) => added(g.slice(rows, 0, start, Math.min(start + part, M)))),
      0,
    );
  }

  /** Cross-attention to a single key is that key's value, whatever the query: [B, C], added to every row of its branch. */
  function crossAttention(x: Value, name: string): Value {
    const [M, C] = x.shape as [number, number];
    const value = linear(g, linear(g, context, `${name}.to_v`, C, { bias: false }), `${name}.to_out.0`, C);
    return g.reshape(g.add(g.reshape(x, [B, M / B, C]), g.reshape(value, [B, 1, C])), [M, C]);
  }

  /** Transformer blocks within each frame and, blended with them, along the frames at each place. */
  function transformer(x: Value, name: string, heads: number, layers: number): Value {
    const [, C, height, width] = x.shape as [number, number, number, number];
    const HW = height * width;
    const M = N * HW; // rows: places of the first frame, of the second …

    const positions = new Float32Array(T * C);
    for (let t = 0; t < T; t++) positions.set(timestepEmbedding(t, C), t * C);
    const frames = mlp(g.constant('positions', positions, [T, C]), `${name}.time_pos_embed`, 4 * C, C);
    const spatial = mixFactor(g, name);

    const inner = pointwise(g, groupNorm(g, x, `${name}.norm`, 1e-6), `${name}.proj_in`, C);
    let rows = g.reshape(g.transpose(g.reshape(inner, [N, C, HW]), [0, 2, 1]), [M, C]);
    for (let i = 0; i < layers; i++) {
      const block = `${name}.transformer_blocks.${i}`;
      const names = attentionNames(`${block}.attn1`);
      rows = g.add(selfAttention(g, layerNorm(g, rows, `${block}.norm1`), names, { N, heads, bias: false }), rows);
      rows = crossAttention(rows, `${block}.attn2`);
      rows = feedForward(rows, `${block}.ff`, `${block}.norm3`);

      const temporal = `${name}.temporal_transformer_blocks.${i}`;
      let y = g.reshape(g.add(g.reshape(rows, [B, T, HW, C]), g.reshape(frames, [1, T, 1, C])), [M, C]);
      y = feedForward(y, `${temporal}.ff_in`, `${temporal}.norm_in`);
      const normal = layerNorm(g, y, `${temporal}.norm1`);
      const branches = B === 1 ? [normal] : g.split(normal, 0, Array(B).fill(M / B));
      const attended = branches.map((branch) =>
        temporalAttention(g, branch, attentionNames(`${temporal}.attn1`), { T, heads }),
      );
      y = g.add(B === 1 ? attended[0]! : g.concat(attended, 0), y);
      y = crossAttention(y, `${temporal}.attn2`);
      y = feedForward(y, `${temporal}.ff`, `${temporal}.norm3`);
      rows = g.add(g.mul(rows, spatial), g.mul(y, complement(g, spatial)));
    }
    const outer = g.reshape(g.transpose(g.reshape(rows, [N, HW, C]), [0, 2, 1]), x.shape);
    return g.add(pointwise(g, outer, `${name}.proj_out`, C), x);
  }

  const attention = (x: Value, name: string, block: number) =>
    g.section(() =>
      transformer(x, name, each(config.num_attention_heads, block), each(config.transformer_layers_per_block, block)),
    );

  let x = conv2d(g, g.reshape(sample, [N, config.in_channels, h, w]), 'conv_in', channels[0]!);
  const skips = [x];
  for (let i = 0; i < blocks; i++) {
    const crosses = config.down_block_types[i] === 'CrossAttnDownBlockSpatioTemporal';
    for (let j = 0; j < each(config.layers_per_block, i); j++) {
      x = residual(x, `down_blocks.${i}.resnets.${j}`, channels[i]!, crosses ? 1e-6 : 1e-5);
      if (crosses) x = attention(x, `down_blocks.${i}.attentions.${j}`, i);
      skips.push(x);
    }
    if (i < blocks - 1) {
      x = conv2d(g, x, `down_blocks.${i}.downsamplers.0.conv`, channels[i]!, { stride: 2 });
      skips.push(x);
    }
  }

  const innermost = channels.at(-1)!;
  x = residual(x, 'mid_block.resnets.0', innermost, 1e-5);
  x = attention(x, 'mid_block.attentions.0', blocks - 1);
  x = residual(x, 'mid_block.resnets.1', innermost, 1e-5);

  for (let i = 0; i < blocks; i++) {
    const level = blocks - 1 - i;
    const crosses = config.up_block_types[i] === 'CrossAttnUpBlockSpatioTemporal';
    for (let j = 0; j <= each(config.layers_per_block, level); j++) {
      x = residual(
        g.concat([x, skips.pop()!], 1),
        `up_blocks.${i}.resnets.${j}`,
        channels[level]!,
        crosses ? 1e-5 : 1e-6,
      );
      if (crosses) x = attention(x, `up_blocks.${i}.attentions.${j}`, level);
    }
    if (i < blocks - 1) {
      const [, , height, width] = skips.at(-1)!.shape as [number, number, number, number]; // odd sizes are not doubled exactly
      x = upsampleConv(g, x, `up_blocks.${i}.upsamplers.0.conv`, [height, width]);
    }
  }

  x = conv2d(g, silu(g, groupNorm(g, x, 'conv_norm_out', 1e-5)), 'conv_out', config.out_channels);
  g.output('v', g.reshape(x, [B, T, config.out_channels, h, w]));
  return g;
}
