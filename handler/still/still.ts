import type { Bucket } from '../../core/bucket/bucket.ts';
import { JobError, type JobInput, taskFolder } from '../../core/job.ts';
import type { Log } from '../../core/log.ts';
import { toPng } from '../../core/picture/picture.ts';
import { fetchPicture } from './fetch-picture.ts';
import type { Bridge } from './midjourney/bridge.ts';
import { imagine, pictureKey } from './midjourney/imagine.ts';

interface StillOptions {
  bucket: Bucket;
  /** asked in this order; empty: prompts are refused */
  bridges: readonly Bridge[];
  allowPrivate: boolean;
  /** milliseconds that a bridge may take */
  stillTimeout: number;
  /** 0–1 */
  onProgress: (progress: number) => void;
  log?: Pick<Log, 'info'> | undefined;
  signal: AbortSignal;
}

export const stillKey = (taskId: string) => `${taskFolder(taskId)}/still.png`;

/**
 * The picture that the task animates, unfitted, as a PNG. It is saved in the task's folder, where a second job finds it.
 * @throws JobError
 */
export async function prepareStill(job: JobInput, options: StillOptions): Promise<Buffer> {
  const { bucket } = options;
  const key = stillKey(job.task_id);
  const saved = await bucket.get(key);
  if (saved) return saved;
  const png = await makeStill(job, options);
  await bucket.put(key, png);
  return png;
}

async function makeStill(job: JobInput, options: StillOptions): Promise<Buffer> {
  const { bucket, bridges, allowPrivate, stillTimeout, onProgress, log, signal } = options;
  if (job.prompt !== undefined) {
    await imagine(job.prompt, {
      bridges,
      bucket,
      taskId: job.task_id,
      W: job.W,
      H: job.H,
      timeout: stillTimeout,
      fetchPicture: (url, bridge, signal) => fetchBridgePicture(url, bridge, allowPrivate, signal),
      onProgress,
      log,
      signal,
    });
    return readStored(bucket, pictureKey(job.task_id, job.image_index));
  }
  if (job.image_url !== undefined) return toPng(await fetchPicture(job.image_url, { allowPrivate, signal }), signal);
  if (job.still_key !== undefined) return readStored(bucket, job.still_key);
  return toPng(await readStored(bucket, job.image_key!), signal);
}

/** Fetches one of a bridge's pictures, through the bridge if the picture's host refuses us. */
async function fetchBridgePicture(
  url: string,
  bridge: Bridge,
  allowPrivate: boolean,
  signal: AbortSignal,
): Promise<Uint8Array> {
  if (!URL.canParse(url)) throw new JobError('upstream_error', 'the bridge gave a picture without a URL');
  const trusted = allowPrivate || bridge.trusts(new URL(url));
  try {
    return await fetchPicture(url, { name: 'the bridge’s picture', allowPrivate: trusted, signal });
  } catch (error) {
    if (!bridge.picture || !(error instanceof JobError) || error.code !== 'image_unavailable') throw error;
    return bridge.picture(url, signal).catch(() => {
      throw error; // the first reason says more
    });
  }
}

async function readStored(bucket: Bucket, key: string): Promise<Buffer> {
  const bytes = await bucket.get(key);
  if (!bytes) throw new JobError('image_unavailable', 'the picture is no longer kept');
  return bytes;
}
