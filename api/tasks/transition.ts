/**
 * A task's states and transitions.
 *
 *   queued ───────────▶ running ───────▶ succeeded | failed | canceled ────────▶ the same, expired
 *     │  stored, or waits    │   ▲ a job in progress        the job has ended        its files and prompt are deleted
 *     │  in RunPod's queue   └───┘
 *     └───────────────────────────────▶ the same three, if the job was never seen in progress
 *
 * A task without a job is to be submitted. With a job, RunPod is looked at again and again, and what it shows decides:
 *
 *   IN_QUEUE              nothing changes (a second job may wait in the queue: what was reached is not taken back)
 *   IN_PROGRESS, RUNNING  running, with the stage and progress that the worker reports; progress never falls
 *   COMPLETED             succeeded with the job's output
 *   FAILED                failed with the worker's error, or `internal` if it left none
 *   CANCELLED             canceled
 *   TIMED_OUT             failed with `timeout`
 *   unknown to RunPod     believed 60 s after submission: the bucket's result.json decides; without one the task loses its job and is
 *                         submitted again, three times in all, then failed with `lost`
 *
 * A caller's cancel ends a queued task at once, and one between two jobs. Of a running one it is written down, and RunPod is asked to cancel the job; then as above:
 * whichever RunPod shows first, result or cancellation, wins. A task that is to be canceled gets no other job.
 *
 * A callback may name a job that the task does not know: a process died after it had submitted it, or RunPod showed a job as unknown and
 * has it after all. RunPod is asked for that job (`afterFinding`): a result ends the task; a job that still goes on becomes the task's,
 * if that has none. Every job that a task has and does not need any more is a stray, to be cancelled at RunPod, also after the end.
 *
 * Beyond its deadline an open task is failed with `expired`. An ended task never changes again, but that it loses its files and prompt:
 * after RETAIN_DAYS, or when its owner wants that.
 */
import * as v from 'valibot';
import { JobError, jobErrorSchema, outputSchema, progressSchema } from '../../core/job.ts';
import { isActive } from '../../core/responses.ts';
import { SECOND } from '../../core/time.ts';
import { isUnfinished, type RunPodJob } from '../runpod.ts';
import type { Changes, Task } from '../store/task.ts';

export const LOST_AFTER = 60 * SECOND;
export const MAX_JOBS = 3;

/** An ended task is in no stage. */
const NO_STAGE = { stage: null, step: null, steps: null };

/** What a look at the task's job changes. */
export function onJobStatus(task: Task, job: RunPodJob, now: number): Changes {
  switch (job.status) {
    case 'IN_QUEUE':
      return {};
    case 'IN_PROGRESS':
    case 'RUNNING':
      return inProgress(task, job.output, now);
    case 'COMPLETED':
      return completed(task, job.output, now);
    case 'FAILED':
      return failed(workersError(job.error), now);
    case 'CANCELLED':
      return canceled(now);
    case 'TIMED_OUT':
      return failed(new JobError('timeout', 'the job took longer than it may').data, now);
  }
}

export function failed(error: Task['error'], now: number): Changes {
  return { ...NO_STAGE, status: 'failed', error, finished_at: now };
}

/** An end without the job's word: the job, if there is one, is not wanted any more. */
const withoutJob = (task: Task): Changes =>
  task.job_id === null ? {} : { jobs_to_cancel: [...new Set([...task.jobs_to_cancel, task.job_id])] };

export const canceled = (now: number): Changes => ({ ...NO_STAGE, status: 'canceled', finished_at: now });

export const onDeadline = (task: Task, now: number): Changes => ({
  ...failed(new JobError('expired', 'the task did not end before its deadline').data, now),
  ...withoutJob(task),
});

/** What a caller's cancel does to an open task. */
export function onCancelRequest(task: Task, now: number): Changes {
  if (task.status === 'queued' || task.job_id === null) return { ...canceled(now), ...withoutJob(task) };
  return { cancel_requested_at: task.cancel_requested_at ?? now };
}

/** What remains of a task when its files are to be deleted. */
export function redacted(task: Task, now: number): Changes {
  const { prompt: _, image_url: __, ...input } = task.input;
  return { expired_at: now, input: input as Task['input'] };
}

/** What it means for a task that RunPod has this job too, of which it did not know. */
export function onUnknownJob(task: Task, jobId: string, job: RunPodJob, now: number): Changes {
  const isNamed = job.input === undefined || job.input.task_id === task.id; // where RunPod shows no input, the callback's token must do
  if (!isNamed) return {};
  if (isActive(task.status)) {
    if (job.status === 'COMPLETED') {
      const end = completed(task, job.output, now);
      return end.status === 'succeeded' ? { ...end, ...withoutJob(task) } : {};
    }
    if (task.job_id === null) return { job_id: jobId, submitted_at: now, jobs: task.jobs + 1, nextRunIn: 0 };
  }
  return isUnfinished(job) ? { jobs_to_cancel: [...task.jobs_to_cancel, jobId] } : {};
}

/** After RunPod has forgotten a job and the bucket holds no result of it. */
export function onJobLost(task: Task, now: number): Changes {
  if (task.cancel_requested_at !== null) return canceled(now);
  if (task.jobs < MAX_JOBS) return { job_id: null, submitted_at: null };
  return failed(new JobError('lost', `${MAX_JOBS} jobs were lost`).data, now);
}

function inProgress(task: Task, output: unknown, now: number): Changes {
  const changes: Changes = { status: 'running', started_at: task.started_at ?? now };
  const { success, output: report } = v.safeParse(progressSchema, output);
  if (!success) return changes; // none yet
  const { stage, progress, step = null, steps = null, still } = report;
  return {
    ...changes,
    ...(progress >= task.progress && { stage, step, steps, progress }),
    ...(still !== undefined && isOwn(task, still) && { still }),
  };
}

/** Also for an output that was found in the bucket. */
export function completed(task: Task, raw: unknown, now: number): Changes {
  const { success, output } = v.safeParse(outputSchema, raw);
  const keys = success
    ? [output.still, ...output.videos.map(({ key }) => key), ...(output.grid ? [output.grid.key] : [])]
    : [];
  if (!success || !keys.every((key) => isOwn(task, key))) {
    return failed(new JobError('internal', 'the worker’s answer has not the form of a result').data, now);
  }
  const started_at = task.started_at ?? now;
  return { ...NO_STAGE, status: 'succeeded', progress: 1, output, still: output.still, started_at, finished_at: now };
}

/** A worker's word becomes a link: it may name nothing outside the task's folder. */
const isOwn = (task: Task, key: string) => key.startsWith(`tasks/${task.id}/`) && !key.includes('..');

/** The error that our worker left as JSON text. */
function workersError(error: unknown) {
  const { success, output } = v.safeParse(v.pipe(v.string(), v.parseJson(), jobErrorSchema), error);
  return success ? output : new JobError('internal', 'the worker failed').data;
}
