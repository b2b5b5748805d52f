/** The picture's embedding: transformers' CLIPVisionModelWithProjection (SVD's is ViT-H/14), from its config.json and weights. */
import * as v from 'valibot';
import { createNetworkGraph } from './formulations/index.ts';
import type { AttentionNames } from './formulations/types.ts';
import type { Graph, GraphOptions } from './graph.ts';
import { gelu, layerNorm, linear, quickGelu, selfAttention } from './layers.ts';
import type { SafeTensors } from './safetensors.ts';
import type { Value } from './value.ts';

const count = v.pipe(v.number(), v.integer(), v.minValue(1));

export const clipConfig = v.object({
  hidden_size: count,
  intermediate_size: count,
  projection_dim: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  image_size: count,
  patch_size: count,
  hidden_act: v.picklist(['gelu', 'quick_gelu']),
  layer_norm_eps: v.optional(v.number(), 1e-5),
});
export type ClipConfig = v.InferOutput<typeof clipConfig>;

/** Input: `pixels` [1, 3, image_size, image_size], normalised. Output: `embedding` [1, projection_dim]. */
export function clipVision(weights: SafeTensors, config: ClipConfig, options?: GraphOptions): Graph {
  const g = createNetworkGraph(weights, options);
  const { hidden_size: D, image_size, patch_size: P, layer_norm_eps: epsilon } = config;
  const side = image_size / P;
  const S = side * side + 1; // the patches, and before them the class token
  const activation = (x: Value) => (config.hidden_act === 'gelu' ? gelu(g, x) : quickGelu(g, x, 1.702));
  const of = (name: string) => `vision_model.${name}`;

  const pixels = g.input('pixels', [1, 3, image_size, image_size]);
  const kernel = g.weight(of('embeddings.patch_embedding.weight'), [D, 3, P, P]);
  const patches = g.conv(pixels, kernel, undefined, { strides: [P, P] });
  const rows = g.reshape(g.transpose(g.reshape(patches, [D, S - 1]), [1, 0]), [S - 1, D]);
  const classToken = g.weight(of('embeddings.class_embedding'), [D], { shape: [1, D] });
  let x = g.add(g.concat([classToken, rows], 0), g.weight(of('embeddings.position_embedding.weight'), [S, D]));
  x = layerNorm(g, x, of('pre_layrnorm'), epsilon); // so spelt in the weights

  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = of(`encoder.layers.${i}`);
    const names: AttentionNames = (part) => `${layer}.self_attn.${part}_proj`;
    const normal = layerNorm(g, x, `${layer}.layer_norm1`, epsilon);
    x = g.add(x, selfAttention(g, normal, names, 1, config.num_attention_heads, true));
    const second = layerNorm(g, x, `${layer}.layer_norm2`, epsilon);
    const inner = linear(g, second, `${layer}.mlp.fc1`, config.intermediate_size);
    x = g.add(x, linear(g, activation(inner), `${layer}.mlp.fc2`, D));
  }

  const [token] = g.split(x, 0, [1, S - 1]) as [Value, Value];
  const pooled = layerNorm(g, token, of('post_layernorm'), epsilon);
  g.output('embedding', linear(g, pooled, 'visual_projection', config.projection_dim, false));
  return g;
}
