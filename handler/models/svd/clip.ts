import { formatCount } from '../../../core/format.ts';
import { JobError } from '../../../core/job.ts';
import { OutOfMemory } from '../../onnx/session.ts';
import { layersUp } from '../../onnx/unet.ts';
import type { Clip, ClipRequest } from '../model.ts';
import { clipResize } from './clip-resize.ts';
import { addedTimeIds, timestepEmbedding } from './conditioning.ts';
import { evaluate, type FeatureCache, type Features, type UnetSessions } from './feature-cache.ts';
import { LATENT_SCALE } from './graphs.ts';
import { type Networks, toJobError } from './networks.ts';
import { standardize, toBytes, toPlanes } from './pixels.ts';
import { vPrediction } from './preconditioning.ts';

/**
 * A share of a clip's sampling time. After sampling, networks that reopen within it are closed: the decoder can use their memory, and
 * reopening them for the next clip costs little.
 */
const MAX_REOPEN_SHARE = 1 / 200;

export interface SvdClip extends Clip {
  /** The decoded frames before they become bytes: [3, H, W] each, 0–1. */
  decodeFloat(x: Float32Array): AsyncGenerator<Float32Array>;
}

/**
 * Opens a still: what stands around the networks in Stability's and diffusers' pipelines.
 * @throws OutOfMemory; JobError: the clip's UNet is missing, or a clip of this size never fits
 */
export async function openClip(networks: Networks, request: ClipRequest): Promise<Omit<SvdClip, 'close'>> {
  const { H, W, T, decoding_t, steps, signal, unet: unetName } = request;
  const size = { H, W, T };
  networks.check(request);
  const { vae, unet } = networks.configs;
  const cache = cacheOf(request, layersUp(unet));
  const [h, w, Z] = [H / LATENT_SCALE, W / LATENT_SCALE, vae.latent_channels];
  const plane = Z * h * w; // values of a frame's latent

  const still = await encodeStill(networks, request);
  signal.throwIfAborted();
  const added = embedAddedTimeIds(request, unet.addition_time_embed_dim);
  const openUnet = () => networks.unet({ ...size, unet: unetName }, decoding_t, steps, cache);
  let sessions: UnetSessions | undefined = await openUnet();
  const features: Features = new Map();
  let reopenLimit = 0; // milliseconds
  const warnings: SvdClip['warnings'] = [];
  if (cache && !sessions.shallow) {
    const message = 'memory is not enough to keep features of the network, so every step runs all of it';
    warnings.push({ field: 'cache_interval', message });
  }

  const denoise = vPrediction(async (x, c_noise, conditional, step) => {
    // Each frame's noisy latent, then the still's, which the unconditional branch does not get.
    const sample = new Float32Array(T * 2 * plane);
    for (let t = 0; t < T; t++) {
      sample.set(x.subarray(t * plane, (t + 1) * plane), t * 2 * plane);
      if (conditional) sample.set(still.latent, (t * 2 + 1) * plane);
    }
    const time = timestepEmbedding(c_noise, unet.block_out_channels[0]!);
    const context = conditional ? still.embedding : new Float32Array(still.embedding.length);
    try {
      sessions ??= await openUnet();
      const when = { conditional, step, interval: cache?.interval ?? 1 };
      return await evaluate(sessions, { sample, time, added, context }, features, when);
    } catch (error) {
      throw toJobError(error, size);
    }
  });

  /** Closes the networks of sampling that reopen fast, so that the decoder can use their memory. */
  async function endSampling(): Promise<void> {
    if (!sessions) return;
    features.clear();
    reopenLimit = MAX_REOPEN_SHARE * 2 * steps * sessions.whole.timings.run;
    for (const used of [still.encoder, ...Object.values(sessions)]) await networks.closeIfCheap(used, reopenLimit);
    sessions = undefined;
  }

  async function* decodeFloat(x: Float32Array) {
    await endSampling();
    let most = networks.framesAtATime(size, decoding_t);
    for (let from = 0; from < T; ) {
      signal.throwIfAborted();
      const count = Math.min(most, T - from);
      const latents = x.slice(from * plane, (from + count) * plane).map((value) => value / vae.scaling_factor);
      let frames: Float32Array;
      try {
        const decoder = await networks.decoder({ ...size, T: count });
        frames = await decoder.run({ latents });
        if (T - from - count < count) await networks.closeIfCheap(decoder, reopenLimit); // it was the last of this size
      } catch (error) {
        if (!(error instanceof OutOfMemory) || count === 1) throw toJobError(error, size);
        await networks.closeAll(); // other sessions may hold what was lacking
        most = count >> 1;
        continue;
      }
      const values = frames.length / count;
      for (let t = 0; t < count; t++)
        yield frames.slice(t * values, (t + 1) * values).map((value) => Math.min(1, Math.max(0, value / 2 + 0.5)));
      from += count;
    }
    const wanted = Math.min(decoding_t, T);
    if (most < wanted)
      warnings.push({
        field: 'decoding_t',
        message: `memory is enough to decode ${formatCount(most, 'frame')} at a time, not ${wanted}`,
      });
  }

  return {
    shape: [T, Z, h, w],
    denoise,
    decodeFloat,
    async *decode(x) {
      for await (const frame of decodeFloat(x)) yield toBytes(frame);
    },
    warnings,
  };
}

/** @param layers the UNet's on its way up. @throws JobError */
function cacheOf({ cache_interval = 1, cache_depth = 1 }: ClipRequest, layers: number): FeatureCache | undefined {
  if (cache_interval === 1) return undefined;
  if (cache_depth < layers) return { interval: cache_interval, depth: cache_depth };
  throw new JobError('invalid_input', `cache_depth: must be from 1 to ${layers - 1} with this model`);
}

/** CLIP's embedding of the still, and its latent with the augmentation's noise, the first that is drawn. */
async function encodeStill(networks: Networks, { still, cond_aug, randn, H, W, T }: ClipRequest) {
  const picture = toPlanes(still.data);
  const noise = randn(picture.length);
  const augmented = picture.map((value, i) => value + Math.fround(cond_aug * noise[i]!));
  const { image_mean, image_std } = networks.configs.extractor;
  const pixels = standardize(clipResize(still), image_mean, image_std);
  const embedding = await (await networks.clip()).run({ pixels });
  const encoder = await networks.encoder({ H, W, T });
  return { embedding, encoder, latent: await encoder.run({ picture: augmented }) };
}

function embedAddedTimeIds(request: ClipRequest, dim: number): Float32Array {
  const added = new Float32Array(3 * dim);
  for (const [i, id] of addedTimeIds(request).entries()) added.set(timestepEmbedding(id, dim), i * dim);
  return added;
}
