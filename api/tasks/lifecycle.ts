/**
 * Brings every task to its end, and its files to theirs: submits tasks without a job, looks at those with one, cancels jobs that nobody
 * wants, deletes what is kept long enough, each when it is due. What is due when lies in the store, so a process that dies forgets
 * nothing; RunPod's callbacks and callers who watch only make a look come sooner. What there is to do for a task is said in
 * `step.ts`, what comes of it in `transition.ts`.
 *
 * Several processes may share a store. Whoever advances a task holds its lease, from before it asks RunPod until the answer is stored:
 *
 *   free ──claimed when due, or woken──▶ leased ──stored──▶ free, due again later
 *     ▲                                    │
 *     └──given back, or run out after LEASE┘  somebody else changed it; the process died
 */
import { EventEmitter } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { taskFolder } from '../../core/job.ts';
import { isActive } from '../../core/responses.ts';
import { SECOND } from '../../core/time.ts';
import type { Store } from '../store/store.ts';
import { type Changes, endsTask, type Task } from '../store/task.ts';
import { charge } from './charge.ts';
import { backoff, createSteps, type StepOptions } from './step.ts';
import { onCancelRequest, redacted } from './transition.ts';

/** How long whoever has taken a task may need before another takes it: more than a submission's time-out and the bucket's patience. */
const LEASE = 60 * SECOND;
/** The store is asked at least so often what is due: another process may have died over it. */
const POLL = 5 * SECOND;
/** A look at a job that nobody watches; a callback comes sooner. */
const UNWATCHED = 10 * SECOND;
/** How long somebody who asked for a task counts as watching it. */
const ATTENTION = 20 * SECOND;
/** Tasks taken at a time. */
const CLAIMS = 50;

/** What callers see change while a task goes on. */
const SHOWN = ['status', 'stage', 'step', 'progress', 'still', 'expired_at'] as const;

export interface LifecycleOptions extends StepOptions {
  store: Store;
  /** called when a webhook is due */
  onDeliveryAdded?: () => void;
  /** called with each task that this process has ended, after that is stored */
  onTaskEnded?: (task: Task) => void;
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
  const { store, bucket, retain, watchInterval = SECOND, log, now = Date.now } = options;
  const { onDeliveryAdded = () => {}, onTaskEnded = () => {} } = options;
  const steps = createSteps(options);
  const changes = new EventEmitter<Record<string, [Task]>>().setMaxListeners(0);
  const flights = new Map<string, Flight>(); // tasks being advanced by this process
  const watched = new Map<string, { until: number; seen: Task }>(); // `seen`: as it was last told
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
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
    const step = await steps.step(read, found);
    const ends = endsTask(read, step);
    const nextRunIn = step.failures
      ? backoff(step.failures)
      : ends
        ? step.jobs_to_cancel.length > 0
          ? 0
          : retain
        : lookIn(read);
    const updated = await save(read, { nextRunIn, ...step });
    if (updated) told(updated, read);
    return updated !== undefined;
  }

  /** Milliseconds until the next look at a task that goes on. */
  const lookIn = ({ id }: Task) => ((watched.get(id)?.until ?? 0) > now() ? watchInterval : UNWATCHED);

  /** After a change is stored. */
  function told(task: Task, before: Task): void {
    tell(task, before);
    if (isActive(task.status) || !isActive(before.status)) return;
    if (task.input.webhook_url !== undefined) onDeliveryAdded();
    onTaskEnded(task);
    log.info({ task: task.id, status: task.status, code: task.error?.code, ms: now() - task.created_at }, 'task ended');
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
        const isOurs = isActive(current.status) && current.leased_until === task.leased_until;
        if (!job_id || isOurs) {
          const jobs_to_cancel = [...new Set([...current.jobs_to_cancel, ...(changes.jobs_to_cancel ?? [])])];
          const updated = await store.update(current, { ...changes, ...(current !== task && { jobs_to_cancel }) });
          if (updated) return updated;
        } else if (await store.update(current, { jobs_to_cancel: [...current.jobs_to_cancel, job_id], runNow: true })) {
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
      if (!isActive(task.status)) watched.delete(task.id);
    }
    if (SHOWN.some((name) => task[name] !== shown[name])) changes.emit(task.id, task);
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
        const { due = POLL, waiting = POLL, out } = await store.nextDue();
        const allowed = steps.room(out);
        room = allowed.room;
        wait = Math.min(due, room > 0 ? waiting : allowed.pause || POLL, POLL);
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
  async function change(
    task: Task,
    changesOf: (task: Task) => Changes | undefined | Promise<Changes | undefined>,
  ): Promise<Task> {
    for (let current: Task | undefined = task; current; current = await store.get(task.id)) {
      const changes = await changesOf(current);
      if (!changes) return current;
      const updated = await store.update(current, { ...changes, runNow: true });
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
    onCallback(task: Task, jobId: string | undefined): void {
      wake(task.id, jobId === undefined ? {} : { found: jobId });
    },

    /**
     * Ends the task, or sees to it that it ends soon; an ended one stays as it is.
     * @returns the task as it then is
     * @throws StorageError it was not canceled: what it has cost can't be known now
     */
    cancel: (task: Task): Promise<Task> =>
      change(task, async (task) => {
        if (!isActive(task.status) || task.cancel_requested_at !== null) return undefined;
        const changes = onCancelRequest(task, now());
        return changes.status ? { ...changes, cost: await charge(task, changes, bucket) } : changes;
      }),

    /** Deletes the files and the prompt of an ended task. @throws Error the bucket is away: callers see them no more; they will be deleted */
    async expire(task: Task): Promise<Task> {
      const expired = await change(task, (task) => (task.expired_at === null ? redacted(task, now()) : undefined));
      await bucket.delete(taskFolder(task.id));
      return expired;
    },

    /** Somebody wants to know: the task is looked at now, and more often for a while. */
    watch(task: Task): void {
      if (!isActive(task.status)) return;
      const watcher = watched.get(task.id);
      const isNew = !watcher || watcher.until <= now();
      watched.set(task.id, { until: now() + ATTENTION, seen: isNew ? task : watcher.seen });
      if (!isNew) return;
      wake(task.id);
      startTicking();
    },

    /** Calls back at each change of a task, until the returned function is called. */
    subscribe(id: string, listener: (task: Task) => void): () => void {
      changes.on(id, listener);
      return () => changes.off(id, listener);
    },

    async start(): Promise<void> {
      await store.rescheduleExpiry(retain, now());
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
