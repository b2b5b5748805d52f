/**
 * A task's states and transitions.
 *
 *   queued ───────────▶ running ───────▶ succeeded | failed | canceled ────────▶ the same, expired
 *     │  no job, or one      │   ▲ job in progress         job has ended           files and prompt are deleted
 *     │  in RunPod's queue   └───┘
 *     └───────────────────────────────▶ the same three, if the job was never seen in progress
 *
 * A task without a job is submitted. A task with a job polls RunPod, and the job's status decides:
 *
 *   IN_QUEUE              no change (also for a second job: the task keeps its progress)
 *   IN_PROGRESS, RUNNING  running, with the stage and progress that the worker reports; progress never falls
 *   COMPLETED             succeeded with the job's output
 *   FAILED                failed with the worker's error, or `internal` without one
 *   CANCELLED             canceled
 *   TIMED_OUT             failed with `timeout`
 *   unknown to RunPod     no change in the first 60 s after submission; then the bucket's result.json decides. If there is none, the task
 *                         is submitted again as another job. When its third job is lost too, it fails with `lost`
 *
 * RunPod may lose a result. So before any of these ends but the first, the bucket's result.json decides, if there is one. A canceled task
 * yields only to an output.
 *
 * A cancel request ends a queued task whose job is in RunPod's queue, or one without a job, at once. In a running one it is stored, and
 * RunPod is asked to cancel the job. Then what RunPod shows first wins, the result or the cancellation. A task with a cancel request gets
 * no other job. While a worker asks a bridge, it is not canceled yet: the bridge's answer decides about its cost.
 *
 * A callback may name a job that the task does not know: a process died after it submitted the job, or RunPod showed the job as unknown
 * but has it. RunPod is asked for that job (`onUnknownJob`): a result ends the task; an unfinished job becomes the task's, if that has
 * none. Every other job of the task is superseded and gets cancelled at RunPod, also after the task's end.
 *
 * An active task fails with `expired` at its deadline. An ended task never changes again, except that it loses its files and prompt:
 * after RETAIN_DAYS, or when its owner deletes it.
 */
import * as v from 'valibot';
import { isSized, type Size, setSize } from '../../core/frame-size.ts';
import { failureSchema, JobError, outputSchema, progressSchema } from '../../core/job.ts';
import { isActive } from '../../core/task-status.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import { isUnfinished, type RunPodJob } from '../runpod.ts';
import type { Changes, Task } from '../store/task.ts';
import { startOf, stopUsage, usageAt } from './usage.ts';

/** RunPod may not know a new job yet. */
export const LOST_AFTER = 60 * SECOND;
export const MAX_JOBS = 3;

/** Milliseconds until the next attempt after consecutive failures: 1 s, doubling to a minute. */
export const backoff = (failures: number) => Math.min(MINUTE, SECOND * 2 ** (failures - 1));

const NO_STAGE = { stage: null, step: null, steps: null };

/** The changes that the status of the task's own job brings. */
export function onJobStatus(task: Task, job: RunPodJob, now: number): Changes {
  switch (job.status) {
    case 'IN_QUEUE':
      return stopUsage(task, now); // its worker died, if it had one
    case 'IN_PROGRESS':
    case 'RUNNING':
      return inProgress(task, job.output, now);
    case 'COMPLETED':
      return completed(task, job.output, now);
    case 'FAILED':
      return onFailure(task, job.error, now);
    case 'CANCELLED':
      return canceled(now);
    case 'TIMED_OUT':
      return failed(new JobError('timeout', 'the job took longer than RunPod’s time limit').data, now);
  }
}

export function failed(error: Task['error'], now: number): Changes {
  return { ...NO_STAGE, status: 'failed', error, finished_at: now };
}

/** For an end that does not come from the job: a job is superseded. */
const supersedeJob = (task: Task): Changes =>
  task.job_id === null ? {} : { jobs_to_cancel: [...new Set([...task.jobs_to_cancel, task.job_id])] };

export const canceled = (now: number): Changes => ({ ...NO_STAGE, status: 'canceled', finished_at: now });

export const onDeadline = (task: Task, now: number): Changes => ({
  ...failed(new JobError('expired', 'the task did not end before its deadline').data, now),
  ...supersedeJob(task),
});

/** A client's cancel of an active task. @param hasBegun whether its job runs or has ended, although the task is queued */
export function onCancelRequest(task: Task, hasBegun: boolean, now: number): Changes {
  if ((task.status === 'queued' && !hasBegun) || task.job_id === null)
    return { ...canceled(now), ...supersedeJob(task) };
  return { cancel_requested_at: task.cancel_requested_at ?? now };
}

/** The task without its prompt, image_url and file name, and without the error's message, which may repeat it; its files are to be deleted. */
export function redacted(
  { input: { prompt: _, image_url: __, image: ___, ...input }, error }: Task,
  now: number,
): Changes {
  const rest = error && { error: { ...error, message: 'deleted with the files and the prompt' } };
  return { expired_at: now, input: input as Task['input'], ...rest };
}

/** RunPod has a job of this task that the task did not know. */
export function onUnknownJob(task: Task, jobId: string, job: RunPodJob, now: number): Changes {
  // Where RunPod shows no input, the token of the callback has to suffice.
  if (job.input !== undefined && job.input.task_id !== task.id) return {};
  if (isActive(task.status)) {
    if (job.status === 'COMPLETED') {
      const end = completed(task, job.output, now);
      return end.status === 'succeeded' ? { ...end, ...supersedeJob(task) } : {};
    }
    if (task.job_id === null) return { job_id: jobId, submitted_at: now, jobs: task.jobs + 1, nextRunIn: 0 };
  }
  return isUnfinished(job) ? { jobs_to_cancel: [...task.jobs_to_cancel, jobId] } : {};
}

/** RunPod does not know the job any more, and the bucket holds no result of it. */
export function onJobLost(task: Task, now: number): Changes {
  if (task.cancel_requested_at !== null) return canceled(now);
  if (task.jobs < MAX_JOBS) return { job_id: null, submitted_at: null, usage: null };
  return failed(new JobError('lost', `${MAX_JOBS} jobs of this task were lost`).data, now);
}

function inProgress(task: Task, output: unknown, now: number): Changes {
  const { success, output: report } = v.safeParse(progressSchema, output);
  if (!success) return { status: 'running', started_at: startOf(task, undefined, now) }; // no report yet
  const { stage, progress, step = null, steps = null, still, still_preview, size, usage } = report;
  return {
    status: 'running',
    started_at: startOf(task, usage, now),
    usage: usageAt(task, report, now),
    ...(progress >= task.progress && { stage, step, steps, progress }),
    ...(still !== undefined && isOwn(task, still) && { still }),
    ...(still_preview !== undefined && isOwn(task, still_preview) && { still_preview }),
    ...(size && sizeChanges(task, size)),
  };
}

/** The size that the worker has chosen, for a task that left it open. */
const sizeChanges = ({ input }: Task, size: Size): Changes => (isSized(input) ? {} : { input: setSize(input, size) });

/** Also for an output from the bucket. @param raw the worker's output, not yet checked */
export function completed(task: Task, raw: unknown, now: number): Changes {
  const { success, output } = v.safeParse(outputSchema, raw);
  const keys = success
    ? [
        ...[output.still, output.still_preview, output.grid?.key],
        ...output.videos.flatMap(({ key, poster, preview }) => [key, poster, preview]),
      ]
    : [];
  if (!success || !keys.every((key) => key === undefined || isOwn(task, key))) {
    return failed(new JobError('internal', 'the worker’s output does not match the schema of a result').data, now);
  }
  const started_at = startOf(task, output.usage, now);
  const { width, height } = output.videos[0]!;
  return {
    ...NO_STAGE,
    ...sizeChanges(task, { H: height, W: width }),
    status: 'succeeded',
    progress: 1,
    output,
    still: output.still,
    still_preview: output.still_preview ?? null,
    started_at,
    finished_at: now,
  };
}

/** A worker's key becomes a link, so it must not leave the task's folder. */
const isOwn = (task: Task, key: string) => key.startsWith(`tasks/${task.id}/`) && !key.includes('..');

/** @param raw the error that RunPod shows: of our worker, or of its platform */
function onFailure(task: Task, raw: unknown, now: number): Changes {
  const { success, output } = v.safeParse(failureSchema, raw);
  if (!success) return failed(new JobError('internal', 'the worker failed').data, now);
  const { usage, ...error } = output;
  return { ...failed(error, now), ...(usage && { usage, started_at: startOf(task, usage, now) }) };
}
