import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { clipConfig } from '../../onnx/image-encoder.ts';
import { openSafeTensors, type SafeTensors, WeightsError } from '../../onnx/safetensors.ts';
import { unetConfig } from '../../onnx/unet.ts';
import { vaeConfig } from '../../onnx/vae.ts';
import { CLIP_SIZE } from './clip-resize.ts';

const extractorConfig = v.object({
  image_mean: v.pipe(v.array(v.number()), v.length(3)),
  image_std: v.pipe(v.array(v.number()), v.length(3)),
});

export interface FileOptions {
  /** whether weights in half precision are preferred, if both are there */
  half?: boolean | undefined;
  /** file of the UNet's weights; default: the one in the folder */
  unet?: string | undefined;
}

/**
 * A model's configs and weights.
 * @throws WeightsError: a missing or broken file, or networks that don't fit together
 */
export function openFiles(folder: string, { half = false, unet }: FileOptions = {}) {
  const configs = {
    extractor: readConfig(join(folder, 'feature_extractor/preprocessor_config.json'), extractorConfig),
    clip: readConfig(join(folder, 'image_encoder/config.json'), clipConfig),
    vae: readConfig(join(folder, 'vae/config.json'), vaeConfig),
    unet: readConfig(join(folder, 'unet/config.json'), unetConfig),
  };
  const weights = {
    clip: openWeights(join(folder, 'image_encoder'), 'model', half),
    vae: openWeights(join(folder, 'vae'), 'diffusion_pytorch_model', half),
    unet:
      unet === undefined ? openWeights(join(folder, 'unet'), 'diffusion_pytorch_model', half) : openSafeTensors(unet),
  };
  const mismatch = findMismatch(configs);
  if (mismatch) throw new WeightsError(folder, mismatch);
  return { configs, weights };
}
export type Configs = ReturnType<typeof openFiles>['configs'];

/**
 * A network's weights.
 * @throws WeightsError
 */
export function openWeights(folder: string, name: string, half = false): SafeTensors {
  const files = [`${name}.safetensors`, `${name}.fp16.safetensors`].map((file) => join(folder, file));
  if (half) files.reverse();
  return openSafeTensors(files.find((file) => existsSync(file)) ?? files[1]!);
}

function readConfig<S extends v.GenericSchema>(path: string, schema: S): v.InferOutput<S> {
  const attempt = <T>(read: () => T, message: string): T => {
    try {
      return read();
    } catch (cause) {
      throw new WeightsError(path, message, { cause });
    }
  };
  const text = attempt(() => readFileSync(path, 'utf8'), 'can’t be read');
  const { success, output, issues } = v.safeParse(
    schema,
    attempt(() => JSON.parse(text), 'is not JSON'),
  );
  if (success) return output;
  throw new WeightsError(path, issues.map((issue) => `${v.getDotPath(issue)}: ${issue.message}`).join('; '));
}

/** Where the networks do not fit together. */
function findMismatch({ clip, vae, unet }: Omit<Configs, 'extractor'>): string | undefined {
  const width = [unet.cross_attention_dim].flat()[0];
  if (clip.image_size !== CLIP_SIZE) return `image_encoder: image_size is ${clip.image_size}, not ${CLIP_SIZE}`;
  if (clip.projection_dim !== width) return `image_encoder gives ${clip.projection_dim} numbers, unet takes ${width}`;
  if (unet.in_channels !== 2 * vae.latent_channels)
    return `unet takes ${unet.in_channels} channels, not two latents of ${vae.latent_channels}`;
  if (unet.out_channels !== vae.latent_channels)
    return `unet gives ${unet.out_channels} channels, not ${vae.latent_channels}`;
  if (unet.projection_class_embeddings_input_dim !== 3 * unet.addition_time_embed_dim)
    return 'unet: the added embeddings are not three';
  return vae.block_out_channels.length === 4 ? undefined : 'vae: a latent is not an eighth of the picture';
}
