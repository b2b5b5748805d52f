import type { Log } from './job-log.ts';

export interface ServeOptions {
  /** how many jobs run at once, a whole number from 1; a function is called before each take. Default 1 */
  concurrency?: number | (() => number);
  /** checks by name, run in order before the first job. The first that throws is reported to RunPod and ends the worker. Default none */
  fitness?: Record<string, () => Promise<void>>;
  /** whether the worker asks RunPod for a fresh worker after a job, and ends. Default false */
  refreshWorker?: boolean;
  /** whether the chunks of a generator are also the job's output. Default false: it is empty */
  aggregateStream?: boolean;
  /** RunPod's variables. Default `process.env` */
  env?: NodeJS.ProcessEnv;
  /** RunPod's flags, such as `--test_input`. Default the process's own */
  argv?: string[];
  /** called with each event. Default: a line of JSON on standard output */
  log?: Log;
  /** ends the worker when aborted. Default: the first SIGTERM or SIGINT does; the second ends the process */
  signal?: AbortSignal;
  /** how long running jobs may go on when the worker has to end, before they are aborted; milliseconds. Default 30 s */
  gracePeriod?: number;
}
