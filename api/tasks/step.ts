/**
 * What there is to do for a task now, as changes: RunPod is asked, the bucket too; nothing is stored here (`lifecycle.ts` does that), and
 * what an answer means is said in `transition.ts`.
 */
import type { Logger } from 'pino';
import { type Bucket, getJson } from '../../core/bucket/bucket.ts';
import { type JobInput, taskFolder } from '../../core/job.ts';
import { isActive } from '../../core/responses.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import { isUnfinished, type RunPod, UnansweredError } from '../runpod.ts';
import { type Changes, endsTask, type Task } from '../store/task.ts';
import { charge } from './charge.ts';
import { estimateGpuTime } from './estimate.ts';
import {
  completed,
  failed,
  LOST_AFTER,
  onDeadline,
  onJobLost,
  onJobStatus,
  onUnknownJob,
  redacted,
} from './transition.ts';

/** After a failed attempt to reach RunPod: 1 s, doubling to a minute. */
export const backoff = (failures: number) => Math.min(MINUTE, SECOND * 2 ** (failures - 1));
/**
 * Jobs at RunPod at a time, waiting and running. RunPod takes jobs in the order in which they come, so what is held back here is what can
 * still be shared out fairly among keys; it is enough for RunPod to see how many workers are wanted.
 */
const MAX_OUT = 100;
/** What RunPod takes for a job's ttl. One that runs out before the task's deadline is a lost job, and there is a next one. */
const SHORTEST_TTL = 10 * SECOND;
const LONGEST_TTL = 7 * 24 * 60 * MINUTE;

export interface StepOptions {
  bucket: Bucket;
  runpod: RunPod;
  /** address that RunPod calls back for a task */
  callbackUrl: (token: string) => string;
  /** milliseconds */
  taskDeadline: number;
  /** how long a bridge may take; milliseconds */
  stillTimeout: number;
  /** how long after a task's end its files and prompt are kept; milliseconds */
  retain: number;
  /** how long any job may run, instead of an estimate for a GPU; milliseconds */
  runningTime?: number;
  /** milliseconds between looks at a task that somebody watches, at RunPod and, for what other processes changed, in the store */
  watchInterval?: number;
  log: Logger;
  now?: () => number;
}

/** Steps of tasks, whose leases the caller has; they remember only how RunPod takes submissions. */
export function createSteps({
  bucket,
  runpod,
  callbackUrl,
  taskDeadline,
  stillTimeout,
  retain,
  runningTime,
  watchInterval = SECOND,
  log,
  now = Date.now,
}: StepOptions) {
  // Of submissions, by this process.
  let submitting = 0;
  let refused = 0; // in a row
  let pausedUntil = 0; // a RunPod that does not take one task is not asked to take the next at once

  /** @param found a job of which a callback told, and the task may not know */
  async function step(
    read: Task,
    found: string | undefined,
  ): Promise<Changes & Pick<Task, 'jobs_to_cancel' | 'failures'>> {
    const jobs_to_cancel = await cancelStrays(read);
    const failures = jobs_to_cancel.length > 0 ? read.failures + 1 : 0; // unless the step itself fails
    return { jobs_to_cancel, failures, ...(await next({ ...read, jobs_to_cancel }, found)) };
  }

  /** @returns those of the task's unwanted jobs that RunPod could not be told about */
  async function cancelStrays({ id, jobs_to_cancel }: Task): Promise<string[]> {
    const left = await Promise.all(
      jobs_to_cancel.map(async (job) => {
        try {
          await runpod.cancel(job);
          log.info({ task: id, job }, 'job cancelled');
          return [];
        } catch (error) {
          log.warn({ task: id, job, error }, 'job could not be cancelled; it will be tried again');
          return [job];
        }
      }),
    );
    return left.flat();
  }

  async function next(task: Task, found: string | undefined): Promise<Changes> {
    try {
      const changes = await changesOf(task, found);
      return endsTask(task, changes) ? { ...changes, cost: await charge(task, changes, bucket) } : changes;
    } catch (error) {
      log.warn({ task: task.id, error }, 'task could not be advanced; it will be tried again');
      return { failures: task.failures + 1 };
    }
  }

  async function changesOf(task: Task, found: string | undefined): Promise<Changes> {
    const changes = found === undefined ? undefined : await find(task, found);
    if (changes) return { nextRunIn: 0, ...changes };
    if (!isActive(task.status)) return afterEnd(task);
    if (now() > task.created_at + taskDeadline) return onDeadline(task, now());
    if (task.job_id !== null) return look(task, task.job_id);
    return submit(task);
  }

  /** What is left to do for an ended task; at last there is nothing. */
  async function afterEnd(task: Task): Promise<Changes> {
    if (task.jobs_to_cancel.length > 0) return {};
    if (task.expired_at === null) {
      const left = task.finished_at! + retain - now();
      return left > 0 ? { nextRunIn: left } : { nextRunIn: 0, ...redacted(task, now()) };
    }
    await bucket.delete(taskFolder(task.id));
    // RunPod lets no job live longer than until the deadline: after that nobody can leave anything there any more.
    const late = task.created_at + taskDeadline + MINUTE - now();
    return { nextRunIn: late > 0 ? late : null };
  }

  /** Asks RunPod for a job of which the task does not know. */
  async function find(task: Task, jobId: string): Promise<Changes | undefined> {
    if (task.job_id === jobId || task.jobs_to_cancel.includes(jobId)) return undefined;
    const job = await runpod.getStatus(jobId);
    const changes = job && onUnknownJob(task, jobId, job, now());
    if (!changes || Object.keys(changes).length === 0) return undefined;
    log.warn({ task: task.id, job: jobId, status: job.status }, 'a job was found that the task did not know');
    return changes;
  }

  async function submit(task: Task): Promise<Changes> {
    submitting++; // from here on: while the bucket is asked, too
    try {
      const earlier = task.jobs + task.failures > 0 ? await storedResult(task) : undefined;
      return earlier ?? (await send(task));
    } finally {
      submitting--;
    }
  }

  async function send(task: Task): Promise<Changes> {
    const ttl = Math.min(LONGEST_TTL, Math.max(SHORTEST_TTL, task.created_at + taskDeadline - now()));
    try {
      const job_id = await runpod.submit({
        input: jobInput(task),
        webhook: callbackUrl(task.callback_token),
        policy: { executionTimeout: runningTime ?? stillTimeout + 3 * estimateGpuTime(task.input), ttl },
      });
      refused = 0;
      log.info({ task: task.id, job: job_id }, 'job submitted');
      return { job_id, submitted_at: now(), jobs: task.jobs + 1, nextRunIn: watchInterval };
    } catch (error) {
      if (now() >= pausedUntil) pausedUntil = now() + backoff(++refused); // of many at once the first counts
      if (!(error instanceof UnansweredError)) throw error;
      // There may be a job: it has a minute to make itself known by a callback, or to leave its result in the bucket.
      log.warn({ task: task.id, error }, 'RunPod gave no answer to a submission');
      return { failures: task.failures + 1, nextRunIn: LOST_AFTER };
    }
  }

  async function look(task: Task, jobId: string): Promise<Changes> {
    let job = await runpod.getStatus(jobId);
    if (job && isUnfinished(job) && task.cancel_requested_at !== null) {
      await runpod.cancel(jobId);
      job = await runpod.getStatus(jobId); // it may have ended otherwise
    }
    if (job) return onJobStatus(task, job, now());
    if (now() - task.submitted_at! < LOST_AFTER) return {};
    log.warn({ task: task.id, job: jobId }, 'RunPod has forgotten the job');
    return (await storedResult(task)) ?? { nextRunIn: 0, ...onJobLost(task, now()) };
  }

  /** What a job left in the bucket, for RunPod keeps results for half an hour only. */
  async function storedResult(task: Task): Promise<Changes | undefined> {
    const result = (await getJson(bucket, `${taskFolder(task.id)}/result.json`)) as
      | { output?: unknown; error?: Task['error'] }
      | undefined;
    if (!result) return undefined;
    return result.error ? failed(result.error, now()) : completed(task, result.output, now());
  }

  return {
    step,

    /**
     * How many further tasks RunPod may be asked to take now, and after how many milliseconds that is to be asked again, if none.
     * @param out jobs that are there by now
     */
    room(out: number): { room: number; pause: number } {
      const pause = Math.max(0, pausedUntil - now());
      return { room: pause > 0 ? 0 : refused > 0 ? 1 - submitting : MAX_OUT - out - submitting, pause };
    },
  };
}

/** What the job carries: the task's input, without what is the API's own. */
function jobInput(task: Task): JobInput {
  const { still_of: _, webhook_url: __, ...input } = task.input;
  return {
    ...input,
    task_id: task.id,
    model: task.model,
    ...(task.image_key !== null && { image_key: task.image_key }),
    ...(task.source_key !== null && { still_key: task.source_key }),
  };
}
