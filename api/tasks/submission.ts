/** Submits tasks to RunPod, and limits how many. */
import { type Bucket, getJson } from '../../core/bucket/bucket.ts';
import { type JobInput, taskFolder } from '../../core/job.ts';
import { DRAFT } from '../../core/presets.ts';
import { DAY, SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import { UnansweredError } from '../runpod.ts';
import type { Changes, Task } from '../store/task.ts';
import { estimateGpuTime } from './estimate.ts';
import { backoff, completed, failed, LOST_AFTER } from './job-transitions.ts';

/**
 * Jobs at RunPod at a time, waiting and running. RunPod takes jobs in the order of their submission, so only what is held back here can
 * be shared fairly among keys. It is enough for RunPod to see how many workers are wanted.
 */
const MAX_JOBS_OUT = 100;
/** A key has at most nine times as many jobs at RunPod as places are free, so one key alone leaves ten places to others. */
const SHARE = 9;
/** RunPod's limits of a job's times. A job whose ttl ends before the task's deadline counts as lost, and the task gets another one. */
const MIN_TTL = 10 * SECOND;
const MAX_JOB_TIME = 7 * DAY;

/** Milliseconds between polls of a watched task, at RunPod and, for changes by other processes, in the store. */
export const watchInterval = (isQueueLocal: boolean) => (isQueueLocal ? 150 : SECOND);

export type Submitter = ReturnType<typeof createSubmitter>;

/**
 * The state is how RunPod responded to this process:
 *
 *   open ──a submission fails──▶ paused ──backoff is over──▶ probing, one task at a time ──it succeeds──▶ open
 */
export function createSubmitter({ config, bucket, runpod, isQueueLocal, log, now, uptime }: Dependencies) {
  let submitting = 0;
  let failures = 0; // consecutive
  let pausedUntil = 0;

  async function send(task: Task): Promise<Changes> {
    const ttl = Math.min(MAX_JOB_TIME, Math.max(MIN_TTL, task.created_at + config.taskDeadline - now()));
    const runTime = isQueueLocal
      ? config.taskDeadline
      : config.stillTimeout + 3 * estimateGpuTime(task.model, task.input);
    const executionTimeout = Math.min(MAX_JOB_TIME, runTime);
    try {
      const job_id = await runpod.submit({
        input: jobInput(task),
        webhook: `${config.callbackUrl}/runpod/callback/${task.callback_token}`,
        policy: { executionTimeout, ttl },
      });
      failures = 0;
      log.info({ task: task.id, job: job_id }, 'job submitted');
      return { job_id, submitted_at: now(), jobs: task.jobs + 1, nextRunIn: watchInterval(isQueueLocal) };
    } catch (error) {
      if (uptime() >= pausedUntil) pausedUntil = uptime() + backoff(++failures); // of submissions at the same time the first failure counts
      if (!(error instanceof UnansweredError)) throw error;
      log.warn({ task: task.id, error }, 'RunPod did not answer a submission');
      // There may be a job. It has a minute to call back, or to leave its result in the bucket.
      return { failures: task.failures + 1, nextRunIn: LOST_AFTER };
    }
  }

  return {
    /** @throws Error RunPod can't be reached or refuses the job; the bucket can't be reached */
    async submit(task: Task): Promise<Changes> {
      submitting++;
      try {
        const isFirst = task.jobs + task.failures === 0;
        return (isFirst ? undefined : await storedResult(task, bucket, now())) ?? (await send(task));
      } finally {
        submitting--;
      }
    },

    /**
     * @param out jobs at RunPod, and tasks that are submitted now
     * @returns how many tasks may be submitted now, and the places that they share (`FairClaim`); `pause`: milliseconds until there is capacity again, if a pause is the reason that
     * there is none, else 0
     */
    capacity(out: number): { tasks: number; pause: number; free: number; share: number } {
      const pause = Math.max(0, pausedUntil - uptime());
      const places = { free: MAX_JOBS_OUT - out, share: SHARE, pause };
      if (pause > 0) return { tasks: 0, ...places };
      return { tasks: failures > 0 ? Math.min(places.free, 1 - submitting) : places.free, ...places };
    },
  };
}

/** The end of a task according to the result that a job left in the bucket: RunPod itself keeps results for only half an hour. */
export async function storedResult(task: Task, bucket: Bucket, now: number): Promise<Changes | undefined> {
  const result = (await getJson(bucket, `${taskFolder(task.id)}/result.json`)) as
    | { output?: unknown; error?: Task['error'] }
    | undefined;
  if (!result) return undefined;
  return result.error ? failed(result.error, now) : completed(task, result.output, now);
}

/** The task's input, without what only the API needs. */
function jobInput(task: Task): JobInput {
  const { still_of: _, webhook_url: __, webhook_events: ___, image: ____, speed, ...input } = task.input;
  return {
    ...input,
    task_id: task.id,
    model: task.model,
    ...(speed === DRAFT.speed && { unet: DRAFT.unet }),
    ...(task.image_key !== null && { image_key: task.image_key }),
    ...(task.source_key !== null && { still_key: task.source_key }),
  };
}
