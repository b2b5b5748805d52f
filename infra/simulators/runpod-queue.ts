/**
 * RunPod's job queue in memory. `runpod-queue-server.ts` is its HTTP side.
 *
 *   IN_QUEUE ──take──▶ IN_PROGRESS ──report──▶ COMPLETED | FAILED
 *      │  ▲                │ │ └──executionTimeout──▶ TIMED_OUT
 *      │  └─worker silent──┘ └──cancel──▶ CANCELLED
 *      └──cancel, purge──▶ CANCELLED
 *   FAILED | TIMED_OUT ──retry──▶ IN_QUEUE
 *
 * A job is deleted when its ttl has passed since submission, or 30 minutes after its end (1 minute if it came by /runsync).
 * Timeouts happen on time by themselves: the queue sleeps until the next one.
 */
import { randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { HOUR, MINUTE, SECOND } from '../../core/time.ts';
import { type Clock, PriorityQueue, realClock } from './clock.ts';

export type JobStatus = 'IN_QUEUE' | 'IN_PROGRESS' | 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT';

/** Times are milliseconds by the queue's clock. */
export interface QueuedJob {
  id: string;
  /** the number of its submission; the least is taken first */
  order: number;
  input: unknown;
  status: JobStatus;
  created: number;
  started?: number;
  ended?: number;
  workerId?: string;
  /** the last progress while the job runs, its output afterwards */
  output?: unknown;
  error?: string;
  /** chunks that no client has fetched yet */
  stream: unknown[];
  retries: number;
  webhook?: string | undefined;
  /** whether it came by /runsync */
  sync: boolean;
  /** maximum durations: of running, from submission to deletion, from the end to deletion */
  executionTimeout: number;
  ttl: number;
  retention: number;
}

export interface QueueOptions {
  /** a job goes back into the queue when its worker has been silent this long; milliseconds, default 30 s */
  workerTimeout?: number;
  /** default: real time */
  clock?: Clock;
  /** called when a job has ended */
  onEnd?: (job: QueuedJob) => void;
}

export interface Submission {
  input: unknown;
  webhook?: string | null | undefined;
  /** milliseconds. RunPod's lowPriority is missing: it keeps RunPod from starting workers, and nothing here starts workers. */
  policy?: { executionTimeout?: number | undefined; ttl?: number | undefined } | null | undefined;
  sync?: boolean;
  /** milliseconds; default 30 minutes, or 1 minute for a `sync` job */
  retention?: number;
}

/** Topics of `waitForChange`, besides a job's id: a job to take, a job that the worker has to stop, any change. */
export const NEW_WORK = 'new work';
export const stopTopic = (workerId: string) => `stop at ${workerId}`;
const ANYTHING = 'anything';

interface QueueWorker {
  lastSeen: number;
  jobs: Set<QueuedJob>;
  /** ids of jobs that it has to stop and does not know of yet */
  stops: Set<string>;
}

export class RunPodQueue {
  readonly #workerTimeout: number;
  readonly #clock: Clock;
  readonly #onEnd: ((job: QueuedJob) => void) | undefined;

  readonly #jobs = new Map<string, QueuedJob>();
  readonly #counts = { IN_QUEUE: 0, IN_PROGRESS: 0, COMPLETED: 0, FAILED: 0, CANCELLED: 0, TIMED_OUT: 0 };
  readonly #waiting = new PriorityQueue<QueuedJob>(); // those in the queue, and some that have left it
  readonly #workers = new Map<string, QueueWorker>();
  #submitted = 0;
  #retried = 0;

  /** ids of jobs by the time of their next timeout; entries of the past are harmless */
  readonly #timeouts = new PriorityQueue<string>();
  #alarm = { at: Infinity, cancel: new AbortController() };
  readonly #changes = new EventEmitter().setMaxListeners(0); // an event for each topic
  #isClosed = false;

  constructor({ workerTimeout = 30 * SECOND, clock = realClock(), onEnd }: QueueOptions = {}) {
    this.#workerTimeout = workerTimeout;
    this.#clock = clock;
    this.#onEnd = onEnd;
  }

  // For clients.

  submit({ input, webhook, policy, sync = false, retention }: Submission): QueuedJob {
    const { executionTimeout = 10 * MINUTE, ttl = 24 * HOUR } = policy ?? {};
    const job: QueuedJob = {
      id: `${sync ? 'sync-' : ''}${randomUUID()}-u1`,
      order: this.#submitted++,
      input,
      webhook: webhook ?? undefined,
      executionTimeout,
      ttl,
      retention: retention ?? (sync ? MINUTE : 30 * MINUTE),
      status: 'IN_QUEUE',
      created: this.#clock.now(),
      stream: [],
      retries: 0,
      sync,
    };
    this.#jobs.set(job.id, job);
    this.#counts.IN_QUEUE++;
    this.#waiting.add(job.order, job);
    this.#schedule(job);
    this.#notify(NEW_WORK);
    return job;
  }

  /** A job that has not been deleted. */
  find(id: string) {
    return this.#jobs.get(id);
  }

  cancel(job: QueuedJob) {
    if (job.status !== 'IN_QUEUE' && job.status !== 'IN_PROGRESS') return;
    this.#requestStop(job);
    this.#end(job, 'CANCELLED');
  }

  /** Queues a failed or timed-out job again, without its outcome. @returns false for any other job */
  retry(job: QueuedJob): boolean {
    if (job.status !== 'FAILED' && job.status !== 'TIMED_OUT') return false;
    job.retries++;
    this.#retried++;
    this.#requeue(job);
    return true;
  }

  /** Cancels all jobs in the queue; running ones go on. @returns how many */
  purge(): number {
    const count = this.#counts.IN_QUEUE;
    for (let job = this.#nextWaiting(); job; job = this.#nextWaiting()) this.#end(job, 'CANCELLED');
    return count;
  }

  /** Jobs that have not been deleted by state, and workers that are alive by what they do. */
  health() {
    const ready = [...this.#workers.values()].filter(
      ({ lastSeen }) => this.#clock.now() - lastSeen < this.#workerTimeout,
    );
    const running = ready.filter((worker) => worker.jobs.size > 0).length;
    const { COMPLETED: completed, FAILED: failed, IN_PROGRESS: inProgress, IN_QUEUE: inQueue } = this.#counts;
    return {
      jobs: { completed, failed, inProgress, inQueue, retried: this.#retried },
      workers: { idle: ready.length - running, initializing: 0, ready: ready.length, running, throttled: 0 },
    };
  }

  // For workers.

  /** Notes that the worker is alive. */
  touchWorker(workerId: string) {
    this.#worker(workerId).lastSeen = this.#clock.now();
  }

  /** The platform knows that this worker is gone: its jobs go back into the queue at once. */
  workerLost(workerId: string) {
    for (const job of [...(this.#workers.get(workerId)?.jobs ?? [])]) this.#requeue(job);
    this.#workers.delete(workerId);
  }

  /** Gives the worker the oldest jobs in the queue, at most `count`. */
  take(workerId: string, count: number): QueuedJob[] {
    const worker = this.#worker(workerId);
    const taken: QueuedJob[] = [];
    while (taken.length < count) {
      const job = this.#nextWaiting();
      if (!job) break;
      this.#setStatus(job, 'IN_PROGRESS');
      Object.assign(job, { workerId, started: this.#clock.now() });
      worker.jobs.add(job);
      worker.stops.delete(job.id); // of an earlier attempt
      this.#schedule(job);
      taken.push(job);
    }
    if (taken.length > 0) this.#notify();
    return taken;
  }

  /** Ids of jobs that the worker has to stop. Each is returned once. */
  takeStops(workerId: string): string[] {
    const stops = this.#workers.get(workerId)?.stops;
    const ids = [...(stops ?? [])];
    stops?.clear();
    return ids;
  }

  /** A worker's progress or outcome. It changes nothing if the job is not, or no longer, this worker's. */
  report(
    job: QueuedJob,
    workerId: string,
    { status, output, error }: { status?: string; output?: unknown; error?: string },
  ) {
    if (!isRunningAt(job, workerId)) return;
    if (status === 'IN_PROGRESS') {
      job.output = output;
      this.#notify();
    } else if (error !== undefined) {
      this.#end(job, 'FAILED', { error });
    } else {
      this.#end(job, 'COMPLETED', { output: output ?? null });
    }
  }

  addChunk(job: QueuedJob, workerId: string, output: unknown) {
    if (!isRunningAt(job, workerId)) return;
    job.stream.push(output);
    this.#notify();
  }

  // Time and changes.

  /** Applies the timeouts whose time has come. Happens by itself, unless the clock runs ahead: then call it before each request. */
  applyTimeouts() {
    const now = this.#clock.now();
    while (this.#timeouts.nextPriority <= now) {
      const job = this.#jobs.get(this.#timeouts.shift()!);
      if (!job) continue;
      const { deletion, execution, silence } = this.#timeoutsOf(job);
      if (deletion <= now) {
        this.#delete(job);
        continue;
      }
      if (execution <= now) {
        this.#requestStop(job);
        this.#end(job, 'TIMED_OUT');
      } else {
        if (silence <= now) this.#requeue(job);
        this.#schedule(job);
      }
    }
    this.#setAlarm();
  }

  /** Resolves at the next change of the topic (default: any change), after `ms`, or when the signal is aborted. */
  async waitForChange(ms: number, signal?: AbortSignal, topic = ANYTHING): Promise<void> {
    const woken = new AbortController();
    const wake = () => woken.abort();
    this.#changes.once(topic, wake);
    signal?.addEventListener('abort', wake, { signal: woken.signal });
    if (signal?.aborted || this.#isClosed) wake();
    await this.#clock.sleep(ms, woken.signal);
    wake(); // removes the signal's listener
    this.#changes.off(topic, wake);
  }

  /**
   * Calls `check` now and after each change of the topic, until it returns something truthy, `ms` have passed, the signal is aborted or the
   * queue is closed. @returns the last value; undefined when the signal was aborted
   */
  async waitUntil<T>(check: () => T, ms: number, signal: AbortSignal, topic: string): Promise<T | undefined> {
    const deadline = this.#clock.now() + ms;
    while (!signal.aborted) {
      const value = check();
      const remaining = deadline - this.#clock.now();
      if (value || remaining <= 0 || this.#isClosed) return value;
      await this.waitForChange(remaining, signal, topic);
    }
  }

  /** Stops all timeouts and ends all waits for changes. */
  close() {
    this.#isClosed = true;
    this.#alarm.cancel.abort();
    for (const topic of this.#changes.eventNames()) this.#changes.emit(topic);
  }

  // Transitions.

  #setStatus(job: QueuedJob, status: JobStatus) {
    if (job.workerId !== undefined) this.#workers.get(job.workerId)?.jobs.delete(job);
    this.#counts[job.status]--;
    this.#counts[status]++;
    job.status = status;
  }

  #end(job: QueuedJob, status: JobStatus, result: { output?: unknown; error?: string } = {}) {
    this.#setStatus(job, status);
    delete job.output; // progress
    Object.assign(job, result, { ended: this.#clock.now() });
    this.#schedule(job);
    this.#onEnd?.(job);
    this.#notify(job.id);
  }

  #requeue(job: QueuedJob) {
    this.#setStatus(job, 'IN_QUEUE');
    for (const field of ['workerId', 'started', 'ended', 'output', 'error'] as const) delete job[field];
    job.stream = [];
    this.#waiting.add(job.order, job);
    this.#notify(NEW_WORK);
  }

  #delete(job: QueuedJob) {
    this.#requestStop(job);
    if (job.workerId !== undefined) this.#workers.get(job.workerId)?.jobs.delete(job);
    this.#counts[job.status]--;
    this.#jobs.delete(job.id);
    this.#notify(job.id);
  }

  #requestStop(job: QueuedJob) {
    if (job.status !== 'IN_PROGRESS') return;
    this.#worker(job.workerId!).stops.add(job.id);
    this.#notify(stopTopic(job.workerId!));
  }

  #nextWaiting(): QueuedJob | undefined {
    for (let job = this.#waiting.shift(); job; job = this.#waiting.shift())
      if (job.status === 'IN_QUEUE' && this.#jobs.has(job.id)) return job;
    return undefined;
  }

  /** The worker's entry; a new one also removes those of workers that have been silent for long. */
  #worker(id: string): QueueWorker {
    const known = this.#workers.get(id);
    if (known) return known;
    const now = this.#clock.now();
    for (const [other, { lastSeen }] of this.#workers)
      if (now - lastSeen > 10 * this.#workerTimeout) this.#workers.delete(other);
    const worker = { lastSeen: now, jobs: new Set<QueuedJob>(), stops: new Set<string>() };
    this.#workers.set(id, worker);
    return worker;
  }

  /** The times of a job's timeouts, as far as they are known now. */
  #timeoutsOf(job: QueuedJob) {
    const isRunning = job.status === 'IN_PROGRESS';
    const lastSeen = isRunning ? Math.max(this.#workers.get(job.workerId!)?.lastSeen ?? 0, job.started!) : Infinity;
    return {
      deletion: Math.min(job.created + job.ttl, (job.ended ?? Infinity) + job.retention),
      execution: isRunning ? job.started! + job.executionTimeout : Infinity,
      silence: lastSeen + this.#workerTimeout,
    };
  }

  #schedule(job: QueuedJob) {
    this.#timeouts.add(Math.min(...Object.values(this.#timeoutsOf(job))), job.id);
    this.#setAlarm();
  }

  #setAlarm() {
    const at = this.#timeouts.nextPriority;
    if (at >= this.#alarm.at || this.#isClosed) return;
    this.#alarm.cancel.abort();
    const cancel = new AbortController();
    this.#alarm = { at, cancel };
    void this.#clock.sleep(at - this.#clock.now(), cancel.signal).then(() => {
      if (cancel.signal.aborted) return;
      this.#alarm.at = Infinity;
      this.applyTimeouts();
    });
  }

  #notify(...topics: string[]) {
    for (const topic of [...topics, ANYTHING]) this.#changes.emit(topic);
  }
}

const isRunningAt = (job: QueuedJob, workerId: string) => job.status === 'IN_PROGRESS' && job.workerId === workerId;
