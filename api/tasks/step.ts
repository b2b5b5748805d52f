/** One step of a task: asks RunPod and the bucket, and returns the changes. `job-transitions.ts` says what the answers mean. */
import { taskFolder } from '../../core/job.ts';
import { isActive } from '../../core/task-status.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import { isUnfinished, type RunPodJob } from '../runpod.ts';
import { type Changes, endsTask, type Task } from '../store/task.ts';
import { charge, isAsking } from './charge.ts';
import { backoff, LOST_AFTER, onDeadline, onJobLost, onJobStatus, onUnknownJob, redacted } from './job-transitions.ts';
import { storedResult } from './submission.ts';

export type Step = ReturnType<typeof createStep>;

/** The returned function never throws: a failure counts in `failures`. The caller holds the lease of the task, and stores the changes. */
export function createStep(
  { config, bucket, runpod, log, now }: Dependencies,
  submit: (task: Task) => Promise<Changes>,
) {
  /** @returns the jobs that could not be cancelled and may still run */
  async function cancelJobs(task: Task): Promise<string[]> {
    const { id, jobs_to_cancel } = task;
    const left = await Promise.all(
      jobs_to_cancel.map(async (job) => {
        try {
          await runpod.cancel(job);
          log.info({ task: id, job }, 'superseded job cancelled');
          return [];
        } catch (error) {
          const isOver = jobsEndIn(task, config, now()) <= 0;
          const next = isOver ? 'its time limit is over' : 'will be retried';
          log.warn({ task: id, job, error }, `superseded job could not be cancelled; ${next}`);
          return isOver ? [] : [job];
        }
      }),
    );
    return left.flat();
  }

  async function changesOf(task: Task, unknownJob: string | undefined): Promise<Changes> {
    const changes = unknownJob === undefined ? undefined : await adoptJob(task, unknownJob);
    if (changes) return { nextRunIn: 0, ...changes };
    if (!isActive(task.status)) return afterEnd(task, { config, bucket, now });
    if (now() > task.created_at + config.taskDeadline) return onDeadline(task, now());
    return task.job_id === null ? submit(task) : pollJob(task, task.job_id);
  }

  async function adoptJob(task: Task, jobId: string): Promise<Changes | undefined> {
    if (task.job_id === jobId || task.jobs_to_cancel.includes(jobId)) return undefined;
    const job = await runpod.getStatus(jobId);
    const changes = job && onUnknownJob(task, jobId, job, now());
    if (!changes || Object.keys(changes).length === 0) return undefined;
    log.warn(
      { task: task.id, job: jobId, status: job.status },
      'RunPod called back for a job that the task did not know',
    );
    return changes;
  }

  async function pollJob(task: Task, jobId: string): Promise<Changes> {
    const job = await runpod.getStatus(jobId);
    if (job && isUnfinished(job) && task.cancel_requested_at !== null) {
      const seen = onJobStatus(task, job, now()); // RunPod may forget what the job has used
      await runpod.cancel(jobId);
      const after = await runpod.getStatus(jobId); // it may have ended with a result
      return { ...seen, ...(after && (await onStatus({ ...task, ...seen }, after))) };
    }
    if (job) return onStatus(task, job);
    if (now() - task.submitted_at! < LOST_AFTER) return {};
    log.warn({ task: task.id, job: jobId }, 'RunPod does not know the job any more');
    return (await storedResult(task, bucket, now())) ?? { nextRunIn: 0, ...onJobLost(task, now()) };
  }

  async function onStatus(task: Task, job: RunPodJob): Promise<Changes> {
    const changes = onJobStatus(task, job, now());
    const isUndecided = changes.status === 'canceled' && (await isAsking(task, bucket, now()));
    return isUndecided ? { nextRunIn: SECOND } : changes;
  }

  /** What the bucket says about a task that is to end without a result: RunPod may have lost the result, or the job may have been killed. */
  async function resultBefore(task: Task, { status }: Changes): Promise<Changes | undefined> {
    const hadJob = task.jobs + task.failures > 0;
    if (status === 'succeeded' || !hadJob) return undefined;
    const stored = await storedResult(task, bucket, now());
    return stored && (stored.status === 'succeeded' || status === 'failed') ? { error: null, ...stored } : undefined;
  }

  /** @param unknownJob a job from a callback, which the task may not know */
  return async (read: Task, unknownJob?: string): Promise<Changes & Pick<Task, 'jobs_to_cancel' | 'failures'>> => {
    const jobs_to_cancel = await cancelJobs(read);
    const task = { ...read, jobs_to_cancel };
    const state = { jobs_to_cancel, failures: jobs_to_cancel.length > 0 ? read.failures + 1 : 0 };
    try {
      const changes = await changesOf(task, unknownJob);
      if (!endsTask(task, changes)) return { ...state, ...changes };
      const end = { ...changes, ...(await resultBefore(task, changes)) };
      return { ...state, ...end, cost: await charge(task, end, bucket) };
    } catch (error) {
      log.warn({ task: task.id, error }, 'task could not be advanced; will be retried');
      return { ...state, failures: task.failures + 1 };
    }
  };
}

/**
 * Deletes the upload of an ended task, which nothing needs any more: later tasks animate `still.png`, and a repeated request is known by
 * its hash. Expires prompt and files when it is time.
 */
async function afterEnd(
  task: Task,
  { config, bucket, now }: Pick<Dependencies, 'config' | 'bucket' | 'now'>,
): Promise<Changes> {
  const { retain } = config;
  const { id, image_key, expired_at, finished_at, jobs_to_cancel, failures } = task;
  const kept = Math.min(retain, finished_at! + retain - now()); // the clock may have been ahead at the task's end
  if (expired_at === null && kept <= 0) return { nextRunIn: 0, ...redacted(task, now()) }; // without the bucket
  if (expired_at !== null) await bucket.delete(taskFolder(id));
  else if (image_key !== null) await bucket.delete(image_key);
  // A job may still write files until its ttl is over, so they are deleted once more after that.
  const next = expired_at === null ? kept : jobsEndIn(task, config, now());
  // A job that RunPod refuses to cancel must not delay the deletion.
  const retryIn = jobs_to_cancel.length > 0 ? backoff(failures + 1) : Infinity;
  const nextRunIn = Math.min(next > 0 ? next : Infinity, retryIn);
  return { image_key: null, nextRunIn: nextRunIn === Infinity ? null : nextRunIn };
}

/** When all jobs of the task have exceeded their ttl; milliseconds from now. */
const jobsEndIn = ({ created_at }: Task, { taskDeadline }: Dependencies['config'], now: number) =>
  Math.min(0, created_at - now) + taskDeadline + MINUTE;
