/** What a task costs. */
import type { Bucket } from '../../core/bucket/bucket.ts';
import { type JobOutput, type Stage, taskFolder } from '../../core/job.ts';
import type { Cost } from '../../core/responses.ts';
import { costOfTime } from '../money.ts';
import type { Changes, Task } from '../store/task.ts';

/** What is paid for; loading a model is not, nor is waiting. */
const GPU_STAGES: Stage[] = ['sampling', 'decoding'];

/**
 * What a task costs that ends with these changes: the GPU's time of the job whose result counts, at most what was reserved for it, and
 * the pictures of a bridge once they are saved, however the task ends. Lost jobs and second ones cost the caller nothing.
 * @returns null for a task from before there were prices
 * @throws StorageError: whether there are pictures can't be known now
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

/** Whole milliseconds. The numbers are a worker's word. */
const gpuTimeOf = ({ timings_ms }: JobOutput) =>
  Math.round(GPU_STAGES.reduce((sum, stage) => sum + Math.min(1e10, Math.max(0, timings_ms[stage] ?? 0)), 0));

/** Whether a bridge has made the pictures that the prompt asked for. */
async function hasPictures(task: Task, output: Changes['output'], bucket: Bucket): Promise<boolean> {
  if (task.input.prompt === undefined) return false;
  if (output) return true;
  const wasTaken = task.version > 1; // by a process that may have died over the submission, and then the task knows of no job
  return wasTaken && bucket.has(`${taskFolder(task.id)}/imagine-${task.input.image_index}.png`);
}
