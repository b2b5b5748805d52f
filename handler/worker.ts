/** The worker's environment, read once, and what it makes of it. */
import * as v from 'valibot';
import { diskBucket } from './bucket/disk.ts';
import { bucketFolder, model, readEnvironment, shared, webAddress, whole } from './environment.ts';
import { camera } from './models/camera.ts';
import { openSvd } from './models/svd.ts';
import type { Worker } from './pipeline.ts';
import { tnl } from './still/midjourney/tnl.ts';

/**
 * What the worker needs for its jobs.
 * @throws Error that names the variable
 */
export async function openWorker(environment: NodeJS.ProcessEnv): Promise<{ worker: Worker; concurrency: number }> {
  const env = readEnvironment(
    {
      ...shared,
      MODEL: v.optional(model, 'svd_xt'),
      MODEL_DIR: v.optional(v.string()),
      MIDJOURNEY_BRIDGE: v.optional(v.picklist(['tnl'], 'must be tnl')),
      MIDJOURNEY_API_KEY: v.optional(v.string()),
      MIDJOURNEY_BASE_URL: v.optional(webAddress),
      WORKER_CONCURRENCY: whole(1, 1, 100),
      FRAMES_DIR: v.optional(v.string()),
    },
    environment,
  );
  if (env.MODEL !== 'camera' && !env.MODEL_DIR)
    throw new Error(`MODEL_DIR is needed for MODEL ${env.MODEL}: the folder with its files`);
  if (env.MIDJOURNEY_BRIDGE && !env.MIDJOURNEY_API_KEY)
    throw new Error('MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE');
  const worker: Worker = {
    modelName: env.MODEL,
    model: env.MODEL === 'camera' ? camera : openSvd(env.MODEL_DIR!),
    bucket: await diskBucket(bucketFolder(env.DATA_DIR), { publicUrl: '' }), // a worker makes no links
    bridge: env.MIDJOURNEY_BRIDGE && tnl({ apiKey: env.MIDJOURNEY_API_KEY!, baseUrl: env.MIDJOURNEY_BASE_URL }),
    allowPrivate: env.ALLOW_PRIVATE_URLS,
    stillTimeout: env.STILL_TIMEOUT * 1000,
    framesDir: env.FRAMES_DIR,
  };
  return { worker, concurrency: env.WORKER_CONCURRENCY };
}
