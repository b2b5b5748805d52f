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

/** The options of `serve`, resolved. */
export interface WorkerOptions extends Required<Omit<ServeOptions, 'fitness' | 'argv' | 'signal' | 'concurrency'>> {
  concurrency: () => number;
  runInJob: RunInJob;
  /** ends the worker when aborted */
  ending: AbortController;
}

export class QueueWorker {
  readonly #active: ActiveJobs;
  readonly #pings: ReturnType<typeof startPings>;

  constructor(
    private readonly handler: Handler,
    private readonly queue: Queue,
    private readonly options: WorkerOptions,
  ) {
    this.#pings = startPings(queue.pings, Number(options.env.RUNPOD_PING_INTERVAL) || 10 * SECOND, options.log);
    this.#active = new ActiveJobs(options.runInJob, this.#pings.setJobs);
  }

  /** Resolves when the worker has ended. */
  async serve() {
    const { concurrency, log } = this.options;
    log({ event: 'serving', workerId: this.queue.workerId, concurrency: concurrency() });
    const ended = new AbortController();
    const stops = this.#stopJobs(ended.signal);
    await this.#takeJobs();
    log({ event: 'stopping', jobs: this.#active.ids });
    await this.#endJobs();
    ended.abort();
    await Promise.all([stops, this.#pings.stop()]);
    log({ event: 'stopped' });
  }

  /** Takes jobs whenever slots are free, until the worker is ending. */
  async #takeJobs() {
    const { concurrency, log, ending } = this.options;
    const { signal } = ending;
    let failures = 0; // in a row
    while (!signal.aborted) {
      const free = concurrency() - this.#active.size;
      if (free <= 0) {
        await this.#active.oneEnded(signal);
        continue;
      }
      const pollStart = performance.now();
      const take = await this.queue.take(free, this.#active.size > 0, signal).catch(() => undefined);
      if (!take) return; // the signal was aborted
      const error = take.status === 'error' ? take.error : take.status === 'jobs' ? this.#start(take) : undefined;
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

  /** @returns what is wrong with the take */
  #start({ jobs, withoutInput, malformed }: Take & { status: 'jobs' }): Error | undefined {
    const { log, refreshWorker, ending } = this.options;
    const refresh = () => {
      if (refreshWorker) ending.abort();
    };
    const isNew = (id: string) => !this.#active.has(id);
    for (const { id } of jobs.filter(({ id }) => !isNew(id))) log({ event: 'job given twice', jobId: id });
    const runnable = jobs.filter(({ id }) => isNew(id));
    for (const job of runnable)
      this.#active.start(job.id, (own) => runJob(job, own, this.handler, this.queue, this.options).finally(refresh));
    for (const id of withoutInput.filter(isNew))
      this.#active.start(id, () =>
        rejectJob(id, new TypeError('the job has no input'), this.queue, log).finally(refresh),
      );
    if (malformed > 0) return new Error('job-take gave a job without id');
    if (runnable.length === 0) return new Error('job-take gave no job that can be run');
  }

  /** Aborts the jobs that RunPod wants to stop, until the signal. */
  async #stopJobs(signal: AbortSignal) {
    const { pollStops } = this.queue;
    while (pollStops && !signal.aborted) {
      const answer = await pollStops(signal).catch((error: unknown) => {
        if (!signal.aborted && !(error instanceof DOMException)) this.options.log({ event: 'stop poll failed', error });
        return [];
      });
      if (answer === 'throttled') await pause(THROTTLE_DELAY, signal);
      else if (this.#active.abort(answer, STOPPED) === 0) await pause(SECOND, signal); // the server may not hold polls
    }
  }

  async #endJobs() {
    const { gracePeriod } = this.options;
    const error = new Error('the worker had to stop');
    const abort = setTimeout(() => this.#active.abort(this.#active.ids, error), gracePeriod);
    const fail = setTimeout(() => this.#active.failAll(error), gracePeriod + ABORT_GRACE);
    await this.#active.allEnded();
    clearTimeout(abort);
    clearTimeout(fail);
  }
}
