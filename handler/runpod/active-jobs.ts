import { EventEmitter, once } from 'node:events';

/** A job from its take until its outcome has been accepted or refused. */
export interface ActiveJob {
  id: string;
  /** aborts the handler's signal */
  controller: AbortController;
  /** rejects when `fail` is called */
  failed: Promise<never>;
  /** fails the job, whatever its handler does */
  fail: (error: unknown) => void;
}

/** Runs a job's work, so that uncaught errors can be traced to the job. */
export type RunInJob = <R>(id: string, work: (job: ActiveJob) => Promise<R>) => Promise<R>;

export class ActiveJobs {
  readonly #jobs = new Map<string, ActiveJob>();
  readonly #events = new EventEmitter();

  /** @param onChange called with the ids after each change */
  constructor(
    private readonly runInJob: RunInJob,
    private readonly onChange: (ids: string[]) => void,
  ) {}

  get size() {
    return this.#jobs.size;
  }
  get ids() {
    return [...this.#jobs.keys()];
  }
  has(id: string) {
    return this.#jobs.has(id);
  }

  /** The job is active until `run` has resolved; it must not reject. */
  start(id: string, run: (job: ActiveJob) => Promise<void>) {
    this.runInJob(id, (job) => {
      this.#jobs.set(id, job);
      this.onChange(this.ids);
      return run(job);
    }).finally(() => {
      this.#jobs.delete(id);
      this.onChange(this.ids);
      this.#events.emit('end');
    });
  }

  /** Aborts jobs that have not been aborted yet. @returns how many */
  abort(ids: string[], reason: Error): number {
    const jobs = ids.flatMap((id) => this.#jobs.get(id) ?? []).filter(({ controller }) => !controller.signal.aborted);
    for (const { controller } of jobs) controller.abort(reason);
    return jobs.length;
  }

  failAll(error: Error) {
    for (const { fail } of this.#jobs.values()) fail(error);
  }

  /** Resolves when a job has ended, or when the signal is aborted. */
  async oneEnded(signal: AbortSignal) {
    await once(this.#events, 'end', { signal }).catch(() => {});
  }

  async allEnded() {
    while (this.#jobs.size > 0) await once(this.#events, 'end');
  }
}
