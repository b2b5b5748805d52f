/** The place of a queued task, and when it probably ends. */
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { QueuedTask } from '../store/lease-queries.ts';
import type { createEstimator } from './estimate.ts';

/** Tasks with a job, and without one, whose places are known. Later ones have none. */
const MAX_TASKS = 500;
/** Places are read again when they are older. */
const MAX_AGE = SECOND;
/** A task that is not among them is new: they are read again, but reads may use only a fiftieth of the time. */
const MAX_SHARE = 50;

export interface Place {
  queue_position?: number;
  eta_seconds?: number;
}

export function createQueue(
  { config, store, isQueueLocal, log, uptime }: Dependencies,
  estimate: ReturnType<typeof createEstimator>,
) {
  let places = new Map<string, Place>();
  let isWhole = true; // whether all queued tasks are among them
  let readAt = Number.NEGATIVE_INFINITY;
  let readTime = 0; // milliseconds
  let reading: Promise<void> | undefined;

  async function read(): Promise<void> {
    const startedAt = uptime();
    try {
      const tasks = await store.listQueue(MAX_TASKS);
      isWhole = tasks.length < MAX_TASKS;
      places = await placesOf(tasks);
    } catch (error) {
      log.warn({ error }, 'the queue could not be read; places are not shown');
      places = new Map();
    }
    readAt = uptime();
    readTime = Math.max(1, readAt - startedAt);
    reading = undefined;
  }

  /** @param tasks in the order of their turns */
  async function placesOf(tasks: QueuedTask[]): Promise<Map<string, Place>> {
    const running = tasks.filter(({ status }) => status === 'running');
    const workers = running.length || (isQueueLocal ? 1 : 0); // those that have work; without any, RunPod may start one
    let ahead = 0; // GPU time of all tasks before; milliseconds
    for (const { input, progress } of running)
      ahead += ((await estimate(input)).typicalGpuTime ?? Number.NaN) * (1 - progress);
    const found = new Map<string, Place>();
    for (const { id, input, status } of tasks) {
      if (status !== 'queued') continue;
      const own = (await estimate(input)).typicalGpuTime ?? Number.NaN;
      const eta = Math.ceil((ahead / workers + own) / SECOND);
      const isKnown = Number.isFinite(eta) && (input.prompt === undefined || config.bridge === 'placeholder'); // a bridge takes its time
      found.set(id, { queue_position: found.size + 1, ...(isKnown && { eta_seconds: eta }) });
      ahead += own;
    }
    return found;
  }

  /** @returns the place of a queued task, as of at most a second ago; empty: it is not known */
  return async (id: string): Promise<Place> => {
    const age = uptime() - readAt;
    const isStale = age > MAX_AGE || (isWhole && !places.has(id) && age > MAX_SHARE * readTime);
    if (isStale) reading ??= read();
    await reading;
    return places.get(id) ?? {};
  };
}
