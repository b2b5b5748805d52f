/**
 * RunPod's queue on this machine: its jobs, their states and transitions. `queue-server.ts` puts HTTP in front of it.
 *
 *   IN_QUEUE ──take──▶ IN_PROGRESS ──done──▶ COMPLETED | FAILED
 *      │  ▲                │ │ └──executionTimeout──▶ TIMED_OUT
 *      │  └─worker silent──┘ └──cancel──▶ CANCELLED
 *      └──cancel, purge──▶ CANCELLED
 *   FAILED | TIMED_OUT ──retry──▶ IN_QUEUE
 *
 * A job is forgotten when its ttl has passed since submission, or 30 minutes after it ended.
 */
import { randomUUID } from 'node:crypto';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

export type JobStatus = 'IN_QUEUE' | 'IN_PROGRESS' | 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT';

export interface QueuedJob {
  id: string;
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
  /** milliseconds */
  executionTimeout: number;
  ttl: number;
}

export interface QueueOptions {
  /** a job whose worker has not been heard of for so long goes back into the queue; milliseconds */
  silentAfter?: number;
  now?: () => number;
  /** called when a job with a webhook has ended */
  onEnd?: (job: QueuedJob) => void;
}

export interface Submission {
  input: unknown;
  webhook?: string | undefined;
  policy?: { executionTimeout?: number | undefined; ttl?: number | undefined } | undefined;
}

export type Queue = ReturnType<typeof createQueue>;

export function createQueue({ silentAfter = 30 * SECOND, now = Date.now, onEnd = () => {} }: QueueOptions = {}) {
  const jobs = new Map<string, QueuedJob>(); // in order of submission
  const workers = new Map<string, { heard: number }>();
  const stopping = new Map<string, Set<string>>(); // worker → jobs that it shall stop
  const waiting = new Set<() => void>(); // whoever waits for something to change
  let retried = 0;

  const changed = () => {
    for (const wake of [...waiting]) wake();
  };
  const isEnded = (job: QueuedJob) => job.status !== 'IN_QUEUE' && job.status !== 'IN_PROGRESS';

  function end(job: QueuedJob, status: JobStatus, result: { output?: unknown; error?: string } = {}) {
    delete job.output; // progress
    Object.assign(job, result, { status, ended: now() });
    onEnd(job);
    changed();
  }

  function tellToStop(job: QueuedJob) {
    if (job.status !== 'IN_PROGRESS' || !job.workerId) return;
    stopping.set(job.workerId, (stopping.get(job.workerId) ?? new Set()).add(job.id));
  }

  function requeue(job: QueuedJob) {
    job.status = 'IN_QUEUE';
    delete job.workerId;
    delete job.started;
    delete job.ended;
    delete job.output;
    delete job.error;
    job.stream = [];
    changed();
  }

  return {
    submit({ input, webhook, policy = {} }: Submission): QueuedJob {
      const { executionTimeout = 10 * MINUTE, ttl = 24 * HOUR } = policy;
      const job: QueuedJob = {
        id: `${randomUUID()}-u1`,
        input,
        webhook,
        executionTimeout,
        ttl,
        status: 'IN_QUEUE',
        created: now(),
        stream: [],
        retries: 0,
      };
      jobs.set(job.id, job);
      changed();
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
      const queued = [...jobs.values()].filter((job) => job.status === 'IN_QUEUE');
      for (const job of queued) end(job, 'CANCELLED');
      return queued.length;
    },

    heard(workerId: string) {
      workers.set(workerId, { heard: now() });
    },

    /** The platform knows that this worker is no more: its jobs go back into the queue at once. */
    lost(workerId: string) {
      workers.delete(workerId);
      for (const job of jobs.values()) if (job.status === 'IN_PROGRESS' && job.workerId === workerId) requeue(job);
    },

    /** The oldest waiting jobs, at most `count`, for this worker. */
    take(workerId: string, count: number): QueuedJob[] {
      const taken = [...jobs.values()].filter((job) => job.status === 'IN_QUEUE').slice(0, count);
      for (const job of taken) {
        Object.assign(job, { status: 'IN_PROGRESS', workerId, started: now() });
        stopping.get(workerId)?.delete(job.id); // of an earlier try
      }
      if (taken.length > 0) changed();
      return taken;
    },

    /** Jobs that this worker shall stop, each told once. */
    stops(workerId: string): string[] {
      const ids = [...(stopping.get(workerId) ?? [])];
      stopping.delete(workerId);
      return ids;
    },

    /** A worker's word on a job; nothing if the job is no longer its own. */
    report(
      job: QueuedJob,
      workerId: string,
      { status, output, error }: { status?: string; output?: unknown; error?: string },
    ) {
      if (job.status !== 'IN_PROGRESS' || job.workerId !== workerId) return;
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
      if (job.status !== 'IN_PROGRESS' || job.workerId !== workerId) return;
      job.stream.push(output);
      changed();
    },

    /** What the passing of time does. Called before every look. */
    sweep() {
      const time = now();
      for (const job of jobs.values()) {
        if (time - job.created > job.ttl || (job.ended !== undefined && time - job.ended > 30 * MINUTE)) {
          tellToStop(job);
          jobs.delete(job.id);
          changed();
        } else if (job.status === 'IN_PROGRESS') {
          const heard = Math.max(workers.get(job.workerId!)?.heard ?? 0, job.started!);
          if (time - job.started! > job.executionTimeout) {
            tellToStop(job);
            end(job, 'TIMED_OUT');
          } else if (time - heard > silentAfter) {
            requeue(job);
          }
        }
      }
      for (const [id, { heard }] of workers) if (time - heard > 10 * silentAfter) workers.delete(id);
    },

    /** Resolves at the next change of anything, after `ms`, or when the signal comes. */
    change(ms: number, signal?: AbortSignal): Promise<void> {
      return new Promise((resolve) => {
        const finish = () => {
          waiting.delete(finish);
          clearTimeout(timer);
          signal?.removeEventListener('abort', finish);
          resolve();
        };
        const timer = setTimeout(finish, ms);
        waiting.add(finish);
        signal?.addEventListener('abort', finish);
        if (signal?.aborted) finish();
      });
    },

    health() {
      const count = (status: JobStatus) => [...jobs.values()].filter((job) => job.status === status).length;
      const busy = new Set([...jobs.values()].filter((job) => job.status === 'IN_PROGRESS').map((job) => job.workerId))
        .size;
      const alive = [...workers.values()].filter(({ heard }) => now() - heard <= silentAfter).length;
      return {
        jobs: {
          completed: count('COMPLETED'),
          failed: count('FAILED'),
          inProgress: count('IN_PROGRESS'),
          inQueue: count('IN_QUEUE'),
          retried,
        },
        workers: { idle: Math.max(0, alive - busy), initializing: 0, ready: alive, running: busy, throttled: 0 },
      };
    },
  };
}
