/** Where a model's files lie: in the folder that MODEL_DIR names, in Hugging Face's cache, or on a RunPod volume. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ModelName } from '../../core/presets.ts';

/** Each model's repository on the Hugging Face hub. */
export const REPOSITORIES = {
  svd: 'stabilityai/stable-video-diffusion-img2vid',
  svd_xt: 'stabilityai/stable-video-diffusion-img2vid-xt',
  svd_xt_1_1: 'stabilityai/stable-video-diffusion-img2vid-xt-1-1',
} satisfies Record<Exclude<ModelName, 'camera'>, string>;

export type WeightsName = keyof typeof REPOSITORIES;

/** What `openSvd` reads beside the weights. */
export const CONFIGS = [
  'feature_extractor/preprocessor_config.json',
  'image_encoder/config.json',
  'vae/config.json',
  'unet/config.json',
];

/** The networks' weights, to which a suffix is added. */
export const WEIGHTS = ['image_encoder/model', 'vae/diffusion_pytorch_model', 'unet/diffusion_pytorch_model'];
export const SUFFIXES = { fp16: '.fp16.safetensors', fp32: '.safetensors' };

/** Where RunPod mounts a network volume; on a serverless worker its cached models are there too. */
export const VOLUMES = { serverless: '/runpod-volume', pod: '/workspace' };

/** A Hugging Face cache on the serverless one. */
export const volumeCache = (volumes = VOLUMES) => join(volumes.serverless, 'huggingface-cache/hub');

/**
 * Looks for a model in MODEL_DIR, and only there if it is set; else in Hugging Face's cache, among RunPod's cached models and on
 * network volumes. A place counts where every file is there that the worker needs.
 * @returns the folder for `openSvd`, and in a few words where that was found
 * @throws Error that names MODEL_DIR or every place, and what it lacks
 */
export function findWeights(
  model: WeightsName,
  env: NodeJS.ProcessEnv,
  volumes = VOLUMES,
): { folder: string; source: string } {
  if (env.MODEL_DIR) {
    const wrong = shortcoming(env.MODEL_DIR);
    if (wrong) throw new Error(`MODEL_DIR ${env.MODEL_DIR} ${wrong}`);
    return { folder: env.MODEL_DIR, source: 'MODEL_DIR' };
  }
  const repository = REPOSITORIES[model];
  const cached = cacheName(repository);
  const names = [repository.split('/')[1]!, model];
  const places = [
    ...snapshots(join(hubCache(env), cached)).map((folder) => ({ folder, source: 'Hugging Face cache' })),
    ...snapshots(join(volumeCache(volumes), cached)).map((folder) => ({ folder, source: 'RunPod cached model' })),
    ...[volumes.serverless, volumes.pod].flatMap((volume) =>
      names.map((name) => ({ folder: join(volume, 'models', name), source: 'network volume' })),
    ),
  ];
  const found = places.find(({ folder }) => !shortcoming(folder));
  if (found) return found;
  const seen = places.map(({ folder }) => `  ${folder} ${shortcoming(folder)}`).join('\n');
  throw new Error(`the files of ${model} are in none of these places; npm run models -- ${model} gets them:\n${seen}`);
}

/** What keeps a folder from being a model, if anything does. */
function shortcoming(folder: string): string | undefined {
  if (!existsSync(folder)) return 'is not there';
  const has = (path: string) => existsSync(join(folder, path)); // a link that leads nowhere is not there
  const missing = [
    ...CONFIGS.filter((path) => !has(path)),
    ...WEIGHTS.filter((stem) => !Object.values(SUFFIXES).some((suffix) => has(stem + suffix))).map(
      (stem) => `${stem}.safetensors`,
    ),
  ];
  return missing.length > 0 ? `lacks ${missing.join(', ')}` : undefined;
}

/**
 * A repository's snapshots in a cache: first the one that refs/main names, then the newest, for main may have moved on to one of
 * which somebody fetched only a part. The folder for snapshots itself stands in where there is none.
 */
function snapshots(cached: string): string[] {
  const folder = join(cached, 'snapshots');
  const main = attempt(() => readFileSync(join(cached, 'refs/main'), 'utf8').trim());
  const time = (name: string) => statSync(join(folder, name)).mtimeMs;
  const names = attempt(() => readdirSync(folder).sort((a, b) => time(b) - time(a))) ?? [];
  const sorted = [...names.filter((name) => name === main), ...names.filter((name) => name !== main)];
  return sorted.length > 0 ? sorted.map((name) => join(folder, name)) : [folder];
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined; // not there, or not readable: for a search the same
  }
}

/** A repository's folder in a Hugging Face cache. */
export const cacheName = (repository: string) => `models--${repository.replaceAll('/', '--')}`;

/** Hugging Face's cache of repositories, by the variables of its Python library and in their order. */
export function hubCache(env: NodeJS.ProcessEnv): string {
  return expandHome(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hubHome(env), 'hub'), env);
}

/** The folder where Hugging Face's tools keep their cache and token. */
export function hubHome(env: NodeJS.ProcessEnv): string {
  return expandHome(env.HF_HOME || join(env.XDG_CACHE_HOME || '~/.cache', 'huggingface'), env);
}

const expandHome = (path: string, env: NodeJS.ProcessEnv) => path.replace(/^~(?=\/|$)/, env.HOME || homedir());
