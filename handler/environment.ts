/** The environment: each process reads it once, here or in api/config.ts. README lists every variable. */
import { join } from 'node:path';
import * as v from 'valibot';
import { diskBucket } from './bucket/disk.ts';
import { MODELS } from './job.ts';
import { camera } from './models/camera.ts';
import type { Worker } from './pipeline.ts';
import { tnl } from './still/midjourney/tnl.ts';

/** A variable that is 0 or 1. */
export const flag = (fallback: boolean) =>
  v.pipe(
    v.optional(v.picklist(['0', '1'], 'must be 0 or 1'), fallback ? '1' : '0'),
    v.transform((text) => text === '1'),
  );

/** A variable that is a whole number. */
export const whole = (fallback: number, min: number, max: number) => {
  const allowed = `must be a whole number from ${min} to ${max}`;
  return v.pipe(
    v.optional(v.pipe(v.string(), v.digits(allowed)), String(fallback)),
    v.transform(Number),
    v.minValue(min, allowed),
    v.maxValue(max, allowed),
  );
};

export const webAddress = v.pipe(
  v.string(),
  v.regex(/^https?:\/\//, 'must be an http or https address'),
  v.url('must be an http or https address'),
  v.transform((url) => url.replace(/\/+$/, '')),
);

export const model = v.picklist(MODELS, `must be one of ${MODELS.join(', ')}`);

/** What the API and the worker both read. */
export const shared = {
  DATA_DIR: v.optional(v.string(), 'data'),
  BUCKET_NAME: v.optional(
    v.custom<never>(() => false, 'S3 buckets are not supported yet; without it a folder in DATA_DIR is used'),
  ),
  ALLOW_PRIVATE_URLS: flag(false),
};

export const bucketFolder = (dataDir: string) => join(dataDir, 'bucket');

/**
 * Checks a process's environment; an empty variable counts as absent.
 * @throws Error that names every wrong variable and what is allowed
 */
export function readEnvironment<E extends v.ObjectEntries>(entries: E, environment: NodeJS.ProcessEnv) {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value !== ''));
  const { success, output, issues } = v.safeParse(v.object(entries), given);
  if (!success) throw new Error(issues.map((issue) => `${v.getDotPath(issue)} ${issue.message}`).join('; '));
  return output;
}

/**
 * What the worker needs for its jobs.
 * @throws Error that names the variable
 */
export async function openWorker(environment: NodeJS.ProcessEnv): Promise<{ worker: Worker; concurrency: number }> {
  const env = readEnvironment(
    {
      ...shared,
      MODEL: v.optional(model, 'svd_xt'),
      MIDJOURNEY_BRIDGE: v.optional(v.picklist(['tnl'], 'must be tnl')),
      MIDJOURNEY_API_KEY: v.optional(v.string()),
      MIDJOURNEY_BASE_URL: v.optional(webAddress),
      STILL_TIMEOUT: whole(600, 1, 3600),
      WORKER_CONCURRENCY: whole(1, 1, 100),
      FRAMES_DIR: v.optional(v.string()),
    },
    environment,
  );
  if (env.MODEL !== 'camera') throw new Error(`MODEL ${env.MODEL} is not supported yet: only camera is`);
  if (env.MIDJOURNEY_BRIDGE && !env.MIDJOURNEY_API_KEY)
    throw new Error('MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE');
  const worker: Worker = {
    modelName: env.MODEL,
    model: camera,
    bucket: await diskBucket(bucketFolder(env.DATA_DIR), { publicUrl: '' }), // a worker makes no links
    bridge: env.MIDJOURNEY_BRIDGE && tnl({ apiKey: env.MIDJOURNEY_API_KEY!, baseUrl: env.MIDJOURNEY_BASE_URL }),
    allowPrivate: env.ALLOW_PRIVATE_URLS,
    stillTimeout: env.STILL_TIMEOUT * 1000,
    framesDir: env.FRAMES_DIR,
  };
  return { worker, concurrency: env.WORKER_CONCURRENCY };
}
