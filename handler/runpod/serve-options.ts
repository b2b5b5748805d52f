import type { Log } from './job-log.ts';

export interface ServeOptions {
  /** how many jobs may be in hand at once, perhaps asked anew before each is taken; default 1 */
  concurrency?: number | (() => number);
  /** run in order before any job is taken; the first that throws is reported to RunPod, and the worker ends */
  fitness?: Record<string, () => Promise<void>>;
  /** asks for a fresh worker after each job, and ends */
  refreshWorker?: boolean;
  /** chunks are also gathered, and are the job's output in the end */
  aggregateStream?: boolean;
  env?: NodeJS.ProcessEnv;
  /** where `--test_input` and `--rp_serve_api` are looked for; default: the process's own */
  argv?: string[];
  /** one event, for the log; default: lines of JSON on standard output */
  log?: Log;
  /** when aborted, the worker takes no more jobs and ends when those in hand have; default: SIGTERM or SIGINT */
  signal?: AbortSignal;
  /** how long jobs in hand may still run then, in milliseconds; afterwards they are aborted and fail as retryable; default 30 s */
  grace?: number;
}

/** A job in hand. */
export interface Held {
  id: string;
  /** aborts the job */
  controller: AbortController;
  /** ends the job as failed, whatever its handler does */
  fail: (error: unknown) => void;
}

/** Does a job's work in such a way that errors which nobody caught can be told to be its own; `failed` rejects with them. */
export type InJob = <R>(id: string, work: (job: Held, failed: Promise<never>) => Promise<R>) => Promise<R>;
