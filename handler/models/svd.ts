/**
 * Stable Video Diffusion (Blattmann et al., arXiv:2311.15127): its four networks, run from the official files, and what stands between
 * them in Stability's and diffusers' pipelines. Preconditioning, conditioning and scales stay inside; samplers see latents only.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { JobError } from '../../core/job.ts';
import { createMutex } from '../../core/mutex.ts';
import { clipConfig, clipVision } from '../onnx/clip.ts';
import { usableMemory } from '../onnx/device.ts';
import type { Graph, GraphOptions } from '../onnx/graph.ts';
import { type Device, demand } from '../onnx/policy.ts';
import { openSafeTensors, type SafeTensors, WeightsError } from '../onnx/safetensors.ts';
import { OutOfMemory, type Session } from '../onnx/session.ts';
import { createSessions, type SessionsOptions } from '../onnx/session-cache.ts';
import { unet, unetConfig } from '../onnx/unet.ts';
import { vaeConfig, vaeDecoder, vaeEncoder } from '../onnx/vae.ts';
import type { Policy } from '../onnx/value.ts';
import type { Clip, ClipRequest, ClipSize, Model } from './model.ts';
import { clipResize } from './svd/clip-resize.ts';
import { addedTimeIds, timestepEmbedding } from './svd/conditioning.ts';
import { vPrediction } from './svd/preconditioning.ts';

const LATENT_SCALE = 8; // pixels a latent is wide and high
const SIDE = 64; // what a frame's height and width are multiples of
const CLIP_SIZE = 224;
/** written and kept, some MB each in the real size */
const GRAPHS = 16;
/** Of a clip's time: a network that is opened in less is not worth its memory until the next clip. */
const LITTLE = 1 / 200;

const extractorConfig = v.object({
  image_mean: v.pipe(v.array(v.number()), v.length(3)),
  image_std: v.pipe(v.array(v.number()), v.length(3)),
});

export interface SvdClip extends Clip {
  /** The decoded frames before they become bytes: [3, H, W] each, 0–1. */
  decodeFloat(x: Float32Array): AsyncGenerator<Float32Array>;
}

export interface SvdModel extends Model {
  /** Waits until the clip that is open has been closed. */
  open(request: ClipRequest): Promise<SvdClip>;
  /** Opens the sessions for clips of one size, so that the first job finds them. */
  preload(size: ClipSize & { decoding_t: number; steps: number }): Promise<void>;
  /** Frees the networks. */
  close(): Promise<void>;
}

export interface SvdOptions extends Partial<SessionsOptions> {
  /** default: the processor */
  device?: Device;
  /** bytes that may be used; default: as much as the machine allows */
  memory?: number;
}

/**
 * @param folder a model in the official layout: image_encoder, vae, unet, feature_extractor, each with its config and weights, in
 * single or half precision (`.fp16.safetensors`)
 * @throws WeightsError in one line: a missing or broken file, or a tensor that is missing or of another shape or type
 */
export function openSvd(
  folder: string,
  { device = 'cpu', memory = usableMemory(), ...options }: SvdOptions = {},
): SvdModel {
  const configs = {
    extractor: readConfig(join(folder, 'feature_extractor/preprocessor_config.json'), extractorConfig),
    clip: readConfig(join(folder, 'image_encoder/config.json'), clipConfig),
    vae: readConfig(join(folder, 'vae/config.json'), vaeConfig),
    unet: readConfig(join(folder, 'unet/config.json'), unetConfig),
  };
  const weights = {
    clip: openWeights(join(folder, 'image_encoder'), 'model', device),
    vae: openWeights(join(folder, 'vae'), 'diffusion_pytorch_model', device),
    unet: openWeights(join(folder, 'unet'), 'diffusion_pytorch_model', device),
  };
  checkConfigs(folder, configs);

  const suited = (policy: Policy): GraphOptions => ({ policy, precision: policy === 'cuda' ? 'float16' : 'float32' });
  const graphs = {
    clip: (policy: Policy) => clipVision(weights.clip, configs.clip, suited(policy)),
    // In half precision the encoder overflows, as diffusers' force_upcast knows.
    encoder: (policy: Policy, { H, W }: ClipSize) => vaeEncoder(weights.vae, configs.vae, { B: 1, H, W }, { policy }),
    unet: (policy: Policy, { T, H, W }: ClipSize) =>
      unet(weights.unet, configs.unet, { B: 1, T, h: H / LATENT_SCALE, w: W / LATENT_SCALE }, suited(policy)),
    decoder: (policy: Policy, { T, H, W }: ClipSize) =>
      vaeDecoder(weights.vae, configs.vae, { T, h: H / LATENT_SCALE, w: W / LATENT_SCALE }, suited(policy)),
  };
  type Network = keyof typeof graphs;
  const [bestPolicy, leastPolicy] =
    device === 'cuda' ? (['cuda', 'cuda'] as const) : (['prepacked', 'mapped'] as const);
  // Written once in small, so that a tensor that is missing or of another shape is found now and not by a job.
  for (const graph of Object.values(graphs)) graph(leastPolicy, { T: 1, H: 64, W: 64 });

  const sessions = createSessions({ device, memory, ...options });

  const needs = new Map<string, number>(); // graphs of the real size take a tenth of a second to write
  /** Bytes that a network needs at least, with what becomes of its output here. */
  function needOf(network: Network, { H, W, T }: ClipSize): number {
    const key = `${network} ${H} ${W} ${T}`;
    const known = needs.get(key);
    if (known !== undefined) return known;
    const graph = graphs[network](leastPolicy, { H, W, T });
    const output = graph.outputs[0]!.shape.reduce((product, size) => product * size, 1);
    const need = demand(graph).peak + (device === 'cpu' ? 2 * 4 * output : 0);
    needs.set(key, need);
    return need;
  }
  /** Bytes that a clip of this size can't do without, its frames being decoded one at a time. */
  function least({ H, W, T }: ClipSize): number {
    const one = { H, W, T: 1 };
    return Math.max(needOf('clip', one), needOf('encoder', one), needOf('decoder', one), needOf('unet', { H, W, T }));
  }
  /** The most frames, halved from `decoding_t`, that can be decoded at a time. */
  function chunkThatFits(size: ClipSize, decoding_t: number): number {
    let count = Math.min(decoding_t, size.T);
    while (count > 1 && needOf('decoder', { ...size, T: count }) > memory) count >>= 1;
    return count;
  }

  function check(size: ClipSize): void {
    const { H, W, T } = size;
    const needed = least(size);
    if (needed <= memory) return;
    const smaller: string[] = [];
    const frames = largest(T - 1, (T) => least({ ...size, T }) <= memory);
    if (frames) smaller.push(`T ${frames} at this size`);
    const sides = largest(Math.max(H, W) / SIDE - 1, (n) => least({ ...scaled(size, n), T }) <= memory);
    if (sides) smaller.push(`W ${scaled(size, sides).W}, H ${scaled(size, sides).H} with as many frames`);
    const fits = smaller.length > 0 ? `at most ${smaller.join(', or ')}` : 'no clip fits';
    const memories = `needs about ${inWords(needed)} of memory, and this worker has ${inWords(memory)}`;
    throw new JobError('out_of_memory', `W ${W}, H ${H}, T ${T} ${memories}: ${fits}`);
  }

  /** What a caller is told of an error: that memory ran out all the same, of which others may have taken some. */
  function understood(error: unknown, { H, W, T }: ClipSize): unknown {
    if (!(error instanceof OutOfMemory)) return error;
    const message = `memory ran out at W ${W}, H ${H}, T ${T}: a smaller size or fewer frames need less`;
    return new JobError('out_of_memory', message, { cause: error });
  }

  const written = new Map<string, Graph>(); // those of the last clips, which are often of one size
  const graphOf =
    (network: Network, { H, W, T }: ClipSize) =>
    (policy: Policy): Graph => {
      const key = `${network} ${policy} ${H} ${W} ${T}`;
      const graph = written.get(key) ?? graphs[network](policy, { H, W, T });
      written.delete(key);
      written.set(key, graph);
      if (written.size > GRAPHS) written.delete(written.keys().next().value!);
      return graph;
    };

  const networks = {
    clip: () => sessions.at('clip', graphOf('clip', { H: CLIP_SIZE, W: CLIP_SIZE, T: 1 }), { runs: 1 }),
    encoder: (size: ClipSize) => sessions.at('encoder', graphOf('encoder', { ...size, T: 1 }), { runs: 1 }),
    /** @param decoding_t frames that are decoded at a time afterwards */
    unet: (size: ClipSize, decoding_t: number, steps: number) => {
      const chunk = { ...size, T: chunkThatFits(size, decoding_t) };
      const beside = Math.max(needOf('decoder', chunk), demand(graphOf('decoder', chunk)(bestPolicy)).peak);
      return sessions.at('unet', graphOf('unet', size), { runs: 2 * steps, beside });
    },
    decoder: (size: ClipSize) => sessions.at('decoder', graphOf('decoder', size), { runs: 1 }),
  };

  // Clips share the networks' sessions, so one is open at a time; jobs beside it wait for their turn.
  const enter = createMutex();

  async function open(request: ClipRequest): Promise<SvdClip> {
    const leave = await enter(request.signal);
    try {
      return { ...(await openClip(request)), close: async () => leave() };
    } catch (error) {
      leave();
      throw understood(error, request);
    }
  }

  async function openClip(request: ClipRequest): Promise<Omit<SvdClip, 'close'>> {
    const { still, H, W, T, fps, motion_bucket_id, cond_aug, decoding_t, steps, randn, signal } = request;
    const size = { H, W, T };
    check(size);
    const [h, w] = [H / LATENT_SCALE, W / LATENT_SCALE];
    const Z = configs.vae.latent_channels;
    const plane = Z * h * w;

    // What the networks are told of the still. The augmentation's noise is the first that is drawn.
    const picture = toPlanes(still.data, H * W);
    const noise = randn(picture.length);
    const augmented = picture.map((value, i) => value + Math.fround(cond_aug * noise[i]!));
    const pixels = normalised(clipResize(still), configs.extractor);
    const embedding = await (await networks.clip()).run({ pixels });
    const encoder = await networks.encoder(size);
    const latent = await encoder.run({ picture: augmented });
    signal.throwIfAborted();

    const dim = configs.unet.addition_time_embed_dim;
    const added = new Float32Array(3 * dim);
    for (const [i, id] of addedTimeIds({ fps, motion_bucket_id, cond_aug }).entries())
      added.set(timestepEmbedding(id, dim), i * dim);
    const nothing = new Float32Array(embedding.length);
    let network: Session | undefined = await networks.unet(size, decoding_t, steps);

    const denoise = vPrediction(async (x, c_noise, conditional) => {
      // Each frame's noisy latent beside the still's, which the unconditional branch does not see.
      const sample = new Float32Array(T * 2 * plane);
      for (let t = 0; t < T; t++) {
        sample.set(x.subarray(t * plane, (t + 1) * plane), t * 2 * plane);
        if (conditional) sample.set(latent, (t * 2 + 1) * plane);
      }
      const time = timestepEmbedding(c_noise, configs.unet.block_out_channels[0]!);
      try {
        network ??= await networks.unet(size, decoding_t, steps);
        return await network.run({ sample, time, added, context: conditional ? embedding : nothing });
      } catch (error) {
        throw understood(error, size);
      }
    });

    const warnings: SvdClip['warnings'] = [];
    let little = 0; // milliseconds

    async function* decodeFloat(x: Float32Array) {
      const pixels = 3 * H * W;
      if (network) {
        little = LITTLE * 2 * steps * network.took.run;
        for (const session of [encoder, network]) await sessions.closeIfCheap(session, little);
        network = undefined; // the decoder may need its memory
      }
      let most = chunkThatFits(size, decoding_t);
      for (let from = 0; from < T; ) {
        signal.throwIfAborted();
        const count = Math.min(most, T - from);
        const latents = x
          .slice(from * plane, (from + count) * plane)
          .map((value) => value / configs.vae.scaling_factor);
        let frames: Float32Array;
        try {
          const decoder = await networks.decoder({ ...size, T: count });
          frames = await decoder.run({ latents });
          if (T - from - count < count) await sessions.closeIfCheap(decoder, little); // it was the last of this size
        } catch (error) {
          if (!(error instanceof OutOfMemory) || count === 1) throw understood(error, size);
          await sessions.closeAll(); // what others hold may be what was lacking
          most = count >> 1;
          continue;
        }
        for (let t = 0; t < count; t++)
          yield frames.slice(t * pixels, (t + 1) * pixels).map((value) => Math.min(1, Math.max(0, value / 2 + 0.5)));
        from += count;
      }
      const asked = Math.min(decoding_t, T);
      if (most < asked)
        warnings.push({ field: 'decoding_t', message: `memory is enough to decode ${most} at a time, not ${asked}` });
    }

    return {
      shape: [T, Z, h, w],
      denoise,
      decodeFloat,
      async *decode(x) {
        for await (const frame of decodeFloat(x)) yield toBytes(frame, H * W);
      },
      warnings,
    };
  }

  return {
    check,
    open,
    async preload({ decoding_t, steps, ...size }) {
      await networks.clip();
      await networks.encoder(size);
      await networks.unet(size, decoding_t, steps);
      await networks.decoder({ ...size, T: chunkThatFits(size, decoding_t) });
    },
    stillScale: 1,
    samplingShare: 0.8,
    generative: true,
    close: sessions.closeAll,
  };
}

const inWords = (bytes: number) =>
  bytes < 2 ** 30 ? `${Math.ceil(bytes / 2 ** 20)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The largest whole number from 1 to `limit` that fits, or 0; what is smaller than one that fits, fits too. */
function largest(limit: number, fits: (n: number) => boolean): number {
  let [from, to] = [0, Math.max(0, Math.floor(limit))];
  while (from < to) {
    const middle = (from + to + 1) >> 1;
    if (fits(middle)) from = middle;
    else to = middle - 1;
  }
  return from;
}

/** The size of about this aspect whose longer side is n·64. */
function scaled({ H, W }: ClipSize, n: number): { H: number; W: number } {
  const side = (length: number) => Math.max(1, Math.round((n * length) / Math.max(H, W))) * SIDE;
  return { H: side(H), W: side(W) };
}

/** rgb24 to [3, H·W] in [−1, 1], rounded to float32 where torch rounds */
function toPlanes(rgb: Uint8Array, pixels: number): Float32Array {
  const planes = new Float32Array(3 * pixels);
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) planes[c * pixels + i] = Math.fround(rgb[i * 3 + c]! / 255) * 2 - 1;
  return planes;
}

/** [3, H·W] in [0, 1] to rgb24, rounded half to even as diffusers does */
function toBytes(planes: Float32Array, pixels: number): Uint8Array {
  const rgb = new Uint8ClampedArray(3 * pixels);
  for (let i = 0; i < pixels; i++)
    for (let c = 0; c < 3; c++) rgb[i * 3 + c] = Math.fround(planes[c * pixels + i]! * 255);
  return new Uint8Array(rgb.buffer);
}

function normalised(
  pixels: Float32Array,
  { image_mean, image_std }: v.InferOutput<typeof extractorConfig>,
): Float32Array {
  const plane = CLIP_SIZE * CLIP_SIZE;
  return pixels.map((value, i) => {
    const channel = Math.floor(i / plane);
    return ((value + 1) / 2 - image_mean[channel]!) / image_std[channel]!;
  });
}

/**
 * A network's weights: where both are there, in single precision for a processor and in half for a GPU.
 * @throws WeightsError
 */
export function openWeights(folder: string, name: string, device: Device = 'cpu'): SafeTensors {
  const files = [`${name}.safetensors`, `${name}.fp16.safetensors`].map((file) => join(folder, file));
  if (device === 'cuda') files.reverse();
  return openSafeTensors(files.find((file) => existsSync(file)) ?? files[1]!);
}

function readConfig<S extends v.GenericSchema>(path: string, schema: S): v.InferOutput<S> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new WeightsError(path, 'can’t be read', { cause });
  }
  try {
    const { success, output, issues } = v.safeParse(schema, JSON.parse(text));
    if (success) return output;
    throw new WeightsError(path, issues.map((issue) => `${v.getDotPath(issue)}: ${issue.message}`).join('; '));
  } catch (cause) {
    if (cause instanceof WeightsError) throw cause;
    throw new WeightsError(path, 'is not JSON', { cause });
  }
}

/** What the networks must agree on. */
function checkConfigs(
  folder: string,
  {
    clip,
    vae,
    unet,
  }: {
    clip: v.InferOutput<typeof clipConfig>;
    vae: v.InferOutput<typeof vaeConfig>;
    unet: v.InferOutput<typeof unetConfig>;
  },
) {
  const wrong = (message: string) => {
    throw new WeightsError(folder, message);
  };
  const width = Array.isArray(unet.cross_attention_dim) ? unet.cross_attention_dim[0] : unet.cross_attention_dim;
  if (clip.image_size !== CLIP_SIZE) wrong(`image_encoder: image_size is ${clip.image_size}, not ${CLIP_SIZE}`);
  if (clip.projection_dim !== width) wrong(`image_encoder gives ${clip.projection_dim} numbers, unet takes ${width}`);
  if (unet.in_channels !== 2 * vae.latent_channels)
    wrong(`unet takes ${unet.in_channels} channels, not two latents of ${vae.latent_channels}`);
  if (unet.out_channels !== vae.latent_channels)
    wrong(`unet gives ${unet.out_channels} channels, not ${vae.latent_channels}`);
  if (unet.projection_class_embeddings_input_dim !== 3 * unet.addition_time_embed_dim)
    wrong('unet: the added embeddings are not three');
  if (vae.block_out_channels.length !== 4) wrong('vae: a latent is not an eighth of the picture');
}
