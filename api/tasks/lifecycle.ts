/**
 * Brings every task to its end: submits those without a job, looks at those with one, each when it is due. What is due when lies in
 * the store, so a process that dies forgets nothing; RunPod's callbacks and callers who watch only make a look come sooner.
 */
import { EventEmitter } from 'node:events';
import type { Logger } from 'pino';
import { type Bucket, getJson } from '../../handler/bucket/bucket.ts';
import { type JobInput, taskFolder } from '../../handler/job.ts';
import type { RunPod } from '../runpod.ts';
import { type Changes, isOpen, type Store, type Task } from '../store/store.ts';
import { afterLook, afterLoss, completed, expired, failed, LOST_AFTER } from './transition.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;

/** How long whoever has taken a task may need before another takes it. */
const LEASE = 60 * SECOND;
/** A look at a job that nobody watches; a callback comes sooner. */
const UNWATCHED = 10 * SECOND;
/** How long somebody who asked for a task counts as watching it. */
const ATTENTION = 20 * SECOND;
/** After a failed attempt to reach RunPod: 1 s, doubling to a minute. */
const backoff = (failures: number) => Math.min(MINUTE, SECOND * 2 ** (failures - 1));
const CLAIMS = 50;
/** What RunPod takes for a job's ttl. One that runs out before the task's deadline is a lost job, and there is a next one. */
const SHORTEST_TTL = 10 * SECOND;
const LONGEST_TTL = 7 * 24 * 60 * MINUTE;

/** What callers see change while a task goes on. */
const SHOWN = ['status', 'stage', 'step', 'progress', 'still'] as const;

export interface LifecycleOptions {
  store: Store;
  bucket: Bucket;
  runpod: RunPod;
  /** address that RunPod calls back for a task */
  callbackUrl: (token: string) => string;
  /** milliseconds */
  taskDeadline: number;
  /** how long a bridge may take; milliseconds */
  stillTimeout: number;
  /** how long any job may run, instead of an estimate for a GPU; milliseconds */
  runningTime?: number;
  /** milliseconds between looks at a task that somebody watches */
  watchInterval?: number;
  /** called when a webhook is due */
  onAnnouncement?: () => void;
  log: Logger;
  now?: () => number;
}

export type Lifecycle = ReturnType<typeof createLifecycle>;

export function createLifecycle(options: LifecycleOptions) {
  const {
    store,
    bucket,
    runpod,
    callbackUrl,
    taskDeadline,
    stillTimeout,
    runningTime,
    watchInterval = SECOND,
    onAnnouncement = () => {},
    log,
    now = Date.now,
  } = options;
  const changes = new EventEmitter<Record<string, [Task]>>().setMaxListeners(0);
  const flights = new Map<string, { again: boolean; done: Promise<void> }>(); // tasks being advanced by this process
  const watched = new Map<string, number>(); // until when
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  /** Advances a task now, or once more if that is just happening. */
  function wake(id: string, claimed?: Task): void {
    if (stopped) return;
    const flight = flights.get(id);
    if (flight) {
      flight.again = true;
      return;
    }
    const started = { again: false, done: Promise.resolve() };
    flights.set(id, started);
    started.done = (async () => {
      try {
        let task = claimed ?? (await store.get(id));
        while (task && isOpen(task.status)) {
          started.again = false;
          await advance(task);
          if (!started.again || stopped) break;
          task = await store.get(id);
        }
      } catch (error) {
        log.error({ task: id, error }, 'task could not be advanced; it will be tried again');
      } finally {
        flights.delete(id);
        arm();
      }
    })();
  }

  /** One step: the changes are found, then stored, then told. */
  async function advance(task: Task): Promise<void> {
    const step = await next(task);
    const watching = (watched.get(task.id) ?? 0) > now();
    const due_at = now() + (step.failures ? backoff(step.failures) : watching ? watchInterval : UNWATCHED);
    const ends = step.status !== undefined && !isOpen(step.status);
    const webhook_due_at = ends && task.input.webhook_url !== undefined ? now() : null; // announced in the same write that ends it
    const updated = await store.update(task, { failures: 0, due_at, webhook_due_at, ...step });
    if (!updated) return; // somebody else changed it meanwhile; it stays due
    if (SHOWN.some((name) => updated[name] !== task[name])) changes.emit(task.id, updated);
    if (ends) {
      watched.delete(task.id);
      if (webhook_due_at !== null) onAnnouncement();
      log.info(
        { task: task.id, status: updated.status, code: updated.error?.code, ms: now() - task.created_at },
        'task ended',
      );
    }
  }

  async function next(task: Task): Promise<Changes> {
    if (now() > task.created_at + taskDeadline) return expired(now());
    try {
      return task.job_id === null ? await submit(task) : await look(task, task.job_id);
    } catch (error) {
      log.warn({ task: task.id, error }, 'RunPod could not be reached');
      return { failures: task.failures + 1 };
    }
  }

  async function submit(task: Task): Promise<Changes> {
    const earlier = task.jobs > 0 ? await storedResult(task) : undefined;
    if (earlier) return earlier;
    const ttl = Math.min(LONGEST_TTL, Math.max(SHORTEST_TTL, task.created_at + taskDeadline - now()));
    const job_id = await runpod.submit({
      input: jobInput(task),
      webhook: callbackUrl(task.callback_token),
      policy: { executionTimeout: runningTime ?? stillTimeout + 3 * estimate(task), ttl },
    });
    log.info({ task: task.id, job: job_id }, 'job submitted');
    return { job_id, submitted_at: now(), jobs: task.jobs + 1, due_at: now() + watchInterval };
  }

  async function look(task: Task, jobId: string): Promise<Changes> {
    const job = await runpod.look(jobId);
    if (job) return afterLook(task, job, now());
    if (now() - task.submitted_at! < LOST_AFTER) return {};
    log.warn({ task: task.id, job: jobId }, 'RunPod has forgotten the job');
    return (await storedResult(task)) ?? { due_at: now(), ...afterLoss(task, now()) };
  }

  /** What a job left in the bucket, for RunPod keeps results for half an hour only. */
  async function storedResult(task: Task): Promise<Changes | undefined> {
    const result = (await getJson(bucket, `${taskFolder(task.id)}/result.json`)) as
      | { output?: unknown; error?: Task['error'] }
      | undefined;
    if (!result) return undefined;
    return result.error ? failed(result.error, now()) : completed(task, result.output, now());
  }

  /** Takes what is due, then waits until the next task is. */
  async function turn(): Promise<void> {
    const claimed = await store.claimDue(now(), { lease: LEASE, limit: CLAIMS });
    for (const task of claimed) wake(task.id, task);
    for (const [id, until] of watched) if (until <= now()) watched.delete(id);
    arm();
  }

  let arming: Promise<void> | undefined;
  /** Sets the timer for whatever is due next. */
  function arm(): void {
    arming ??= (async () => {
      const due = await store.nextDue();
      arming = undefined;
      if (stopped) return;
      clearTimeout(timer);
      if (due !== undefined)
        timer = setTimeout(() => void turn().catch(retryLater), Math.max(10, Math.min(MINUTE, due - now())));
    })().catch(retryLater);
  }

  function retryLater(error: unknown): void {
    arming = undefined;
    if (stopped) return;
    log.error({ error }, 'the store could not be reached; it will be tried again');
    clearTimeout(timer);
    timer = setTimeout(arm, SECOND);
  }

  return {
    wake,

    /** Somebody wants to know: the task is looked at now, and more often for a while. */
    watch(task: Task): void {
      if (!isOpen(task.status)) return;
      const already = (watched.get(task.id) ?? 0) > now();
      watched.set(task.id, now() + ATTENTION);
      if (!already) wake(task.id);
    },

    /** Calls back at each change of a task, until the returned function is called. */
    onChange(id: string, listener: (task: Task) => void): () => void {
      changes.on(id, listener);
      return () => changes.off(id, listener);
    },

    async start(): Promise<void> {
      await store.releaseAll(now());
      arm();
    },

    /** Resolves when no step is under way. */
    async stop(): Promise<void> {
      stopped = true;
      clearTimeout(timer);
      await Promise.all([...flights.values()].map(({ done }) => done));
      await arming;
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

/** Roughly how long a slow GPU samples and decodes; milliseconds. */
function estimate({ input }: Task): number {
  const size = (input.H * input.W * input.T) / (576 * 1024 * 25);
  return Math.round(Math.max(10, input.num_cols * size * (30 + 4 * input.steps)) * SECOND);
}
