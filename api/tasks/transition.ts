/**
 * A task's states and transitions.
 *
 *   queued ───────────▶ running ───────▶ succeeded | failed | canceled
 *     │  stored, or waits    │   ▲ a job in progress        the job has ended
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
 * Beyond its deadline an open task is failed with `expired`. An ended task never changes again.
 */
import * as v from 'valibot';
import { JobError, jobErrorSchema, outputSchema, progressSchema } from '../../handler/job.ts';
import type { SeenJob } from '../runpod.ts';
import type { Changes, Task } from '../store/store.ts';

const SECOND = 1000;

export const LOST_AFTER = 60 * SECOND;
export const MAX_JOBS = 3;

/** An ended task is in no stage. */
const NO_STAGE = { stage: null, step: null, steps: null };

/** What a look at the task's job changes. */
export function afterLook(task: Task, job: SeenJob, now: number): Changes {
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
      return { ...NO_STAGE, status: 'canceled', finished_at: now };
    case 'TIMED_OUT':
      return failed(new JobError('timeout', 'the job took longer than it may').data, now);
  }
}

export function failed(error: Task['error'], now: number): Changes {
  return { ...NO_STAGE, status: 'failed', error, finished_at: now };
}

export const expired = (now: number) =>
  failed(new JobError('expired', 'the task did not end before its deadline').data, now);

/** After RunPod has forgotten a job and the bucket holds no result of it. */
export function afterLoss(task: Task, now: number): Changes {
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
