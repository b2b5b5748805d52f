import sharp from 'sharp';
import type { Bucket } from '../../core/bucket/bucket.ts';
import { JobError, type JobInput, taskFolder } from '../../core/job.ts';
import { toPng } from '../../core/picture/picture.ts';
import { type ImagineOptions, imagine, pictureKey } from './bridges/imagine.ts';
import { fetchPicture } from './fetch-picture.ts';

type StillOptions = Omit<ImagineOptions, 'taskId' | 'index' | 'W' | 'H'>;

/** Pixels of a preview's longer side. */
const PREVIEW_SIDE = 1024;

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

/** Saves a small JPEG of the still next to it, for pages. @returns its bucket key. @throws StorageError */
export async function saveStillPreview(png: Uint8Array, taskId: string, bucket: Bucket): Promise<string> {
  const key = `${taskFolder(taskId)}/still.jpg`;
  const fit = { fit: 'inside', withoutEnlargement: true } as const;
  await bucket.put(key, await sharp(png).resize(PREVIEW_SIDE, PREVIEW_SIDE, fit).jpeg({ quality: 82 }).toBuffer());
  return key;
}

async function makeStill(job: JobInput, options: StillOptions): Promise<Buffer> {
  const { bucket, allowPrivate, signal } = options;
  if (job.prompt !== undefined) {
    const { task_id: taskId, image_index: index } = job;
    await imagine(job.prompt, { ...options, taskId, index, W: job.W!, H: job.H! }); // a job with a prompt has both
    const png = await bucket.get(pictureKey(taskId, index));
    if (!png)
      throw new JobError('image_unavailable', `the image provider drew no picture ${index}, or it has been deleted`);
    return png;
  }
  if (job.image_url !== undefined) return toPng(await fetchPicture(job.image_url, { allowPrivate, signal }), signal);
  if (job.still_key !== undefined) return readStored(bucket, job.still_key);
  return toPng(await readStored(bucket, job.image_key!), signal);
}

async function readStored(bucket: Bucket, key: string): Promise<Buffer> {
  const bytes = await bucket.get(key);
  if (!bytes) throw new JobError('image_unavailable', 'the picture has been deleted');
  return bytes;
}
