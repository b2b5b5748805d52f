/**
 * Brings every task to its end: submits those without a job, looks at those with one, each when it is due. What is due when lies in
 * the store, so a process that dies forgets nothing; RunPod's callbacks and callers who watch only make a look come sooner.
 *
 * Several processes may share a store. Whoever advances a task holds its lease, from before it asks RunPod until the answer is stored:
 *
 *   free ──claimed when due, or woken──▶ leased ──stored──▶ free, due again later
 *     ▲                                    │
 *     └──given back, or run out after LEASE┘  somebody else changed it; the process died
 */
import { EventEmitter } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import { type Bucket, getJson } from '../../handler/bucket/bucket.ts';
import { type JobInput, taskFolder } from '../../handler/job.ts';
import type { RunPod } from '../runpod.ts';
import { type Changes, isOpen, type Store, type Task } from '../store/store.ts';
import { gpuTime } from './estimate.ts';
import { afterLook, afterLoss, completed, expired, failed, LOST_AFTER } from './transition.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;

/** How long whoever has taken a task may need before another takes it: more than a submission's time-out and the bucket's patience. */
const LEASE = 60 * SECOND;
/** The store is asked at least so often what is due: another process may have died over it. */
const POLL = 5 * SECOND;
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
  /** milliseconds between looks at a task that somebody watches, at RunPod and, for what other processes changed, in the store */
  watchInterval?: number;
  /** called when a webhook is due */
  onAnnouncement?: () => void;
  log: Logger;
  now?: () => number;
}

interface Flight {
  /** whether it was woken meanwhile */
  again: boolean;
  /** the task under a lease that is ours, to begin with */
  claimed: Task | undefined;
  done: Promise<void>;
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
  const flights = new Map<string, Flight>(); // tasks being advanced by this process
  const watched = new Map<string, { until: number; seen: Task }>(); // `seen`: as it was last told
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;

  /** Advances a task now, or once more if that is just happening; not if another process does. */
  function wake(id: string, claimed?: Task): void {
    if (stopped) return;
    const flight = flights.get(id);
    if (flight) {
      flight.again = true;
      flight.claimed ??= claimed;
      return;
    }
    const started: Flight = { again: false, claimed, done: Promise.resolve() };
    flights.set(id, started);
    started.done = (async () => {
      try {
        do {
          started.again = false;
          const { claimed } = started;
          started.claimed = undefined; // before anything is awaited: another may come meanwhile
          const [task] = claimed ? [claimed] : await store.claim([id], { lease: LEASE });
          if (task) await advance(task);
        } while (started.again && !stopped);
      } catch (error) {
        log.error({ task: id, error }, 'task could not be advanced; it will be tried again');
      } finally {
        flights.delete(id);
        arm();
      }
    })();
  }

  /** One step of a task whose lease is ours: the changes are found, then stored, then told. */
  async function advance(task: Task): Promise<void> {
    const step = await next(task);
    const watching = (watched.get(task.id)?.until ?? 0) > now();
    const due_in = step.failures ? backoff(step.failures) : watching ? watchInterval : UNWATCHED;
    const ends = step.status !== undefined && !isOpen(step.status);
    const announces = ends && task.input.webhook_url !== undefined; // in the same write that ends it
    const updated = await save(task, { failures: 0, due_in, webhook_due_in: announces ? 0 : null, ...step });
    if (!updated) return store.release(task); // somebody else changed it meanwhile: it is looked at anew
    tell(updated, task);
    if (!ends) return;
    if (announces) onAnnouncement();
    log.info(
      { task: task.id, status: updated.status, code: updated.error?.code, ms: now() - task.created_at },
      'task ended',
    );
  }

  /**
   * A job that the store does not learn of would get a second beside it. So a store that is out of reach is asked again while the lease
   * lasts, and a submission is stored also when somebody without the lease has changed the task meanwhile.
   */
  async function save(task: Task, changes: Changes): Promise<Task | undefined> {
    const until = now() + LEASE;
    for (let wait = SECOND / 10, current = task; ; wait = Math.min(5 * SECOND, 2 * wait)) {
      try {
        const updated = await store.update(current, changes);
        if (updated || !changes.job_id) return updated;
        const read = await store.get(task.id);
        if (!read || !isOpen(read.status) || read.leased_until !== task.leased_until) {
          log.warn({ task: task.id, job: changes.job_id }, 'a job was submitted that the task does not want any more');
          return undefined;
        }
        current = read;
      } catch (error) {
        if (stopped || now() > until) throw error;
        log.warn({ task: task.id, error }, 'the task could not be stored; it will be tried again');
        await delay(wait);
      }
    }
  }

  /** Tells listeners of a change, once, whether this process made it or found it in the store. */
  function tell(task: Task, before: Task): void {
    const watcher = watched.get(task.id);
    if (watcher) {
      if (watcher.seen.version >= task.version) return;
      watcher.seen = task;
      if (!isOpen(task.status)) watched.delete(task.id);
    }
    if (SHOWN.some((name) => task[name] !== before[name])) changes.emit(task.id, task);
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
      policy: { executionTimeout: runningTime ?? stillTimeout + 3 * gpuTime(task.input), ttl },
    });
    log.info({ task: task.id, job: job_id }, 'job submitted');
    return { job_id, submitted_at: now(), jobs: task.jobs + 1, due_in: watchInterval };
  }

  async function look(task: Task, jobId: string): Promise<Changes> {
    const job = await runpod.look(jobId);
    if (job) return afterLook(task, job, now());
    if (now() - task.submitted_at! < LOST_AFTER) return {};
    log.warn({ task: task.id, job: jobId }, 'RunPod has forgotten the job');
    return (await storedResult(task)) ?? { due_in: 0, ...afterLoss(task, now()) };
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
    const claimed = await store.claimDue({ lease: LEASE, limit: CLAIMS });
    for (const task of claimed) wake(task.id, task);
    arm();
  }

  let arming: Promise<void> | undefined;
  let armAgain = false;
  /** Sets the timer for whatever is due next. */
  function arm(): void {
    armAgain = true;
    arming ??= (async () => {
      let wait: number | undefined;
      while (armAgain && !stopped) {
        armAgain = false; // what changes from here on may be missing in the answer
        wait = await store.dueIn();
      }
      arming = undefined;
      clearTimeout(timer);
      if (!stopped) timer = setTimeout(() => void turn().catch(retryLater), Math.max(10, Math.min(POLL, wait ?? POLL)));
    })().catch(retryLater);
  }

  function retryLater(error: unknown): void {
    arming = undefined;
    if (stopped) return;
    log.error({ error }, 'the store could not be reached; it will be tried again');
    clearTimeout(timer);
    timer = setTimeout(arm, SECOND);
  }

  let ticking: Promise<void> | undefined;
  let ticker: NodeJS.Timeout | undefined;
  /** Where other processes change tasks too: looks in the store for what they did to those that are watched here, all in one query. */
  async function tick(): Promise<void> {
    for (const [id, { until }] of watched) if (until <= now()) watched.delete(id);
    const ids = [...watched.keys()];
    try {
      for (const task of await store.getMany(ids)) tell(task, watched.get(task.id)?.seen ?? task);
      // A process where nobody watches has put the next look far off.
      for (const task of await store.claim(ids, { lease: LEASE, dueAfter: watchInterval })) wake(task.id, task);
    } catch (error) {
      log.error({ error }, 'the store could not be reached for tasks that are watched; it will be tried again');
    }
    ticker = undefined;
    if (watched.size > 0) startTicking();
  }

  function startTicking(): void {
    if (!store.isShared || stopped) return;
    ticker ??= setTimeout(() => {
      ticking = tick();
    }, watchInterval);
  }

  return {
    wake,

    /** Somebody wants to know: the task is looked at now, and more often for a while. */
    watch(task: Task): void {
      if (!isOpen(task.status)) return;
      const watcher = watched.get(task.id);
      const isNew = !watcher || watcher.until <= now();
      watched.set(task.id, { until: now() + ATTENTION, seen: isNew ? task : watcher.seen });
      if (!isNew) return;
      wake(task.id);
      startTicking();
    },

    /** Calls back at each change of a task, until the returned function is called. */
    onChange(id: string, listener: (task: Task) => void): () => void {
      changes.on(id, listener);
      return () => changes.off(id, listener);
    },

    start: arm,

    /** Resolves when no step is under way. */
    async stop(): Promise<void> {
      stopped = true;
      clearTimeout(timer);
      clearTimeout(ticker);
      await ticking;
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
