/**
 * Stable Video Diffusion (Blattmann et al., arXiv:2311.15127): its four networks, run from the official files, and what stands between
 * them in Stability's and diffusers' pipelines. Preconditioning, conditioning and scales stay inside; samplers see latents only.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { clipConfig, clipVision } from '../onnx/clip.ts';
import type { Graph } from '../onnx/graph.ts';
import { openSafeTensors, type SafeTensors, WeightsError } from '../onnx/safetensors.ts';
import { openSession, type Session, type SessionOptions } from '../onnx/session.ts';
import { unet, unetConfig } from '../onnx/unet.ts';
import { vaeConfig, vaeDecoder, vaeEncoder } from '../onnx/vae.ts';
import { clipResize } from '../svd/clip-resize.ts';
import { addedTimeIds, timestepEmbedding } from '../svd/conditioning.ts';
import { vPrediction } from '../svd/denoiser.ts';
import { createTurns } from '../turns.ts';
import type { Clip, ClipRequest, Model } from './model.ts';

const LATENT_SCALE = 8; // pixels a latent is wide and high
const CLIP_SIZE = 224;

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
  /** Frees the networks. */
  close(): Promise<void>;
}

/**
 * @param folder a model in the official layout: image_encoder, vae, unet, feature_extractor, each with its config and weights, in
 * single or half precision (`.fp16.safetensors`)
 * @throws WeightsError in one line: a missing or broken file, or a tensor that is missing or of another shape or type
 */
export function openSvd(folder: string, options: SessionOptions = {}): SvdModel {
  const configs = {
    extractor: readConfig(join(folder, 'feature_extractor/preprocessor_config.json'), extractorConfig),
    clip: readConfig(join(folder, 'image_encoder/config.json'), clipConfig),
    vae: readConfig(join(folder, 'vae/config.json'), vaeConfig),
    unet: readConfig(join(folder, 'unet/config.json'), unetConfig),
  };
  const weights = {
    clip: openWeights(join(folder, 'image_encoder'), 'model'),
    vae: openWeights(join(folder, 'vae'), 'diffusion_pytorch_model'),
    unet: openWeights(join(folder, 'unet'), 'diffusion_pytorch_model'),
  };
  checkConfigs(folder, configs);

  const graphs = {
    clip: () => clipVision(weights.clip, configs.clip),
    encoder: (shape: { H: number; W: number }) => vaeEncoder(weights.vae, configs.vae, { B: 1, ...shape }),
    unet: (shape: { T: number; h: number; w: number }) => unet(weights.unet, configs.unet, { B: 1, ...shape }),
    decoder: (shape: { T: number; h: number; w: number }) => vaeDecoder(weights.vae, configs.vae, shape),
  };
  // Written once in small, so that a tensor that is missing or of another shape is found now and not by a job.
  graphs.clip();
  graphs.encoder({ H: 64, W: 64 });
  graphs.unet({ T: 1, h: 8, w: 8 });
  graphs.decoder({ T: 1, h: 8, w: 8 });

  const sessions = {
    clip: oneSession(graphs.clip, options),
    encoder: oneSession(graphs.encoder, options),
    unet: oneSession(graphs.unet, options),
    decoder: oneSession(graphs.decoder, options),
  };

  // Clips share the networks' sessions, so one is open at a time; jobs beside it wait for their turn.
  const enter = createTurns();

  async function open(request: ClipRequest): Promise<SvdClip> {
    const leave = await enter(request.signal);
    try {
      return { ...(await openClip(request)), close: async () => leave() };
    } catch (error) {
      leave();
      throw error;
    }
  }

  async function openClip({
    still,
    H,
    W,
    T,
    fps,
    motion_bucket_id,
    cond_aug,
    decoding_t,
    randn,
    signal,
  }: ClipRequest): Promise<Omit<SvdClip, 'close'>> {
    const [h, w] = [H / LATENT_SCALE, W / LATENT_SCALE];
    const Z = configs.vae.latent_channels;
    const plane = Z * h * w;

    // What the networks are told of the still. The augmentation's noise is the first that is drawn.
    const picture = toPlanes(still.data, H * W);
    const noise = randn(picture.length);
    const augmented = picture.map((value, i) => value + Math.fround(cond_aug * noise[i]!));
    const pixels = normalised(clipResize(still), configs.extractor);
    const embedding = await (await sessions.clip.at({})).run({ pixels });
    const latent = await (await sessions.encoder.at({ H, W })).run({ picture: augmented });
    signal.throwIfAborted();

    const dim = configs.unet.addition_time_embed_dim;
    const added = new Float32Array(3 * dim);
    for (const [i, id] of addedTimeIds({ fps, motion_bucket_id, cond_aug }).entries())
      added.set(timestepEmbedding(id, dim), i * dim);
    const nothing = new Float32Array(embedding.length);
    const network = await sessions.unet.at({ T, h, w });

    const denoise = vPrediction(async (x, c_noise, conditional) => {
      // Each frame's noisy latent beside the still's, which the unconditional branch does not see.
      const sample = new Float32Array(T * 2 * plane);
      for (let t = 0; t < T; t++) {
        sample.set(x.subarray(t * plane, (t + 1) * plane), t * 2 * plane);
        if (conditional) sample.set(latent, (t * 2 + 1) * plane);
      }
      const time = timestepEmbedding(c_noise, configs.unet.block_out_channels[0]!);
      return network.run({ sample, time, added, context: conditional ? embedding : nothing });
    });

    async function* decodeFloat(x: Float32Array) {
      const size = 3 * H * W;
      for (let from = 0; from < T; from += decoding_t) {
        signal.throwIfAborted();
        const count = Math.min(decoding_t, T - from);
        const latents = x
          .slice(from * plane, (from + count) * plane)
          .map((value) => value / configs.vae.scaling_factor);
        const decoder = await sessions.decoder.at({ T: count, h, w });
        const frames = await decoder.run({ latents });
        for (let t = 0; t < count; t++)
          yield frames.slice(t * size, (t + 1) * size).map((value) => Math.min(1, Math.max(0, value / 2 + 0.5)));
      }
    }

    return {
      shape: [T, Z, h, w],
      denoise,
      decodeFloat,
      async *decode(x) {
        for await (const frame of decodeFloat(x)) yield toBytes(frame, H * W);
      },
    };
  }

  return {
    open,
    stillScale: 1,
    samplingShare: 0.8,
    generative: true,
    async close() {
      for (const session of Object.values(sessions)) await session.close();
    },
  };
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

/** Keeps the session for the shape that was asked for last; a failure to open one is not kept. */
function oneSession<Shape extends object>(build: (shape: Shape) => Graph, options: SessionOptions) {
  let current: { key: string; session: Promise<Session> } | undefined;

  async function close() {
    const closing = current;
    current = undefined;
    await (await closing?.session.catch(() => undefined))?.close(); // one that never opened needs no closing
  }

  return {
    async at(shape: Shape): Promise<Session> {
      const key = JSON.stringify(shape);
      if (current?.key === key) return current.session;
      await close();
      const opening = { key, session: (async () => openSession(build(shape), options))() };
      current = opening;
      opening.session.catch(() => {
        if (current === opening) current = undefined;
      });
      return opening.session;
    },
    close,
  };
}

/**
 * A network's weights, in single precision where they are there, else in half.
 * @throws WeightsError
 */
export function openWeights(folder: string, name: string): SafeTensors {
  try {
    return openSafeTensors(join(folder, `${name}.safetensors`));
  } catch (error) {
    const isMissing =
      error instanceof WeightsError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT';
    if (!isMissing) throw error;
    return openSafeTensors(join(folder, `${name}.fp16.safetensors`));
  }
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
