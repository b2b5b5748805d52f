/** SVD's picture codec: diffusers' AutoencoderKLTemporalDecoder, from its config.json and weights. */
import * as v from 'valibot';
import { createNetworkGraph } from './formulations/index.ts';
import type { NetworkGraph } from './formulations/types.ts';
import type { Graph, GraphOptions } from './graph.ts';
import * as layers from './layers.ts';
import { conv2d, groupNorm, oneByOne, silu } from './layers.ts';
import type { SafeTensors } from './safetensors.ts';
import type { Value } from './value.ts';

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
  options?: GraphOptions,
): Graph {
  const g = createNetworkGraph(weights, options);
  const channels = config.block_out_channels;
  let x = conv2d(g, g.input('picture', [B, config.in_channels, H, W]), 'encoder.conv_in', channels[0]!);
  for (const [i, C] of channels.entries()) {
    for (let j = 0; j < config.layers_per_block; j++) x = residual(g, x, `encoder.down_blocks.${i}.resnets.${j}`, C);
    if (i < channels.length - 1) {
      x = layers.plainConv(g, x, `encoder.down_blocks.${i}.downsamplers.0.conv`, C, { stride: 2, pads: [0, 0, 1, 1] });
    }
  }
  const C = channels.at(-1)!;
  x = residual(g, x, 'encoder.mid_block.resnets.0', C);
  x = attention(g, x, 'encoder.mid_block.attentions.0');
  x = residual(g, x, 'encoder.mid_block.resnets.1', C);
  const Z = config.latent_channels;
  x = conv2d(g, silu(g, groupNorm(g, x, 'encoder.conv_norm_out', 1e-6)), 'encoder.conv_out', 2 * Z);

  // Of mean and variance only the mean is wanted: the first half of the last layer's rows.
  const rows = [0, Z] as const;
  const kernel = g.weight('quant_conv.weight', [2 * Z, 2 * Z, 1, 1], { rows });
  g.output('latent', g.conv(x, kernel, g.weight('quant_conv.bias', [2 * Z], { rows })));
  return g;
}

/**
 * T frames of one video. Input: `latents` [T, latent_channels, h, w], already divided by the scale. Output: `frames` [T, 3, 8h, 8w],
 * about [−1, 1]. What is spatial runs frame by frame where frames are large, so that its intermediate values take the memory of one and not
 * of T; where they are small it runs on all at once, which is faster.
 */
export function vaeDecoder(
  weights: SafeTensors,
  config: VaeConfig,
  { T, h, w }: { T: number; h: number; w: number },
  options?: GraphOptions,
): Graph {
  const g = createNetworkGraph(weights, options);
  const channels = config.block_out_channels.toReversed();
  const largest = channels.at(-1)! * h * w * 4 ** (channels.length - 1); // values of a frame

  /** A spatial layer: [T, C, H, W] → [T, out, …] */
  function spatially(x: Value, layer: (frames: Value) => Value): Value {
    const [, C, H, W] = x.shape as [number, number, number, number];
    return 4 * C * H * W >= largest ? oneByOne(g, x, layer) : layer(x);
  }
  const blockOptions = { T, epsilon: 1e-6, temporalEpsilon: 1e-5, spatially, switched: true };
  const block = (x: Value, name: string, C: number) => layers.spatioTemporalResBlock(g, x, name, C, blockOptions);

  let x = spatially(g.input('latents', [T, config.latent_channels, h, w]), (frames) =>
    conv2d(g, frames, 'decoder.conv_in', channels[0]!),
  );
  x = block(x, 'decoder.mid_block.resnets.0', channels[0]!);
  for (let j = 1; j < config.layers_per_block; j++) {
    if (j === 1) x = spatially(x, (frames) => attention(g, frames, 'decoder.mid_block.attentions.0'));
    x = block(x, `decoder.mid_block.resnets.${j}`, channels[0]!);
  }
  for (const [i, C] of channels.entries()) {
    for (let j = 0; j <= config.layers_per_block; j++) x = block(x, `decoder.up_blocks.${i}.resnets.${j}`, C);
    if (i < channels.length - 1)
      x = oneByOne(g, x, (frame) => layers.upsample(g, frame, `decoder.up_blocks.${i}.upsamplers.0.conv`));
  }
  const pictures = spatially(x, (frames) =>
    conv2d(g, silu(g, groupNorm(g, frames, 'decoder.conv_norm_out', 1e-6)), 'decoder.conv_out', config.out_channels),
  );
  const { videoOf, temporalConv, framesOf } = g.formulations;
  const smooth = temporalConv(g, videoOf(g, pictures, T), 'decoder.time_conv_out', config.out_channels, T);
  g.output('frames', framesOf(g, smooth, T));
  return g;
}

const residual = (g: NetworkGraph, x: Value, name: string, C: number) => layers.resnetBlock(g, x, name, C, 1e-6);

/** diffusers' Attention with one head, over all places of a picture. */
function attention(g: NetworkGraph, x: Value, name: string): Value {
  const rows = layers.rowsOf(g, groupNorm(g, x, `${name}.group_norm`, 1e-6));
  const attended = layers.selfAttention(g, rows, layers.attentionNames(name), x.shape[0]!, 1, true);
  return g.add(layers.picturesOf(g, attended, x.shape), x);
}
