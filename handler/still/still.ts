import type { Bucket } from '../bucket/bucket.ts';
import { JobError, type JobInput, taskFolder } from '../job.ts';
import { fetchPicture } from './fetch.ts';
import type { Bridge } from './midjourney/bridge.ts';
import { imagine, pictureKey } from './midjourney/imagine.ts';
import { toPng } from './picture.ts';

export interface StillOptions {
  bucket: Bucket;
  /** absent: prompts can't be done */
  bridge: Bridge | undefined;
  allowPrivate: boolean;
  /** how long a bridge may take, in milliseconds */
  stillTimeout: number;
  /** 0–1 */
  onProgress: (progress: number) => void;
  signal: AbortSignal;
}

export const stillKey = (taskId: string) => `${taskFolder(taskId)}/still.png`;

/**
 * The picture that the task animates, unfitted, as a PNG; saved in the task's folder, from where a second job takes it.
 * @throws JobError
 */
export async function findStill(job: JobInput, options: StillOptions): Promise<Buffer> {
  const { bucket } = options;
  const key = stillKey(job.task_id);
  const saved = await bucket.get(key);
  if (saved) return saved;
  const png = await makeStill(job, options);
  await bucket.put(key, png);
  return png;
}

async function makeStill(job: JobInput, options: StillOptions): Promise<Buffer> {
  const { bucket, bridge, allowPrivate, stillTimeout, onProgress, signal } = options;
  if (job.prompt !== undefined) {
    if (!bridge)
      throw new JobError(
        'no_bridge',
        'this service has no Midjourney bridge: send a picture or image_url instead of a prompt',
      );
    await imagine(job.prompt, {
      bridge,
      bucket,
      taskId: job.task_id,
      W: job.W,
      H: job.H,
      timeout: stillTimeout,
      fetchPicture(url) {
        if (!URL.canParse(url)) throw new JobError('upstream_error', 'the bridge gave a picture without an address');
        const trusted = allowPrivate || bridge.trusts(new URL(url));
        return fetchPicture(url, { name: 'the bridge’s picture', allowPrivate: trusted, signal });
      },
      onProgress,
      signal,
    });
    return stored(bucket, pictureKey(job.task_id, job.image_index));
  }
  if (job.image_url !== undefined) return toPng(await fetchPicture(job.image_url, { allowPrivate, signal }));
  if (job.still_key !== undefined) return stored(bucket, job.still_key);
  return toPng(await stored(bucket, job.image_key!));
}

async function stored(bucket: Bucket, key: string): Promise<Buffer> {
  const bytes = await bucket.get(key);
  if (!bytes) throw new JobError('image_unavailable', 'the picture is no longer kept');
  return bytes;
}
