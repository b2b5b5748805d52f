/**
 * The worker's life at RunPod's queue.
 *
 * The worker is serving → ending → ended. It is serving until `ending` is aborted: it takes jobs, at most `concurrency` at once. While it
 * is ending it takes none. Active jobs may go on for the grace period, are then aborted, and 5 s later failed. It has ended when no job
 * is active.
 *
 * A job is active from its take until its outcome has been accepted or refused; pings name it as long. RunPod may stop it: then it has no
 * outcome, but stays active until its handler has returned.
 */
import { SECOND } from '../../core/time.ts';
import { ActiveJobs, type RunInJob } from './active-jobs.ts';
import { pause, withJitter } from './delivery.ts';
import type { Log } from './job-log.ts';
import { startPings } from './pings.ts';
import type { Queue, Take } from './queue-client.ts';
import type { Handler } from './run-handler.ts';
import { rejectJob, runJob, STOPPED } from './run-job.ts';
import type { ServeOptions } from './serve-options.ts';

/** After takes that failed: doubles from `first`. */
const TAKE_RETRY = { first: 250, max: 5 * SECOND };
/** After 429. */
const THROTTLE_DELAY = 5 * SECOND;
/** milliseconds; a server that answers "no job" faster does not hold polls and is not asked again at once */
const QUICK_ANSWER = 100;
/** Between an ending worker's abort of a job and its failure. */
const ABORT_GRACE = 5 * SECOND;

const NO_INPUT = new TypeError('the job has no input');

/** The options of `serve`, resolved. */
export interface QueueOptions extends Required<Omit<ServeOptions, 'fitness' | 'argv' | 'signal' | 'concurrency'>> {
  concurrency: () => number;
  runInJob: RunInJob;
  /** ends the worker when aborted */
  ending: AbortController;
}

export async function serveQueue(handler: Handler, queue: Queue, options: QueueOptions) {
  const { concurrency, refreshWorker, env, log, ending, gracePeriod } = options;
  log({ event: 'serving', workerId: queue.workerId, concurrency: concurrency() });
  const pings = startPings(queue.pings, Number(env.RUNPOD_PING_INTERVAL) || 10 * SECOND, log);
  const active = new ActiveJobs(options.runInJob, pings.setJobs);
  const ended = new AbortController();
  const stopLoop = queue.pollStops && stopJobs(queue.pollStops, active, ended.signal, log);

  const runOptions = { ...options, handler, queue };
  const refresh = () => {
    if (refreshWorker) ending.abort();
  };
  const start = (take: Take & { status: 'jobs' }): Error | undefined => {
    const jobs = take.jobs.filter(({ id }) => !active.has(id));
    for (const { id } of take.jobs.filter(({ id }) => active.has(id))) log({ event: 'job given twice', jobId: id });
    const withoutInput = take.withoutInput.filter((id) => !active.has(id));
    for (const job of jobs) active.start(job.id, (own) => runJob(job, own, runOptions).finally(refresh));
    for (const id of withoutInput) active.start(id, () => rejectJob(id, NO_INPUT, queue, log).finally(refresh));
    if (take.malformed > 0) return new Error('job-take gave a job without id');
    if (jobs.length === 0) return new Error('job-take gave no job that can be run');
  };
  await takeJobs(queue, active, concurrency, start, ending.signal, log);

  log({ event: 'stopping', jobs: active.ids });
  const error = new Error('the worker had to stop');
  const abort = setTimeout(() => active.abort(active.ids, error), gracePeriod);
  const fail = setTimeout(() => active.failAll(error), gracePeriod + ABORT_GRACE);
  await active.allEnded();
  clearTimeout(abort);
  clearTimeout(fail);
  ended.abort();
  await Promise.all([stopLoop, pings.stop()]);
  log({ event: 'stopped' });
}

/** Takes jobs whenever slots are free, until the signal. @param start starts the jobs of a take; @returns what is wrong with it */
async function takeJobs(
  queue: Queue,
  active: ActiveJobs,
  concurrency: () => number,
  start: (take: Take & { status: 'jobs' }) => Error | undefined,
  signal: AbortSignal,
  log: Log,
) {
  let failures = 0; // in a row
  while (!signal.aborted) {
    const free = concurrency() - active.size;
    if (free <= 0) {
      await active.oneEnded(signal);
      continue;
    }
    const pollStart = performance.now();
    const take = await queue.take(free, active.size > 0, signal).catch(() => undefined);
    if (!take) return; // the signal was aborted
    const error = take.status === 'error' ? take.error : take.status === 'jobs' ? start(take) : undefined;
    failures = error ? failures + 1 : 0;
    if (error) {
      log({ event: 'take failed', error });
      await pause(withJitter(Math.min(TAKE_RETRY.max, TAKE_RETRY.first * 2 ** (failures - 1))), signal);
    } else if (take.status === 'throttled') {
      await pause(THROTTLE_DELAY, signal);
    } else if (take.status === 'empty' && performance.now() - pollStart < QUICK_ANSWER) {
      await pause(withJitter(TAKE_RETRY.first), signal);
    }
  }
}

/** Aborts the jobs that RunPod wants to stop. */
async function stopJobs(pollStops: NonNullable<Queue['pollStops']>, active: ActiveJobs, signal: AbortSignal, log: Log) {
  while (!signal.aborted) {
    const answer = await pollStops(signal).catch((error: unknown) => {
      if (!signal.aborted && !(error instanceof DOMException)) log({ event: 'stop poll failed', error });
      return [];
    });
    if (answer === 'throttled') await pause(THROTTLE_DELAY, signal);
    else if (active.abort(answer, STOPPED) === 0) await pause(SECOND, signal); // the server may not hold polls
  }
}
