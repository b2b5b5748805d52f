/**
 * A prompt becomes four pictures in the task's folder, paid for once.
 *
 * imagine.json is the memory of that payment. Absent: nothing was asked. With our ref only (the intent): the bridge was, or was about
 * to be, asked; a worker that finds only that can't know whether it was paid, and gives up rather than pay again. With the bridge's id:
 * whoever finds it waits for that imagine. A refusal, which costs nothing, takes the intent away.
 */
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import * as v from 'valibot';
import { type Bucket, getJson } from '../../bucket/bucket.ts';
import { deadline } from '../../deadline.ts';
import { JobError, taskFolder } from '../../job.ts';
import { toPng } from '../picture.ts';
import type { Bridge } from './bridge.ts';

const intentSchema = v.object({ bridge: v.string(), ref: v.string(), id: v.optional(v.string()) });

export interface ImagineOptions {
  bridge: Bridge;
  bucket: Bucket;
  taskId: string;
  /** frame size, for the pictures' aspect */
  W: number;
  H: number;
  /** how long to wait for the pictures, in milliseconds */
  timeout: number;
  /** fetches one of the bridge's pictures */
  fetchPicture: (url: string) => Promise<Uint8Array>;
  /** 0–1 */
  onProgress: (progress: number) => void;
  signal: AbortSignal;
}

export const pictureKey = (taskId: string, index: number) => `${taskFolder(taskId)}/imagine-${index}.png`;

/**
 * Makes sure that the task's four pictures lie in the bucket.
 * @throws JobError with the bridge's reason; upstream_timeout; lost
 */
export async function imagine(prompt: string, options: ImagineOptions): Promise<void> {
  const { bucket, taskId, timeout, signal } = options;
  const keys = [1, 2, 3, 4].map((index) => pictureKey(taskId, index));
  if ((await Promise.all(keys.map((key) => bucket.has(key)))).every(Boolean)) return;

  const limited = deadline(signal, timeout);
  try {
    const id = await askOnce(prompt, options, limited.signal);
    const pictures = await wait(id, options, limited.signal);
    const files = await Promise.all(pictures.map(options.fetchPicture));
    const four = files.length === 4 ? await Promise.all(files.map(toPng)) : await quadrants(await toPng(files[0]!));
    await Promise.all(four.map((png, i) => bucket.put(keys[i]!, png)));
  } catch (error) {
    if (limited.passed() && !(error instanceof JobError)) {
      throw new JobError('upstream_timeout', `the Midjourney bridge took longer than ${timeout / 1000} s`, {
        cause: error,
      });
    }
    throw error;
  } finally {
    limited.clear();
  }
}

/** The id of this task's imagine, asked for at most once. */
async function askOnce(
  prompt: string,
  { bridge, bucket, taskId, W, H }: ImagineOptions,
  signal: AbortSignal,
): Promise<string> {
  const key = `${taskFolder(taskId)}/imagine.json`;
  const intent = { bridge: bridge.name, ref: taskId };
  if (!(await bucket.create(key, JSON.stringify(intent)))) {
    const earlier = v.parse(intentSchema, await getJson(bucket, key));
    if (earlier.id && earlier.bridge === bridge.name) return earlier.id;
    throw new JobError(
      'lost',
      'an earlier attempt broke off while the Midjourney bridge was asked; it may have been paid for',
    );
  }
  const id = await bridge.imagine(withAspect(prompt, W, H), intent.ref, signal).catch(async (error) => {
    if (!(error instanceof JobError)) {
      const message = 'the Midjourney bridge gave no answer; it may have taken the prompt';
      throw new JobError('lost', message, { cause: error });
    }
    await bucket.delete(key);
    throw error;
  });
  await bucket.put(key, JSON.stringify({ ...intent, id }));
  return id;
}

async function wait(id: string, { bridge, onProgress }: ImagineOptions, signal: AbortSignal): Promise<string[]> {
  for (;;) {
    try {
      const state = await bridge.look(id, signal);
      if (state.done) return state.pictures;
      onProgress(state.progress);
    } catch (error) {
      if (error instanceof JobError || signal.aborted) throw error; // otherwise the look failed on its way: look again
    }
    await delay(bridge.pollInterval, undefined, { signal });
  }
}

/** Midjourney's aspect flag for the frame, unless the prompt has one. */
export function withAspect(prompt: string, W: number, H: number): string {
  if (/(^|\s)(--|—)(ar|aspect)[\s=]/i.test(prompt)) return prompt; // phones make a dash of two hyphens
  const divisor = (function gcd(a: number, b: number): number {
    return b === 0 ? a : gcd(b, a % b);
  })(W, H);
  return `${prompt} --ar ${W / divisor}:${H / divisor}`;
}

/** The four pictures of a 2×2 grid, row by row. */
async function quadrants(grid: Buffer): Promise<Buffer[]> {
  const meta = await sharp(grid).metadata();
  const width = Math.floor(meta.width / 2);
  const height = Math.floor(meta.height / 2);
  const corners = [0, 1, 2, 3].map((i) => ({ left: (i % 2) * width, top: Math.floor(i / 2) * height }));
  return Promise.all(
    corners.map((corner) =>
      sharp(grid)
        .extract({ ...corner, width, height })
        .png({ compressionLevel: 2 })
        .toBuffer(),
    ),
  );
}
