/** GPU time and start of a task's job, from the reports of its worker. */
import { GPU_STAGES, type JobOutput, type JobUsage, type Progress } from '../../core/job.ts';
import type { Changes, Task } from '../store/task.ts';

/** A worker's numbers are not trusted, so they are clamped. */
const MAX_GPU_TIME = 1e10;
const clamp = (value: number, least: number, most: number) => Math.max(least, Math.min(most, value));

/** GPU time that a job has used until `now`, a time in milliseconds since 1970; whole milliseconds. */
export function gpuTimeUsed(usage: JobUsage | null, now: number): number {
  if (!usage) return 0;
  const running = usage.gpu_since === undefined ? 0 : Math.max(0, now - usage.gpu_since);
  return Math.round(clamp(usage.gpu_ms + running, 0, MAX_GPU_TIME));
}

/** GPU time of the job with this output; whole milliseconds. */
export const gpuTimeOf = ({ timings_ms }: JobOutput): number =>
  gpuTimeUsed({ gpu_ms: GPU_STAGES.reduce((sum, stage) => sum + Math.max(0, timings_ms[stage] ?? 0), 0) }, 0);

/** What the task's job has used. Where its worker does not say so, the API adds up the time between the reports that it reads. */
export function usageAt(task: Task, { stage, usage }: Progress, now: number): JobUsage {
  if (!usage) {
    const isGpu = GPU_STAGES.includes(stage);
    return { gpu_ms: gpuTimeUsed(task.usage, now), ...(isGpu && { gpu_since: now }) };
  }
  // A wrong clock of a worker must not charge for time before its job.
  const { gpu_since, ...rest } = usage;
  return { ...rest, ...(gpu_since !== undefined && { gpu_since: clamp(gpu_since, task.submitted_at ?? 0, now) }) };
}

/** The usage of a job whose worker has died, or will not report any more. */
export const stopUsage = ({ usage }: Task, now: number): Changes =>
  usage?.gpu_since === undefined ? {} : { usage: { ...usage, gpu_ms: gpuTimeUsed(usage, now), gpu_since: undefined } };

/** When the task's first job began, by its worker's clock; at the latest when the API saw it running. */
export function startOf({ created_at, started_at }: Task, usage: JobUsage | undefined, now: number): number {
  const latest = started_at ?? now;
  return clamp(usage?.started_at ?? latest, created_at, latest);
}
