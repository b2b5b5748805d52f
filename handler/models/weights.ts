/** Finds a model's files: in MODEL_DIR, in Hugging Face's cache, or on a RunPod volume. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ModelName } from '../../core/presets.ts';

/** Each model's repository on the Hugging Face hub. */
export const REPOSITORIES = {
  svd: 'stabilityai/stable-video-diffusion-img2vid',
  svd_xt: 'stabilityai/stable-video-diffusion-img2vid-xt',
  svd_xt_1_1: 'stabilityai/stable-video-diffusion-img2vid-xt-1-1',
  animatelcm_svd_xt: 'stabilityai/stable-video-diffusion-img2vid-xt',
} satisfies Record<Exclude<ModelName, 'camera'>, string>;

export type WeightsName = keyof typeof REPOSITORIES;

/** The repository and file of models that have only a UNet of their own. It is in single precision, and takes the place of the other one. */
export const UNETS: Partial<Record<WeightsName, { repository: string; file: string }>> = {
  animatelcm_svd_xt: { repository: 'wangfuyun/AnimateLCM-SVD-xt', file: 'AnimateLCM-SVD-xt.safetensors' },
};

/** The other files that `openSvd` reads. */
export const CONFIGS = [
  'feature_extractor/preprocessor_config.json',
  'image_encoder/config.json',
  'vae/config.json',
  'unet/config.json',
];

/** The networks' weights, without the suffix for the precision. */
const WEIGHTS = ['image_encoder/model', 'vae/diffusion_pytorch_model', 'unet/diffusion_pytorch_model'];
/** Those that a model has in REPOSITORIES. */
export const weightsOf = (model: WeightsName) => WEIGHTS.filter((stem) => !UNETS[model] || !stem.startsWith('unet/'));
export const SUFFIXES = { fp16: '.fp16.safetensors', fp32: '.safetensors' };

/** Where RunPod mounts a network volume. A serverless worker's volume has RunPod's cached models too. */
export const VOLUMES = { serverless: '/runpod-volume', pod: '/workspace' };

/** The Hugging Face cache on a serverless worker's volume. */
export const volumeCache = (volumes = VOLUMES) => join(volumes.serverless, 'huggingface-cache/hub');

/** A model's files. */
export interface FoundWeights {
  /** for `openSvd` */
  folder: string;
  /** the UNet's file, if it is not the one in the folder */
  unet?: string;
  /** what kind of place the folder is */
  source: string;
}

/**
 * Looks for a model in MODEL_DIR, and only there if it is set; else in Hugging Face's cache, among RunPod's cached models and on network
 * volumes. A folder counts if it has every file that the worker needs. A UNet of its own is in the folder `unet` of MODEL_DIR or of a
 * network volume's folder, or in a cache.
 * @throws Error that names MODEL_DIR or every place, and what it lacks
 */
export function findWeights(model: WeightsName, env: NodeJS.ProcessEnv, volumes = VOLUMES): FoundWeights {
  const own = UNETS[model];
  const unets = unetPlaces(model, env, volumes);
  if (env.MODEL_DIR) {
    const problem = findProblem(env.MODEL_DIR, model, own ? [join('unet', own.file)] : []);
    if (problem) throw new Error(`MODEL_DIR ${env.MODEL_DIR} ${problem}`);
    return { folder: env.MODEL_DIR, source: 'MODEL_DIR', ...(own && { unet: unets[0]! }) };
  }
  const places = placesOf(REPOSITORIES[model], model, env, volumes);
  const found = places.find(({ folder }) => !findProblem(folder, model));
  const unet = unets.find((path) => existsSync(path));
  if (found && (!own || unet)) return { folder: found.folder, source: found.source, ...(unet && { unet }) };
  const problems = [
    ...(found ? [] : places.map(({ folder }) => `  ${folder} ${findProblem(folder, model)}`)),
    ...(unet ? [] : unets.map((path) => `  ${path} is not there`)),
  ];
  const start = `the files of ${model} are in none of these places; npm run models -- ${model} downloads them:`;
  throw new Error([start, ...problems].join('\n'));
}

/** The file of a model's own UNet, or undefined. It is looked for where `findWeights` does, whether or not the other files are there. */
export const findUnet = (model: WeightsName, env: NodeJS.ProcessEnv, volumes = VOLUMES): string | undefined =>
  unetPlaces(model, env, volumes).find((path) => existsSync(path));

/** Where the file of a model's own UNet may be, the best first; nowhere if it has none. */
function unetPlaces(model: WeightsName, env: NodeJS.ProcessEnv, volumes: typeof VOLUMES): string[] {
  const own = UNETS[model];
  if (!own) return [];
  if (env.MODEL_DIR) return [join(env.MODEL_DIR, 'unet', own.file)];
  return placesOf(own.repository, model, env, volumes).map(({ folder, isCache }) =>
    join(folder, isCache ? '' : 'unet', own.file),
  );
}

/** The folders where files of a repository may be, the best first. */
function placesOf(repository: string, model: WeightsName, env: NodeJS.ProcessEnv, volumes: typeof VOLUMES) {
  const cached = cacheName(repository);
  const onVolumes = [volumes.serverless, volumes.pod].flatMap((volume) =>
    [repository.split('/')[1]!, model].map((name) => join(volume, 'models', name)),
  );
  const inCache = (cache: string, source: string) =>
    snapshots(join(cache, cached)).map((folder) => ({ folder, source, isCache: true }));
  return [
    ...inCache(hubCache(env), 'Hugging Face cache'),
    ...inCache(volumeCache(volumes), 'RunPod cached model'),
    ...onVolumes.map((folder) => ({ folder, source: 'network volume', isCache: false })),
  ];
}

/** Why a folder is not a model, or undefined. @param others files that it also must have */
function findProblem(folder: string, model: WeightsName, others: readonly string[] = []): string | undefined {
  if (!existsSync(folder)) return 'is not there';
  const has = (path: string) => existsSync(join(folder, path)); // false for a broken link
  const hasWeights = (stem: string) => Object.values(SUFFIXES).some((suffix) => has(stem + suffix));
  const missing = [
    ...CONFIGS.filter((path) => !has(path)),
    ...weightsOf(model)
      .filter((stem) => !hasWeights(stem))
      .map((stem) => stem + SUFFIXES.fp32),
    ...others.filter((path) => !has(path)),
  ];
  return missing.length > 0 ? `lacks ${missing.join(', ')}` : undefined;
}

/**
 * A repository's snapshots in a cache: first the one that refs/main names, then the newest. refs/main may name a snapshot that is only
 * partly downloaded. Without any, the folder for snapshots itself.
 */
function snapshots(cached: string): string[] {
  const folder = join(cached, 'snapshots');
  const main = valueOrUndefined(() => readFileSync(join(cached, 'refs/main'), 'utf8').trim());
  const rank = (name: string) => (name === main ? Infinity : statSync(join(folder, name)).mtimeMs);
  const names = valueOrUndefined(() => readdirSync(folder).sort((a, b) => rank(b) - rank(a))) ?? [];
  return names.length > 0 ? names.map((name) => join(folder, name)) : [folder];
}

function valueOrUndefined<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined; // missing or unreadable: for a search the same
  }
}

/** A repository's folder in a Hugging Face cache. */
export const cacheName = (repository: string) => `models--${repository.replaceAll('/', '--')}`;

/** Hugging Face's cache of repositories, by the variables of its Python library and in their order. */
export const hubCache = (env: NodeJS.ProcessEnv) =>
  expandHome(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hubHome(env), 'hub'), env);

/** The folder where Hugging Face's tools keep their cache and token. */
export const hubHome = (env: NodeJS.ProcessEnv) =>
  expandHome(env.HF_HOME || join(env.XDG_CACHE_HOME || '~/.cache', 'huggingface'), env);

const expandHome = (path: string, env: NodeJS.ProcessEnv) => path.replace(/^~(?=\/|$)/, env.HOME || homedir());
