import { type Bucket, getJson } from '../../core/bucket/bucket.ts';
import { imagineKey } from '../../core/job.ts';
import type { Cost } from '../../core/responses.ts';
import { MINUTE } from '../../core/time.ts';
import { costOfTime } from '../money.ts';
import type { Changes, Task } from '../store/task.ts';
import { gpuTimeOf, gpuTimeUsed } from './usage.ts';

/** Longer than a bridge may take to accept a prompt, unless the record says how long that is. */
const MAX_ASKING = 2 * MINUTE;

/**
 * The cost of a task that ends with these changes. It consists of the GPU time, at most what was reserved for it, and of the still once
 * a bridge has accepted the prompt, however the task ends. The GPU time is that of the job with the result, or what the current job has
 * used until the end. Lost and superseded jobs are free.
 * @returns null for a task without a quote
 * @throws StorageError the bucket can't tell now whether a bridge has accepted the prompt
 */
export async function charge(task: Task, changes: Changes, bucket: Bucket): Promise<Cost | null> {
  const { quote } = task;
  if (!quote) return null;
  const { output, usage = task.usage, finished_at } = changes;
  const gpuTime = output ? gpuTimeOf(output) : gpuTimeUsed(usage, finished_at!);
  const stills = (await hasStill(task, output, bucket)) ? 1 : 0;
  return {
    amount: Math.min(quote.gpu, costOfTime(quote.per_gpu_second, gpuTime)) + stills * quote.still,
    currency: quote.currency,
    gpu_seconds: gpuTime / 1000,
    stills,
  };
}

/** Whether a bridge generates, or has generated, the pictures of the prompt. */
async function hasStill(task: Task, output: Changes['output'], bucket: Bucket): Promise<boolean> {
  if (task.input.prompt === undefined) return false;
  return output != null || (await readImagine(task, bucket))?.id !== undefined;
}

/** Whether a worker is asking a bridge, whose answer decides about the cost. */
export async function isAsking(task: Task, bucket: Bucket, now: number): Promise<boolean> {
  const { bridge, id, asked_at, answer_timeout = 0 } = (await readImagine(task, bucket)) ?? {};
  return bridge !== undefined && id === undefined && now - Number(asked_at) < MAX_ASKING + Number(answer_timeout);
}

/** The record of the task's imagine, if there is one. */
async function readImagine({ id, version, input }: Task, bucket: Bucket) {
  const wasClaimed = version > 1; // even without a known job: a process may have died during the submission
  if (input.prompt === undefined || !wasClaimed) return undefined;
  return (await getJson(bucket, imagineKey(id))) as
    | { [field in 'bridge' | 'id' | 'asked_at' | 'answer_timeout']?: unknown }
    | undefined;
}
