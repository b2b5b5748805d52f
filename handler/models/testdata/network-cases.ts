/** For tests: what diffusers computed with each of the small model's networks. */
import type { Graph, GraphOptions } from '../../onnx/graph.ts';
import { clipVision } from '../../onnx/image-encoder.ts';
import { unet } from '../../onnx/unet.ts';
import { vaeDecoder, vaeEncoder } from '../../onnx/vae.ts';
import { timestepEmbedding } from '../svd/conditioning.ts';
import type { openFiles } from '../svd/files.ts';
import { reference, referenceNames } from './reference.ts';

export interface NetworkCase {
  /** as in reference.safetensors */
  name: string;
  graph(files: ReturnType<typeof openFiles>, options?: GraphOptions): Graph;
  feeds: Record<string, Float32Array>;
  expected: Float32Array;
}

const namesOf = (network: string) => [
  ...new Set(referenceNames.filter((name) => name.startsWith(`${network} `)).map((name) => name.split('/')[0]!)),
];

function unetCase(name: string): NetworkCase {
  const { shape, data: sample } = reference(`${name}/sample`);
  const [B, T, , h, w] = shape as [number, number, number, number, number];
  const added = new Float32Array(B * 96);
  for (const [i, id] of reference(`${name}/ids`).data.entries()) added.set(timestepEmbedding(id, 32), i * 32);
  const time = timestepEmbedding(reference(`${name}/timestep`).data[0]!, 64);
  return {
    name,
    graph: ({ weights, configs }, options) => unet(weights.unet, configs.unet, { B, T, h, w }, options),
    feeds: { sample, time, added, context: reference(`${name}/context`).data },
    expected: reference(`${name}/v`).data,
  };
}

function encoderCase(name: string): NetworkCase {
  const { shape, data: picture } = reference(`${name}/picture`);
  const [B, , H, W] = shape as [number, number, number, number];
  return {
    name,
    graph: ({ weights, configs }, options) => vaeEncoder(weights.vae, configs.vae, { B, H, W }, options),
    feeds: { picture },
    expected: reference(`${name}/latent`).data,
  };
}

function decoderCase(name: string): NetworkCase {
  const { shape, data: latents } = reference(`${name}/latents`);
  const [T, , h, w] = shape as [number, number, number, number];
  return {
    name,
    graph: ({ weights, configs }, options) => vaeDecoder(weights.vae, configs.vae, { T, h, w }, options),
    feeds: { latents },
    expected: reference(`${name}/frames`).data,
  };
}

export const NETWORK_CASES: NetworkCase[] = [
  ...namesOf('unet').map(unetCase),
  ...namesOf('encoder').map(encoderCase),
  ...namesOf('decoder').map(decoderCase),
  {
    name: 'clip',
    graph: ({ weights, configs }, options) => clipVision(weights.clip, configs.clip, options),
    feeds: { pixels: reference('clip/pixels').data },
    expected: reference('clip/embedding').data,
  },
];
