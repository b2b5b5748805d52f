/** A worker's model where it is not there yet: on a machine that was rented a moment ago nobody has fetched it. */
import { accessSync, constants, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createLog } from '../../core/log.ts';
import { cacheName, findWeights, REPOSITORIES, VOLUMES, volumeCache } from '../../handler/models/weights.ts';
import { main } from '../tools/models.ts';

/**
 * Fetches the model's files unless the worker finds them: onto the network volume, for all workers that share it and for the next
 * ones, else into Hugging Face's cache. Of several workers on one volume one fetches and the others wait.
 * @param name of a model; of one without files nothing is fetched
 * @throws Error in one line: MODEL_DIR names a folder that lacks something, or the files can't be had
 */
export async function bringWeights(name: string, env: NodeJS.ProcessEnv, volumes = VOLUMES): Promise<void> {
  if (!isWeightsName(name)) return; // the program says what MODEL may be
  try {
    findWeights(name, env, volumes);
    return;
  } catch (error) {
    if (env.MODEL_DIR) throw error;
  }
  const log = createLog(env);
  const cache = sharedCache(REPOSITORIES[name], env, volumes, (text) => log.warn(text));
  log.info({ model: name, ...(cache && { cache }) }, 'fetching weights');
  let failure = '';
  const status = await main([name, ...(cache ? ['--cache', cache] : [])], {
    env,
    out: process.stdout.isTTY ? process.stdout : { write: (text) => log.info(text.trim()) },
    err: { write: (text) => (failure += text) },
  });
  if (status !== 0) throw new Error(failure.trim());
}

const isWeightsName = (name: string): name is keyof typeof REPOSITORIES => Object.hasOwn(REPOSITORIES, name);

/** The cache on the network volume, if there is one on which this user may write, and no other place is named. */
function sharedCache(
  repository: string,
  env: NodeJS.ProcessEnv,
  volumes: typeof VOLUMES,
  warn: (text: string) => void,
) {
  if (env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || !existsSync(volumes.serverless)) return undefined;
  const cache = volumeCache(volumes);
  const folder = join(cache, cacheName(repository));
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
    return cache;
  } catch (error) {
    warn(`the network volume can’t take the weights, so each worker fetches its own: ${(error as Error).message}`);
    return undefined;
  }
}
