/**
 * RunPod's queue on this machine: its jobs, their states and transitions. `queue-server.ts` puts HTTP in front of it.
 *
 *   IN_QUEUE ──take──▶ IN_PROGRESS ──done──▶ COMPLETED | FAILED
 *      │  ▲                │ │ └──executionTimeout──▶ TIMED_OUT
 *      │  └─worker silent──┘ └──cancel──▶ CANCELLED
 *      └──cancel, purge──▶ CANCELLED
 *   FAILED | TIMED_OUT ──retry──▶ IN_QUEUE
 *
 * A job is forgotten when its ttl has passed since submission, or 30 minutes after it ended (1 minute, if it came by /runsync).
 * What the passing of time does happens by itself, at its moment: each job is on an agenda under the time when something may fall due
 * for it, and the queue sleeps until the first of those. Nothing here looks at all jobs, so thousands of ended ones cost nothing.
 */
import { randomUUID } from 'node:crypto';
import { HOUR, MINUTE, SECOND } from '../../core/time.ts';
import { type Clock, createAgenda, realClock } from './clock.ts';

export type JobStatus = 'IN_QUEUE' | 'IN_PROGRESS' | 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT';

export interface QueuedJob {
  id: string;
  /** the number of its submission; the least is taken first */
  order: number;
  input: unknown;
  status: JobStatus;
  /** milliseconds, by the queue's clock */
  created: number;
  started?: number;
  ended?: number;
  workerId?: string;
  output?: unknown;
  error?: string;
  stream: unknown[];
  retries: number;
  webhook?: string | undefined;
  /** whether it came by /runsync */
  sync: boolean;
  /** milliseconds: of running, of existing, and of being kept after the end */
  executionTimeout: number;
  ttl: number;
  retention: number;
}

export interface QueueOptions {
  /** a job whose worker has not been heard of for so long goes back into the queue; milliseconds */
  workerTimeout?: number;
  /** for everything that takes time; the real one unless given */
  clock?: Clock;
  /** for a real clock that runs ahead; what falls due then is seen at the next request */
  now?: () => number;
  /** called when a job has ended */
  onEnd?: (job: QueuedJob) => void;
}

export interface Submission {
  input: unknown;
  webhook?: string | null | undefined;
  /** RunPod's lowPriority is not here: it keeps RunPod from starting workers for a job, and here nothing starts workers. */
  policy?: { executionTimeout?: number | undefined; ttl?: number | undefined } | null | undefined;
  sync?: boolean;
  /** how long it is kept after its end; milliseconds, 30 minutes unless given, or 1 minute for a `sync` one */
  retention?: number;
}

/** What `change` can wait for besides a job's own news (its id): work for any worker, a word for one worker, or anything. */
export const WORK = 'work';
export const stopsOf = (workerId: string) => `stops of ${workerId}`;
const ANYTHING = 'anything';

interface Worker {
  /** when; milliseconds */
  heard: number;
  jobs: Set<QueuedJob>;
  /** ids of jobs that it shall stop */
  stops: Set<string>;
}

export type Queue = ReturnType<typeof createQueue>;

export function createQueue({ workerTimeout = 30 * SECOND, now, clock = realClock(now), onEnd }: QueueOptions = {}) {
  const jobs = new Map<string, QueuedJob>();
  const counts = { IN_QUEUE: 0, IN_PROGRESS: 0, COMPLETED: 0, FAILED: 0, CANCELLED: 0, TIMED_OUT: 0 }; // of `jobs`
  const line = createAgenda<QueuedJob>(); // the waiting ones, and some that no longer wait
  const workers = new Map<string, Worker>();
  const waiting = new Map<string, Set<() => void>>(); // whoever waits, by what for
  let submitted = 0;
  let retried = 0;
  let isClosed = false;

  const agenda = createAgenda<string>(); // ids of jobs, by the time when each is looked at
  const looks = new Map<string, number>(); // job → the time that counts; it may be on the agenda for others too
  let alarm = { at: Infinity, off: new AbortController() };

  function changed(...topics: string[]) {
    for (const topic of [...topics, ANYTHING]) for (const wake of [...(waiting.get(topic) ?? [])]) wake();
  }
  const isEnded = (job: QueuedJob) => job.status !== 'IN_QUEUE' && job.status !== 'IN_PROGRESS';
  const isRunningAt = (job: QueuedJob, workerId: string) => job.status === 'IN_PROGRESS' && job.workerId === workerId;

  function workerOf(id: string): Worker {
    const known = workers.get(id);
    if (known) return known;
    for (const [other, { heard }] of workers) if (clock.now() - heard > 10 * workerTimeout) workers.delete(other);
    const worker = { heard: clock.now(), jobs: new Set<QueuedJob>(), stops: new Set<string>() };
    workers.set(id, worker);
    return worker;
  }

  function become(job: QueuedJob, status: JobStatus) {
    if (job.workerId !== undefined) workers.get(job.workerId)?.jobs.delete(job);
    counts[job.status]--;
    counts[status]++;
    job.status = status;
  }

  function end(job: QueuedJob, status: JobStatus, result: { output?: unknown; error?: string } = {}) {
    become(job, status);
    delete job.output; // progress
    Object.assign(job, result, { ended: clock.now() });
    lookInTime(job);
    onEnd?.(job);
    changed(job.id);
  }

  function tellToStop(job: QueuedJob) {
    if (job.status !== 'IN_PROGRESS') return;
    workerOf(job.workerId!).stops.add(job.id);
    changed(stopsOf(job.workerId!));
  }

  function requeue(job: QueuedJob) {
    become(job, 'IN_QUEUE');
    delete job.workerId;
    delete job.started;
    delete job.ended;
    delete job.output;
    delete job.error;
    job.stream = [];
    line.add(job.order, job);
    changed(WORK);
  }

  function forget(job: QueuedJob) {
    tellToStop(job);
    if (job.workerId !== undefined) workers.get(job.workerId)?.jobs.delete(job);
    counts[job.status]--;
    jobs.delete(job.id);
    looks.delete(job.id);
    changed(job.id);
  }

  /** When time next does something to the job, by what is known now. */
  function dueTimes(job: QueuedJob) {
    const isRunning = job.status === 'IN_PROGRESS';
    const heard = isRunning ? Math.max(workers.get(job.workerId!)?.heard ?? 0, job.started!) : Infinity;
    return {
      forgotten: Math.min(job.created + job.ttl, (job.ended ?? Infinity) + job.retention),
      timedOut: isRunning ? job.started! + job.executionTimeout : Infinity,
      silent: heard + workerTimeout,
    };
  }

  /** Puts the job on the agenda, unless it is looked at by then anyway. */
  function lookInTime(job: QueuedJob) {
    const { forgotten, timedOut, silent } = dueTimes(job);
    const at = Math.min(forgotten, timedOut, silent);
    if (at >= (looks.get(job.id) ?? Infinity)) return;
    looks.set(job.id, at);
    agenda.add(at, job.id);
    setAlarm();
  }

  /** What the passing of time does. Happens by itself; a clock that was set ahead needs it called before each look. */
  function sweep() {
    while (agenda.next() <= clock.now()) {
      const at = agenda.next();
      const id = agenda.shift()!;
      if (looks.get(id) !== at) continue; // another time counts now, or it is forgotten
      looks.delete(id);
      const job = jobs.get(id)!;
      const { forgotten, timedOut, silent } = dueTimes(job);
      if (forgotten <= clock.now()) {
        forget(job);
        continue;
      }
      if (timedOut <= clock.now()) {
        tellToStop(job);
        end(job, 'TIMED_OUT');
      } else if (silent <= clock.now()) {
        requeue(job);
      }
      lookInTime(job);
    }
    setAlarm();
  }

  function setAlarm() {
    const at = agenda.next();
    if (at >= alarm.at || isClosed) return;
    alarm.off.abort();
    const off = new AbortController();
    alarm = { at, off };
    void clock.sleep(at - clock.now(), off.signal).then(() => {
      if (off.signal.aborted) return;
      alarm.at = Infinity;
      sweep();
    });
  }

  return {
    submit({ input, webhook, policy, sync = false, retention }: Submission): QueuedJob {
      const { executionTimeout = 10 * MINUTE, ttl = 24 * HOUR } = policy ?? {};
      const job: QueuedJob = {
        id: `${sync ? 'sync-' : ''}${randomUUID()}-u1`,
        order: submitted++,
        input,
        webhook: webhook ?? undefined,
        executionTimeout,
        ttl,
        retention: retention ?? (sync ? MINUTE : 30 * MINUTE),
        status: 'IN_QUEUE',
        created: clock.now(),
        stream: [],
        retries: 0,
        sync,
      };
      jobs.set(job.id, job);
      counts.IN_QUEUE++;
      line.add(job.order, job);
      lookInTime(job);
      changed(WORK);
      return job;
    },

    /** A job that has not been forgotten. */
    find: (id: string) => jobs.get(id),

    cancel(job: QueuedJob) {
      if (isEnded(job)) return;
      tellToStop(job);
      end(job, 'CANCELLED');
    },

    /** Only what has failed can be tried again; its outcome is wiped. */
    retry(job: QueuedJob): boolean {
      if (job.status !== 'FAILED' && job.status !== 'TIMED_OUT') return false;
      job.retries++;
      retried++;
      requeue(job);
      return true;
    },

    /** Drops what waits; running jobs go on. */
    purge(): number {
      const before = counts.IN_QUEUE;
      for (let job = line.shift(); job; job = line.shift()) {
        if (job.status === 'IN_QUEUE' && jobs.has(job.id)) end(job, 'CANCELLED');
      }
      return before;
    },

    heard(workerId: string) {
      workerOf(workerId).heard = clock.now();
    },

    /** The platform knows that this worker is no more: its jobs go back into the queue at once. */
    workerLost(workerId: string) {
      for (const job of [...(workers.get(workerId)?.jobs ?? [])]) requeue(job);
      workers.delete(workerId);
    },

    /** The oldest waiting jobs, at most `count`, for this worker. */
    take(workerId: string, count: number): QueuedJob[] {
      const worker = workerOf(workerId);
      const taken: QueuedJob[] = [];
      while (taken.length < count) {
        const job = line.shift();
        if (!job) break;
        if (job.status !== 'IN_QUEUE' || !jobs.has(job.id)) continue; // cancelled or forgotten since
        become(job, 'IN_PROGRESS');
        Object.assign(job, { workerId, started: clock.now() });
        worker.jobs.add(job);
        worker.stops.delete(job.id); // of an earlier try
        lookInTime(job);
        taken.push(job);
      }
      if (taken.length > 0) changed();
      return taken;
    },

    /** Jobs that this worker shall stop, each told once. */
    stops(workerId: string): string[] {
      const stops = workers.get(workerId)?.stops;
      const ids = [...(stops ?? [])];
      stops?.clear();
      return ids;
    },

    /** A worker's word on a job; nothing if the job is no longer its own, or if it says the same again. */
    report(
      job: QueuedJob,
      workerId: string,
      { status, output, error }: { status?: string; output?: unknown; error?: string },
    ) {
      if (!isRunningAt(job, workerId)) return;
      if (status === 'IN_PROGRESS') {
        job.output = output;
        changed();
      } else if (error !== undefined) {
        end(job, 'FAILED', { error });
      } else {
        end(job, 'COMPLETED', { output: output ?? null });
      }
    },

    chunk(job: QueuedJob, workerId: string, output: unknown) {
      if (!isRunningAt(job, workerId)) return;
      job.stream.push(output);
      changed();
    },

    sweep,

    /** Resolves at the next change (of anything, unless a topic is named), after `ms`, or when the signal comes. */
    async waitForChange(ms: number, signal?: AbortSignal, topic = ANYTHING): Promise<void> {
      const awake = new AbortController();
      const wake = () => awake.abort();
      const others = waiting.get(topic) ?? new Set();
      waiting.set(topic, others.add(wake));
      signal?.addEventListener('abort', wake, { signal: awake.signal });
      if (signal?.aborted || isClosed) wake();
      await clock.sleep(ms, awake.signal);
      wake(); // takes the listener off
      others.delete(wake);
      if (others.size === 0) waiting.delete(topic);
    },

    /** Kept jobs by state, and workers that have been heard of by what they do. */
    health() {
      const ready = [...workers.values()].filter(({ heard }) => clock.now() - heard < workerTimeout);
      const running = ready.filter((worker) => worker.jobs.size > 0).length;
      return {
        jobs: {
          completed: counts.COMPLETED,
          failed: counts.FAILED,
          inProgress: counts.IN_PROGRESS,
          inQueue: counts.IN_QUEUE,
          retried,
        },
        workers: { idle: ready.length - running, initializing: 0, ready: ready.length, running, throttled: 0 },
      };
    },

    isClosed: () => isClosed,

    /** Time does nothing any more, and whoever waits for a change is let go. */
    close() {
      isClosed = true;
      alarm.off.abort();
      for (const topic of [...waiting.keys()]) changed(topic);
    },
  };
}
