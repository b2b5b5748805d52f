/**
 * Brings every task to its end, and its files to theirs: submits tasks without a job, looks at those with one, cancels jobs that nobody
 * wants, deletes what is kept long enough, each when it is due. What is due when lies in the store, so a process that dies forgets
 * nothing; RunPod's callbacks and callers who watch only make a look come sooner. What a look changes is said in `transition.ts`.
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
import { isGoingOn, type RunPod, Unanswered } from '../runpod.ts';
import { type Changes, isOpen, type Store, type Task } from '../store/store.ts';
import { gpuTime } from './estimate.ts';
import {
  afterCancel,
  afterFinding,
  afterLook,
  afterLoss,
  completed,
  failed,
  LOST_AFTER,
  tooLate,
  withoutContent,
} from './transition.ts';

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
/** Tasks taken at a time. */
const CLAIMS = 50;
/**
 * Jobs at RunPod at a time, waiting and running. RunPod takes jobs in the order in which they come, so what is held back here is what can
 * still be shared out fairly among keys; it is enough for RunPod to see how many workers are wanted.
 */
const MAX_OUT = 100;
/** What RunPod takes for a job's ttl. One that runs out before the task's deadline is a lost job, and there is a next one. */
const SHORTEST_TTL = 10 * SECOND;
const LONGEST_TTL = 7 * 24 * 60 * MINUTE;

/** What callers see change while a task goes on. */
const SHOWN = ['status', 'stage', 'step', 'progress', 'still', 'expired_at'] as const;

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
  /** how long after a task's end its files and prompt are kept; milliseconds */
  retain: number;
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
  /** jobs of which callbacks told, and the task did not know */
  found: string[];
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
    retain,
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

  // Of submissions, by this process.
  let submitting = 0;
  let refused = 0; // in a row
  let pausedUntil = 0; // a RunPod that does not take one task is not asked to take the next at once
  let room = 0; // tasks that may be submitted now

  /** Advances a task now, or once more if that is just happening; not if another process does, and not one that waits for a job. */
  function wake(id: string, { claimed, found }: { claimed?: Task; found?: string } = {}): void {
    if (stopped) return;
    const known = flights.get(id);
    const flight: Flight = known ?? { again: true, claimed: undefined, found: [], done: Promise.resolve() };
    flight.again = true;
    flight.claimed ??= claimed;
    if (found !== undefined && !flight.found.includes(found)) flight.found.push(found);
    if (known) return;
    flights.set(id, flight);
    flight.done = fly(id, flight);
  }

  async function fly(id: string, flight: Flight): Promise<void> {
    const patience = now() + LEASE;
    try {
      while (flight.again && !stopped) {
        const { claimed } = flight;
        const found = flight.found.shift();
        flight.again = flight.found.length > 0; // before anything is awaited: more may come
        flight.claimed = undefined;
        const [task] = claimed ? [claimed] : await store.claim([id], { lease: LEASE, waiting: found !== undefined });
        if (task && (await advance(task, found))) continue;
        if (task) await store.release(task); // somebody else has changed it meanwhile: it is looked at anew
        if (found === undefined || now() > patience) continue;
        if (!task) await delay(SECOND / 5); // somebody else has it
        wake(id, { found });
      }
    } catch (error) {
      log.error({ task: id, error }, 'task could not be advanced; it will be tried again');
    } finally {
      flights.delete(id);
      arm();
    }
  }

  /** One step of a task whose lease is ours: the changes are found, then stored, then told. @returns whether they could be stored */
  async function advance(read: Task, found: string | undefined): Promise<boolean> {
    const strays = await cancelStrays(read);
    const task = { ...read, strays };
    const failures = strays.length > 0 ? read.failures + 1 : 0; // unless the step itself failed
    const step = { strays, failures, ...(await next(task, found)) };
    const ends = isOpen(task.status) && step.status !== undefined && !isOpen(step.status);
    const due_in = step.failures ? backoff(step.failures) : ends ? (step.strays.length > 0 ? 0 : retain) : lookIn(task);
    const updated = await save(read, { due_in, ...step, ...(ends && announcement(task)) });
    if (updated) told(updated, read);
    return updated !== undefined;
  }

  /** Milliseconds until the next look at a task that goes on. */
  const lookIn = ({ id }: Task) => ((watched.get(id)?.until ?? 0) > now() ? watchInterval : UNWATCHED);

  /** In the same write that ends a task. */
  const announcement = (task: Task): Changes => ({ webhook_due_in: task.input.webhook_url === undefined ? null : 0 });

  /** After a change is stored. */
  function told(task: Task, before: Task): void {
    tell(task, before);
    if (isOpen(task.status) || !isOpen(before.status)) return;
    if (task.webhook_due_at !== null) onAnnouncement();
    log.info({ task: task.id, status: task.status, code: task.error?.code, ms: now() - task.created_at }, 'task ended');
  }

  /** @returns those of the task's unwanted jobs that RunPod could not be told about */
  async function cancelStrays({ id, strays }: Task): Promise<string[]> {
    const left = await Promise.all(
      strays.map(async (job) => {
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

  /**
   * A job that the store does not learn of would get a second beside it. So a store that is out of reach is asked again while the lease
   * lasts, and a job is stored also when somebody has changed the task meanwhile: if that was its end, or if the lease has run out, as
   * one that nobody wants.
   */
  async function save(task: Task, changes: Changes): Promise<Task | undefined> {
    const { job_id } = changes;
    const until = now() + LEASE;
    for (let wait = SECOND / 10, current = task; ; wait = Math.min(5 * SECOND, 2 * wait)) {
      try {
        const isOurs = isOpen(current.status) && current.leased_until === task.leased_until;
        if (!job_id || isOurs) {
          const strays = [...new Set([...current.strays, ...(changes.strays ?? [])])];
          const updated = await store.update(current, { ...changes, ...(current !== task && { strays }) });
          if (updated) return updated;
        } else if (await store.update(current, { strays: [...current.strays, job_id], hurry: true })) {
          log.warn({ task: task.id, job: job_id }, 'the task does not want its new job any more');
          return undefined;
        }
        const read = job_id ? await store.get(task.id) : undefined;
        if (!read) return undefined;
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
    const shown = watcher?.seen ?? before; // another process may have changed it since, and what was read then is news here
    if (watcher) {
      if (watcher.seen.version >= task.version) return;
      watcher.seen = task;
      if (!isOpen(task.status)) watched.delete(task.id);
    }
    if (SHOWN.some((name) => task[name] !== shown[name])) changes.emit(task.id, task);
  }

  async function next(task: Task, found: string | undefined): Promise<Changes> {
    try {
      const changes = found === undefined ? undefined : await find(task, found);
      if (changes) return { due_in: 0, ...changes };
      if (!isOpen(task.status)) return await afterEnd(task);
      if (now() > task.created_at + taskDeadline) return tooLate(task, now());
      if (task.job_id !== null) return await look(task, task.job_id);
      return await submit(task);
    } catch (error) {
      log.warn({ task: task.id, error }, 'task could not be advanced; it will be tried again');
      return { failures: task.failures + 1 };
    }
  }

  /** What is left to do for an ended task; at last there is nothing. */
  async function afterEnd(task: Task): Promise<Changes> {
    if (task.strays.length > 0) return {};
    if (task.expired_at === null) {
      const left = task.finished_at! + retain - now();
      return left > 0 ? { due_in: left } : { due_in: 0, ...withoutContent(task, now()) };
    }
    await bucket.delete(taskFolder(task.id));
    // RunPod lets no job live longer than until the deadline: after that nobody can leave anything there any more.
    const late = task.created_at + taskDeadline + MINUTE - now();
    return { due_in: late > 0 ? late : null };
  }

  /** Asks RunPod for a job of which the task does not know. */
  async function find(task: Task, jobId: string): Promise<Changes | undefined> {
    if (task.job_id === jobId || task.strays.includes(jobId)) return undefined;
    const job = await runpod.look(jobId);
    const changes = job && afterFinding(task, jobId, job, now());
    if (!changes || Object.keys(changes).length === 0) return undefined;
    log.warn({ task: task.id, job: jobId, status: job.status }, 'a job was found that the task did not know');
    return changes;
  }

  async function submit(task: Task): Promise<Changes> {
    const earlier = task.jobs + task.failures > 0 ? await storedResult(task) : undefined;
    if (earlier) return earlier;
    const ttl = Math.min(LONGEST_TTL, Math.max(SHORTEST_TTL, task.created_at + taskDeadline - now()));
    submitting++;
    try {
      const job_id = await runpod.submit({
        input: jobInput(task),
        webhook: callbackUrl(task.callback_token),
        policy: { executionTimeout: runningTime ?? stillTimeout + 3 * gpuTime(task.input), ttl },
      });
      refused = 0;
      log.info({ task: task.id, job: job_id }, 'job submitted');
      return { job_id, submitted_at: now(), jobs: task.jobs + 1, due_in: watchInterval };
    } catch (error) {
      if (now() >= pausedUntil) pausedUntil = now() + backoff(++refused); // of many at once the first counts
      if (!(error instanceof Unanswered)) throw error;
      // There may be a job: it has a minute to make itself known by a callback, or to leave its result in the bucket.
      log.warn({ task: task.id, error }, 'RunPod gave no answer to a submission');
      return { failures: task.failures + 1, due_in: LOST_AFTER };
    } finally {
      submitting--;
    }
  }

  async function look(task: Task, jobId: string): Promise<Changes> {
    let job = await runpod.look(jobId);
    if (job && isGoingOn(job) && task.cancel_requested_at !== null) {
      await runpod.cancel(jobId);
      job = await runpod.look(jobId); // it may have ended otherwise
    }
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
    if (room > 0) claimed.push(...(await store.claimWaiting({ lease: LEASE, limit: Math.min(room, CLAIMS) })));
    for (const task of claimed) wake(task.id, { claimed: task });
    arm();
  }

  let arming: Promise<void> | undefined;
  let armAgain = false;
  /** Sets the timer for whatever is due next. */
  function arm(): void {
    armAgain = true;
    arming ??= (async () => {
      let wait = POLL;
      while (armAgain && !stopped) {
        armAgain = false; // what changes from here on may be missing in the answer
        const { due = POLL, waiting = POLL, out } = await store.agenda();
        const pause = pausedUntil - now();
        room = pause > 0 ? 0 : refused > 0 ? 1 - submitting : MAX_OUT - out - submitting;
        wait = Math.min(due, pause > 0 ? pause : room > 0 ? waiting : POLL, POLL);
      }
      arming = undefined;
      clearTimeout(timer);
      if (!stopped) timer = setTimeout(() => void turn().catch(retryLater), Math.max(10, wait));
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
      for (const task of await store.claim(ids, { lease: LEASE, dueAfter: watchInterval }))
        wake(task.id, { claimed: task });
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

  /** Changes a task on behalf of its owner, whoever else changes it. @returns the task as it then is */
  async function change(task: Task, changesOf: (task: Task) => Changes | undefined): Promise<Task> {
    for (let current: Task | undefined = task; current; current = await store.get(task.id)) {
      const changes = changesOf(current);
      if (!changes) return current;
      const updated = await store.update(current, { ...changes, hurry: true });
      if (!updated) continue;
      told(updated, current);
      wake(task.id);
      return updated;
    }
    throw new Error(`task ${task.id} has vanished`);
  }

  return {
    /** There is a new task. Where RunPod has enough to do, the end of a job gives it its turn. */
    dispatch(): void {
      if (room > 0 || arming) arm();
    },

    /** RunPod says that something has happened to a job of the task. */
    callback(task: Task, jobId: string | undefined): void {
      wake(task.id, jobId === undefined ? {} : { found: jobId });
    },

    /** Ends the task, or sees to it that it ends soon; an ended one stays as it is. @returns the task as it then is */
    cancel: (task: Task): Promise<Task> =>
      change(task, (task) => {
        if (!isOpen(task.status) || task.cancel_requested_at !== null) return undefined;
        const changes = afterCancel(task, now());
        return { ...changes, ...(changes.status && announcement(task)) };
      }),

    /** Deletes the files and the prompt of an ended task. @throws Error the bucket is away: callers see them no more; they will be deleted */
    async expire(task: Task): Promise<Task> {
      const expired = await change(task, (task) =>
        task.expired_at === null ? withoutContent(task, now()) : undefined,
      );
      await bucket.delete(taskFolder(task.id));
      return expired;
    },

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

    async start(): Promise<void> {
      await store.hurryRetention(retain, now());
      arm();
    },

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
