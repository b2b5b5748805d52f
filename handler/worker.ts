/** Reads the worker's environment once, and opens what its jobs use. */
import * as v from 'valibot';
import { openBucket } from '../core/bucket/open-bucket.ts';
import { integer, modelName, readEnvironment, sharedVariables } from '../core/environment.ts';
import { DEVICES } from '../core/job.ts';
import { defaults } from '../core/parameters.ts';
import { DRAFT, presets } from '../core/presets.ts';
import { SECOND } from '../core/time.ts';
import { camera } from './models/camera.ts';
import type { Model } from './models/model.ts';
import { examineDevice } from './models/svd/examine-device.ts';
import { openSvd } from './models/svd.ts';
import { findUnet, findWeights, type WeightsName } from './models/weights.ts';
import { chooseDevice, type DeviceChoice, type FindDevice } from './onnx/device.ts';
import type { Worker } from './pipeline.ts';
import { BRIDGE_VARIABLES, openBridges } from './still/bridges/open-bridges.ts';

const CHOICES = ['auto', ...DEVICES] as const satisfies DeviceChoice[];

type Log = (details: Record<string, unknown>, event: string) => void;

export const WORKER_VARIABLES = {
  ...sharedVariables,
  MODEL: v.optional(modelName, 'svd_xt'),
  MODEL_DIR: v.optional(v.string()),
  DEVICE: v.optional(v.picklist(CHOICES, `must be ${CHOICES.join(', ')}`), 'auto'),
  ...BRIDGE_VARIABLES,
  WORKER_CONCURRENCY: integer(1, 1, 100),
  FRAMES_DIR: v.optional(v.string()),
};

/**
 * Opens the bucket and the bridges, and loads the model.
 * @param log receives the device and the weights that were chosen, and how long each step took
 * @throws Error that names the variable
 */
export async function openWorker(
  environment: NodeJS.ProcessEnv,
  log: Log = () => {},
): Promise<{ worker: Worker; concurrency: number }> {
  const env = readEnvironment(WORKER_VARIABLES, environment);
  const bridges = openBridges(env);
  const worker: Worker = {
    modelName: env.MODEL,
    model: env.MODEL === 'camera' ? camera : await loadSvd(env.MODEL, env.DEVICE, environment, log),
    bucket: (await openBucket(env, { publicUrl: '' })).bucket, // a worker signs no links
    bridges,
    allowPrivate: env.ALLOW_PRIVATE_URLS,
    stillTimeout: env.STILL_TIMEOUT * SECOND,
    framesDir: env.FRAMES_DIR,
  };
  return { worker, concurrency: env.WORKER_CONCURRENCY };
}

/** Opens SVD's sessions for its default size, so that no job waits for them. */
async function loadSvd(
  name: WeightsName,
  preferred: DeviceChoice,
  environment: NodeJS.ProcessEnv,
  log: Log,
): Promise<Model> {
  const start = performance.now();
  const secondsSince = (time: number) => Number(((performance.now() - time) / SECOND).toFixed(2));
  const { source, ...files } = findWeights(name, environment);
  const draftUnet = name === DRAFT.model ? findUnet(DRAFT.unet, environment) : undefined;
  const examine: FindDevice = (device, options) => examineDevice(device, { ...options, env: environment });
  const { device, name: deviceName, memory, limits, reason } = await chooseDevice(preferred, examine);
  const gigabytes = Number.isFinite(memory) ? Number((memory / 1e9).toFixed(1)) : 'unknown';
  const chosen = { device, name: deviceName, ...limits, reason, memory_gb: gigabytes };
  log({ ...chosen, weights: source, ...files, draft_unet: draftUnet, seconds: secondsSince(start) }, 'device chosen');
  const opened = performance.now();
  const model = openSvd(files.folder, {
    unet: files.unet,
    draftUnet,
    device,
    limits,
    memory,
    onOpen: ({ network, policy, ms }) => log({ network, policy, seconds: ms / 1000 }, 'session opened'),
  });
  log({ seconds: secondsSince(opened) }, 'weights checked');
  await model.preload({ ...defaults(name), ...presets[name] });
  log({ seconds: secondsSince(start) }, 'model ready');
  return model;
}
