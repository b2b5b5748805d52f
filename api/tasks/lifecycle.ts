/**
 * Brings every task to its end, and deletes its files when they expire. The parts:
 *
 *   scheduler  claims tasks that are due
 *   runner     advances one task by one step after another (step.ts), under its lease
 *   watchers   make a step come sooner for clients that watch, and notify them
 *
 * The store holds all state that must survive. RunPod's callbacks and watching clients only make a step come sooner.
 */
import { taskFolder } from '../../core/job.ts';
import { isActive } from '../../core/task-status.ts';
import { SECOND } from '../../core/time.ts';
import { isNotified } from '../../core/webhook-events.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Changes, Task } from '../store/task.ts';
import { charge, isAsking } from './charge.ts';
import { onCancelRequest, redacted } from './job-transitions.ts';
import { createRunner } from './runner.ts';
import { createScheduler } from './scheduler.ts';
import { createStep } from './step.ts';
import { createSubmitter, watchInterval } from './submission.ts';
import { createWatchers } from './watchers.ts';

/** Poll interval for a job that nobody watches; a callback comes sooner. */
const UNWATCHED_INTERVAL = 10 * SECOND;
/** For RunPod's answer about the job of a task that a client cancels. */
const CANCEL_TIMEOUT = 3 * SECOND;

export interface LifecycleOptions extends Dependencies {
  /** called when a webhook delivery may be due */
  onDeliveryAdded: () => void;
  /** called with a running task at each change of its progress, if its webhook is notified of that */
  onProgress: (task: Task) => void;
  /** called with each task that this process has ended, after that is stored */
  onTaskEnded: (task: Task) => void;
}

export type Lifecycle = ReturnType<typeof createLifecycle>;

export function createLifecycle(options: LifecycleOptions) {
  const { config, store, bucket, onDeliveryAdded, onProgress, onTaskEnded, log, now, uptime } = options;
  const { retain } = config;
  const interval = watchInterval(options.isQueueLocal);
  const submitter = createSubmitter(options);
  const onClaimed = (task: Task) => runner.run(task.id, { claimed: task });
  const scheduler = createScheduler(options, submitter, onClaimed);
  const watchers = createWatchers({ store, interval, onWatched: (id) => runner.run(id), onClaimed, log, now: uptime });
  const runner = createRunner({
    store,
    step: createStep(options, submitter.submit),
    pollDelay: ({ id, input }) => (watchers.isWatched(id) || isFollowed(input) ? interval : UNWATCHED_INTERVAL),
    retain,
    afterCommit,
    onIdle: scheduler.wake,
    log,
    now: uptime,
  });

  function afterCommit(task: Task, before: Task): void {
    watchers.notify(task, before);
    if (task.input.webhook_url !== undefined && task.status !== before.status) onDeliveryAdded();
    if (isProgress(task, before) && isNotified(task.input, 'progress')) onProgress(task);
    if (isActive(task.status) || !isActive(before.status)) return;
    onTaskEnded(task);
    log.info({ task: task.id, status: task.status, code: task.error?.code, ms: now() - task.created_at }, 'task ended');
  }

  /**
   * Changes a task for its owner, also if other processes change it at the same time.
   * @param changesOf undefined: nothing is to change
   * @returns the task afterwards
   */
  async function change(task: Task, changesOf: (task: Task) => Promise<Changes | undefined>): Promise<Task> {
    for (let current: Task | undefined = task; current; current = await store.get(task.id)) {
      const changes = await changesOf(current);
      if (!changes) return current;
      const updated = await store.update(current, { ...changes, runNow: true });
      if (!updated) continue;
      afterCommit(updated, current);
      runner.run(task.id);
      return updated;
    }
    throw new Error(`task ${task.id} does not exist any more`);
  }

  return {
    /** To be called after a task is stored. */
    dispatch: scheduler.wake,

    /** To be called when RunPod calls back for a task; `jobId` is the job that it names, if any. */
    onCallback(task: Task, jobId: string | undefined): void {
      runner.run(task.id, jobId === undefined ? {} : { unknownJob: jobId });
    },

    /**
     * Ends the task, or requests that it ends soon. An ended task stays as it is.
     * @returns the task afterwards
     * @throws StorageError the task was not canceled, since its cost can't be determined now
     */
    cancel: (task: Task): Promise<Task> =>
      change(task, async (task) => {
        if (!isActive(task.status) || task.cancel_requested_at !== null) return undefined;
        const changes = onCancelRequest(task, await hasBegun(task, options), now());
        return changes.status ? { ...changes, cost: await charge(task, changes, bucket) } : changes;
      }),

    /**
     * Deletes the files and the prompt of an ended task.
     * @throws StorageError the bucket can't be reached: clients don't see the files any more, and they will be deleted
     */
    async expire(task: Task): Promise<Task> {
      const expired = await change(task, async (task) =>
        task.expired_at === null ? redacted(task, now()) : undefined,
      );
      await bucket.delete(taskFolder(task.id));
      return expired;
    },

    /** Polls the task more often for the next 20 s, and at once if nobody watched it. */
    watch: watchers.watch,

    /** Calls `listener` at each change of a task. @returns a function that ends the subscription */
    subscribe: watchers.subscribe,

    async start(): Promise<void> {
      await store.rescheduleExpiry(retain, now());
      scheduler.wake();
    },

    /** Resolves when no step is running. */
    async stop(): Promise<void> {
      await Promise.all([scheduler.stop(), watchers.stop(), runner.stop()]);
    },
  };
}

/** Whether a webhook follows the task while it is active, as a watching client does. */
const isFollowed = (input: Task['input']) => isNotified(input, 'started') || isNotified(input, 'progress');

const isProgress = (task: Task, before: Task) =>
  task.status === 'running' &&
  before.status === 'running' &&
  (task.stage !== before.stage || task.step !== before.step || task.progress !== before.progress);

/**
 * Cancels the job of a queued task at RunPod.
 * @returns whether the job has begun, so that its end decides about the task's cost; false if RunPod or the bucket can't say
 */
async function hasBegun(
  task: Task,
  { runpod, bucket, log, now }: Pick<Dependencies, 'runpod' | 'bucket' | 'log' | 'now'>,
): Promise<boolean> {
  const { id, status, job_id } = task;
  if (status !== 'queued' || job_id === null) return false;
  try {
    const job = await runpod.getStatus(job_id, CANCEL_TIMEOUT);
    if (job?.status !== 'IN_QUEUE') return job !== undefined && job.status !== 'CANCELLED';
    await runpod.cancel(job_id, CANCEL_TIMEOUT);
    return await isAsking(task, bucket, now()); // a worker may have taken it in between
  } catch (error) {
    log.warn({ task: id, job: job_id, error }, 'the job of a canceled task could not be cancelled yet');
    return false;
  }
}
