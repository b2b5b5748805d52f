/** A worker's model on a machine that may be new: what is missing is downloaded before the worker starts. */
import { accessSync, constants, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createLog } from '../../core/log.ts';
import { cacheName, findWeights, REPOSITORIES, VOLUMES, volumeCache } from '../../handler/models/weights.ts';
import { fetchModel } from '../tools/models.ts';

/**
 * Downloads the model's files unless the worker finds them: onto the network volume, which other workers share, or else into Hugging
 * Face's cache. Of several workers on one volume one downloads, and the others wait.
 * @param name of a model; for one without files nothing happens
 * @throws Error in one line: MODEL_DIR is incomplete, or the download failed
 */
export async function ensureWeights(name: string, env: NodeJS.ProcessEnv, volumes = VOLUMES): Promise<void> {
  if (!isWeightsName(name)) return; // the worker itself reports a wrong MODEL
  try {
    findWeights(name, env, volumes);
    return;
  } catch (error) {
    if (env.MODEL_DIR) throw error;
  }
  const log = createLog(env);
  const cache = sharedCache(REPOSITORIES[name], env, volumes, (text) => log.warn(text));
  log.info({ model: name, ...(cache && { cache }) }, 'fetching weights');
  const out = process.stdout.isTTY ? process.stdout : { write: (text: string) => log.info(text.trim()) };
  await fetchModel(name, cache ? { cache } : {}, { env, out });
}

const isWeightsName = (name: string): name is keyof typeof REPOSITORIES => Object.hasOwn(REPOSITORIES, name);

/** @returns the cache on the network volume, unless there is none, it is read-only, or another cache is configured */
function sharedCache(
  repository: string,
  env: NodeJS.ProcessEnv,
  volumes: typeof VOLUMES,
  warn: (text: string) => void,
): string | undefined {
  if (env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || !existsSync(volumes.serverless)) return undefined;
  const cache = volumeCache(volumes);
  const folder = join(cache, cacheName(repository));
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return cache;
  } catch (error) {
    warn(`the network volume is not writable, so each worker downloads its own weights: ${(error as Error).message}`);
    return undefined;
  }
}
