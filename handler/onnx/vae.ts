/** SVD's picture codec: diffusers' AutoencoderKLTemporalDecoder, from its config.json and weights. */
import * as v from 'valibot';
import { createGraph, type Graph, type Value } from './graph.ts';
import {
  attentionNames,
  conv2d,
  groupNorm,
  selfAttention,
  silu,
  temporalConv,
  temporalResidual,
  upsampleConv,
} from './layers.ts';
import type { SafeTensors } from './safetensors.ts';

const count = v.pipe(v.number(), v.integer(), v.minValue(1));

export const vaeConfig = v.object({
  in_channels: count,
  out_channels: count,
  latent_channels: count,
  block_out_channels: v.pipe(v.array(v.pipe(count, v.multipleOf(32))), v.minLength(1)),
  layers_per_block: v.optional(count, 1),
  scaling_factor: v.optional(v.number(), 0.18215),
});
export type VaeConfig = v.InferOutput<typeof vaeConfig>;

/** The most likely latent of a picture. Input: `picture` [B, 3, H, W] in [−1, 1]. Output: `latent` [B, latent_channels, H/8, W/8], not scaled. */
export function vaeEncoder(
  weights: SafeTensors,
  config: VaeConfig,
  { B, H, W }: { B: number; H: number; W: number },
): Graph {
  const g = createGraph(weights);
  const channels = config.block_out_channels;
  let x = conv2d(g, g.input('picture', [B, config.in_channels, H, W]), 'encoder.conv_in', channels[0]!);
  for (const [i, C] of channels.entries()) {
    for (let j = 0; j < config.layers_per_block; j++) x = residual(g, x, `encoder.down_blocks.${i}.resnets.${j}`, C);
    if (i < channels.length - 1) {
      x = conv2d(g, x, `encoder.down_blocks.${i}.downsamplers.0.conv`, C, { stride: 2, pads: [0, 0, 1, 1] });
    }
  }
  const C = channels.at(-1)!;
  x = residual(g, x, 'encoder.mid_block.resnets.0', C);
  x = attention(g, x, 'encoder.mid_block.attentions.0');
  x = residual(g, x, 'encoder.mid_block.resnets.1', C);
  const Z = config.latent_channels;
  x = conv2d(g, silu(g, groupNorm(g, x, 'encoder.conv_norm_out', 1e-6)), 'encoder.conv_out', 2 * Z);

  // Of mean and variance only the mean is wanted: the first half of the last layer's rows.
  const mean = { rows: [0, Z] as const };
  const operands = [
    x,
    g.weight('quant_conv.weight', [2 * Z, 2 * Z, 1, 1], mean),
    g.weight('quant_conv.bias', [2 * Z], mean),
  ];
  g.output('latent', g.op('Conv', operands, x.shape.with(1, Z), { attributes: { kernel_shape: [1, 1] } }));
  return g;
}

/** T frames of one video. Input: `latents` [T, latent_channels, h, w], already divided by the scale. Output: `frames` [T, 3, 8h, 8w], about [−1, 1]. */
export function vaeDecoder(
  weights: SafeTensors,
  config: VaeConfig,
  { T, h, w }: { T: number; h: number; w: number },
): Graph {
  const g = createGraph(weights);
  const channels = config.block_out_channels.toReversed();
  const spatioTemporal = (x: Value, name: string, C: number) =>
    temporalResidual(g, residual(g, x, `${name}.spatial_res_block`, C), name, { T, epsilon: 1e-5, blend: 'vae' });

  let x = conv2d(g, g.input('latents', [T, config.latent_channels, h, w]), 'decoder.conv_in', channels[0]!);
  x = spatioTemporal(x, 'decoder.mid_block.resnets.0', channels[0]!);
  for (let j = 1; j < config.layers_per_block; j++) {
    if (j === 1) x = attention(g, x, 'decoder.mid_block.attentions.0');
    x = spatioTemporal(x, `decoder.mid_block.resnets.${j}`, channels[0]!);
  }
  for (const [i, C] of channels.entries()) {
    for (let j = 0; j <= config.layers_per_block; j++) x = spatioTemporal(x, `decoder.up_blocks.${i}.resnets.${j}`, C);
    if (i < channels.length - 1) {
      x = upsampleConv(g, x, `decoder.up_blocks.${i}.upsamplers.0.conv`, [x.shape[2]! * 2, x.shape[3]! * 2]);
    }
  }
  x = conv2d(g, silu(g, groupNorm(g, x, 'decoder.conv_norm_out', 1e-6)), 'decoder.conv_out', config.out_channels);

  const [, C, H, W] = x.shape as [number, number, number, number];
  const overTime = g.transpose(g.reshape(x, [1, T, C, H * W]), [0, 2, 1, 3]);
  const frames = temporalConv(g, overTime, 'decoder.time_conv_out', C);
  g.output('frames', g.reshape(g.transpose(frames, [0, 2, 1, 3]), [T, C, H, W]));
  return g;
}

function residual(g: Graph, x: Value, name: string, C: number): Value {
  let y = conv2d(g, silu(g, groupNorm(g, x, `${name}.norm1`, 1e-6)), `${name}.conv1`, C);
  y = conv2d(g, silu(g, groupNorm(g, y, `${name}.norm2`, 1e-6)), `${name}.conv2`, C);
  return g.add(x.shape[1] === C ? x : conv2d(g, x, `${name}.conv_shortcut`, C, { kernel: 1 }), y);
}

/** One head over all places of a picture. */
function attention(g: Graph, x: Value, name: string): Value {
  const [N, C, H, W] = x.shape as [number, number, number, number];
  const normal = g.reshape(groupNorm(g, x, `${name}.group_norm`, 1e-6), [N, C, H * W]);
  const rows = g.reshape(g.transpose(normal, [0, 2, 1]), [N * H * W, C]);
  const attended = selfAttention(g, rows, attentionNames(name), { N, heads: 1, bias: true });
  return g.add(g.reshape(g.transpose(g.reshape(attended, [N, H * W, C]), [0, 2, 1]), x.shape), x);
}
