import type { Bucket } from '../../core/bucket/bucket.ts';
import { type JobOutput, type Stage, taskFolder } from '../../core/job.ts';
import type { Cost } from '../../core/responses.ts';
import { costOfTime } from '../money.ts';
import type { Changes, Task } from '../store/task.ts';

/** Loading a model and waiting are free. */
const GPU_STAGES: Stage[] = ['sampling', 'decoding'];

/**
 * The cost of a task that ends with these changes. It consists of the GPU time of the job with the result, at most what was reserved for
 * it, and of the generated pictures once they are saved, even if the task fails. Lost and superseded jobs are free.
 * @returns null for a task without a quote
 * @throws StorageError the bucket can't tell now whether there are pictures
 */
export async function charge(task: Task, { output }: Changes, bucket: Bucket): Promise<Cost | null> {
  const { quote } = task;
  if (!quote) return null;
  const gpuTime = output ? gpuTimeOf(output) : 0;
  const stills = (await hasPictures(task, output, bucket)) ? 1 : 0;
  return {
    amount: Math.min(quote.gpu, costOfTime(quote.per_gpu_second, gpuTime)) + stills * quote.still,
    currency: quote.currency,
    gpu_seconds: gpuTime / 1000,
    stills,
  };
}

/** Whole milliseconds. A worker's numbers are not trusted, so they are clamped. */
const gpuTimeOf = ({ timings_ms }: JobOutput) =>
  Math.round(GPU_STAGES.reduce((sum, stage) => sum + Math.min(1e10, Math.max(0, timings_ms[stage] ?? 0)), 0));

/** Whether a bridge has generated the pictures of the prompt. */
async function hasPictures(task: Task, output: Changes['output'], bucket: Bucket): Promise<boolean> {
  if (task.input.prompt === undefined) return false;
  if (output) return true;
  const wasClaimed = task.version > 1; // even without a known job: a process may have died during the submission
  return wasClaimed && bucket.has(`${taskFolder(task.id)}/imagine-${task.input.image_index}.png`);
}
