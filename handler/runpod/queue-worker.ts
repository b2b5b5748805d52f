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
import { EventEmitter, once } from 'node:events';
import { SECOND } from '../../core/time.ts';
import { pause, withJitter } from './delivery.ts';
import { startPings } from './pings.ts';
import type { ActiveJob, RunInJob } from './process-events.ts';
import type { Queue, Take } from './queue-client.ts';
import type { Handler } from './run-handler.ts';
import { rejectJob, runJob, STOPPED } from './run-job.ts';
import type { ServeOptions } from './serve-options.ts';

/** After takes that failed: doubles from `first`. */
const TAKE_RETRY = { first: 250, max: 5 * SECOND };
/** After 429. */
const THROTTLE_DELAY = 5 * SECOND;
/** milliseconds; a server that answers "no job" faster does not hold polls, and the next take waits */
const QUICK_ANSWER = 100;
/** Milliseconds that a job has to return after an ending worker has aborted it. Then it is posted as failed. */
const ABORT_GRACE = 5 * SECOND;

/** The options of `serve`, resolved. */
export interface WorkerOptions extends Required<Omit<ServeOptions, 'fitness' | 'argv' | 'signal' | 'concurrency'>> {
  concurrency: () => number;
  runInJob: RunInJob;
  /** ends the worker when aborted */
  ending: AbortController;
}

export class QueueWorker {
  readonly #active = new Map<string, ActiveJob>();
  readonly #events = new EventEmitter();
  readonly #pings: ReturnType<typeof startPings>;

  constructor(
    private readonly handler: Handler,
    private readonly queue: Queue,
    private readonly options: WorkerOptions,
  ) {
    this.#pings = startPings(queue.pings, Number(options.env.RUNPOD_PING_INTERVAL) || 10 * SECOND, options.log);
  }

  /** Resolves when the worker has ended. */
  async serve() {
    const { concurrency, log } = this.options;
    log({ event: 'serving', workerId: this.queue.workerId, concurrency: concurrency() });
    const ended = new AbortController();
    const stops = this.#stopJobs(ended.signal);
    await this.#takeJobs();
    log({ event: 'stopping', jobs: [...this.#active.keys()] });
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
        await once(this.#events, 'end', { signal }).catch(() => {}); // aborted
        continue;
      }
      const pollStart = performance.now();
      const take = await this.queue.take(free, this.#active.size > 0, signal).catch((error: Error) => error);
      if (take instanceof Error && signal.aborted) return;
      const error = take instanceof Error ? take : typeof take === 'object' ? this.#start(take) : undefined;
      failures = error ? failures + 1 : 0;
      if (error) {
        log({ event: 'take failed', error });
        await pause(withJitter(Math.min(TAKE_RETRY.max, TAKE_RETRY.first * 2 ** (failures - 1))), signal);
      } else if (take === 'throttled') {
        await pause(THROTTLE_DELAY, signal);
      } else if (take === 'empty' && performance.now() - pollStart < QUICK_ANSWER) {
        await pause(withJitter(TAKE_RETRY.first), signal);
      }
    }
  }

  /** @returns what is wrong with the take */
  #start({ jobs, withoutInput, malformed }: Take): Error | undefined {
    const { log } = this.options;
    const isNew = (id: string) => !this.#active.has(id);
    for (const { id } of jobs.filter(({ id }) => !isNew(id))) log({ event: 'job given twice', jobId: id });
    const runnable = jobs.filter(({ id }) => isNew(id));
    for (const job of runnable)
      this.#activate(job.id, (own) => runJob(job, own, this.handler, this.queue, this.options));
    const error = new TypeError('the job has no input');
    for (const id of withoutInput.filter(isNew)) this.#activate(id, () => rejectJob(id, error, this.queue, log));
    if (malformed > 0) return new Error('job-take gave a job without id');
    if (runnable.length === 0) return new Error('job-take gave no job that can be run');
  }

  /** The job is active until `run` has resolved; it must not reject. */
  #activate(id: string, run: (job: ActiveJob) => Promise<void>) {
    const { runInJob, refreshWorker, ending } = this.options;
    const nameJobs = () => this.#pings.setJobs([...this.#active.keys()]);
    runInJob(id, (job) => {
      this.#active.set(id, job);
      nameJobs();
      return run(job);
    }).finally(() => {
      if (refreshWorker) ending.abort();
      this.#active.delete(id);
      nameJobs();
      this.#events.emit('end');
    });
  }

  /** Aborts jobs that have not been aborted yet. @returns how many */
  #abort(ids: Iterable<string>, reason: Error): number {
    const jobs = [...ids].flatMap((id) => this.#active.get(id) ?? []);
    const running = jobs.filter(({ controller }) => !controller.signal.aborted);
    for (const { controller } of running) controller.abort(reason);
    return running.length;
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
      else if (this.#abort(answer, STOPPED) === 0) await pause(SECOND, signal); // the server may not hold polls
    }
  }

  async #endJobs() {
    const { gracePeriod } = this.options;
    const error = new Error('the worker had to stop');
    const abort = setTimeout(() => this.#abort(this.#active.keys(), error), gracePeriod);
    const fail = setTimeout(() => {
      for (const job of this.#active.values()) job.fail(error);
    }, gracePeriod + ABORT_GRACE);
    while (this.#active.size > 0) await once(this.#events, 'end');
    clearTimeout(abort);
    clearTimeout(fail);
  }
}
