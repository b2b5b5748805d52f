/** The worker's environment, read once, and what it makes of it. */
import * as v from 'valibot';
import { openBucket } from '../core/bucket/open-bucket.ts';
import { integer, modelName, readEnvironment, sharedVariables } from '../core/environment.ts';
import { presets } from '../core/presets.ts';
import { camera } from './models/camera.ts';
import type { Model } from './models/model.ts';
import { openSvd } from './models/svd.ts';
import { findWeights, type WeightsName } from './models/weights.ts';
import { chooseDevice } from './onnx/device.ts';
import type { Worker } from './pipeline.ts';
import { openBridges } from './still/midjourney/open-bridges.ts';

type Log = (details: Record<string, unknown>, event: string) => void;

/**
 * What the worker needs for its jobs, its model loaded.
 * @param log told what was chosen, and what the seconds were spent on
 * @throws Error that names the variable
 */
export async function openWorker(
  environment: NodeJS.ProcessEnv,
  log: Log = () => {},
): Promise<{ worker: Worker; concurrency: number }> {
  const env = readEnvironment(
    {
      ...sharedVariables,
      MODEL: v.optional(modelName, 'svd_xt'),
      MODEL_DIR: v.optional(v.string()),
      DEVICE: v.optional(v.picklist(['auto', 'cpu', 'cuda'], 'must be auto, cpu or cuda'), 'auto'),
      MIDJOURNEY_BRIDGE: v.optional(v.string()),
      MIDJOURNEY_API_KEY: v.optional(v.string()),
      MIDJOURNEY_BASE_URL: v.optional(v.string()),
      WORKER_CONCURRENCY: integer(1, 1, 100),
      FRAMES_DIR: v.optional(v.string()),
    },
    environment,
  );
  const bridges = openBridges(env);
  const worker: Worker = {
    modelName: env.MODEL,
    model: env.MODEL === 'camera' ? camera : await loadSvd(env.MODEL, env.DEVICE, environment, log),
    bucket: (await openBucket(env, { publicUrl: '' })).bucket, // a worker makes no links
    bridges,
    allowPrivate: env.ALLOW_PRIVATE_URLS,
    stillTimeout: env.STILL_TIMEOUT * 1000,
    framesDir: env.FRAMES_DIR,
  };
  return { worker, concurrency: env.WORKER_CONCURRENCY };
}

/** Opens SVD's sessions for its own size, so that no job waits for them. */
async function loadSvd(
  name: WeightsName,
  wanted: 'auto' | 'cpu' | 'cuda',
  environment: NodeJS.ProcessEnv,
  log: Log,
): Promise<Model> {
  const start = performance.now();
  const since = (time: number) => Number(((performance.now() - time) / 1000).toFixed(2));
  const { folder, source } = findWeights(name, environment);
  const { device, memory, reason } = await chooseDevice(wanted);
  const gigabytes = Number.isFinite(memory) ? Number((memory / 1e9).toFixed(1)) : 'unknown';
  log({ device, reason, memory_gb: gigabytes, weights: source, folder, seconds: since(start) }, 'device chosen');
  const opened = performance.now();
  const model = openSvd(folder, {
    device,
    memory,
    onOpen: ({ network, policy, ms }) => log({ network, policy, seconds: ms / 1000 }, 'session opened'),
  });
  log({ seconds: since(opened) }, 'weights checked');
  const { H, W, T, steps } = presets[name];
  await model.preload({ H, W, T, steps, decoding_t: 14 });
  log({ seconds: since(start) }, 'model ready');
  return model;
}
