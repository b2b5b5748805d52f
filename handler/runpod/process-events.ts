import { AsyncLocalStorage } from 'node:async_hooks';
import type { Log } from './job-log.ts';

/** A job from its take until its outcome has been accepted or refused. */
export interface ActiveJob {
  id: string;
  /** aborts the handler's signal */
  controller: AbortController;
  /** rejects when `fail` is called */
  failed: Promise<never>;
  /** fails the job even if its handler goes on */
  fail: (error: unknown) => void;
}

/** Runs a job's work, so that uncaught errors can be traced to the job. */
export type RunInJob = <R>(id: string, work: (job: ActiveJob) => Promise<R>) => Promise<R>;

/**
 * Handles the events of the process until `unwatch`:
 * - the caller's signal, or without one the first SIGTERM or SIGINT: aborts `ending`. A second one of these ends the process
 * - an unhandled rejection: fails the job in which it arose
 * - an uncaught exception: the same, and aborts `ending`, because the state of the process is unknown. `uncaught` collects them
 */
export function watchProcess(ending: AbortController, signal: AbortSignal | undefined, log: Log) {
  const currentJob = new AsyncLocalStorage<ActiveJob>();
  const uncaught: unknown[] = [];

  function failCurrentJob(event: string, error: unknown) {
    const job = currentJob.getStore();
    log({ event, error, ...(job && { jobId: job.id }) });
    job?.controller.abort(error);
    job?.fail(error);
  }
  const onSignal = () => {
    if (ending.signal.aborted && !signal) process.exit(1);
    ending.abort();
  };
  const onRejection = (error: unknown) => failCurrentJob('unhandled rejection', error);
  const onException = (error: unknown) => {
    uncaught.push(error);
    failCurrentJob('uncaught exception', error);
    ending.abort();
  };
  process.on('unhandledRejection', onRejection).on('uncaughtException', onException);
  if (!signal) process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  if (signal?.aborted) onSignal();
  signal?.addEventListener('abort', onSignal, { once: true });

  const runInJob: RunInJob = (id, work) => {
    let fail: ActiveJob['fail'] = () => {};
    const failed = new Promise<never>((_, reject) => {
      fail = reject;
    });
    failed.catch(() => {}); // handled where it matters
    const job = { id, controller: new AbortController(), failed, fail };
    return currentJob.run(job, work, job);
  };
  return {
    runInJob,
    uncaught,
    unwatch() {
      process.off('unhandledRejection', onRejection).off('uncaughtException', onException);
      process.off('SIGTERM', onSignal).off('SIGINT', onSignal);
      signal?.removeEventListener('abort', onSignal);
    },
  };
}
