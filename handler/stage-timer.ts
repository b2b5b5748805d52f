import type { TIMED_STAGES } from '../core/job.ts';
import type { Log } from '../core/log.ts';

/** Runs one stage of a job, unless the job has been aborted. */
export type Timed = <R>(stage: (typeof TIMED_STAGES)[number], work: () => Promise<R>) => Promise<R>;

/**
 * Measures the stages of a job.
 * @param log receives each stage when it begins (debug), and when it ends with its milliseconds (info)
 * @returns `timings_ms`: the milliseconds of each stage so far
 */
export function createStageTimer(signal: AbortSignal, log?: Pick<Log, 'debug' | 'info'>) {
  const timings_ms: Record<string, number> = {};
  const timed: Timed = async (stage, work) => {
    signal.throwIfAborted();
    const start = performance.now();
    log?.debug({ stage }, 'stage started');
    const result = await work();
    const ms = Math.round(performance.now() - start);
    timings_ms[stage] = (timings_ms[stage] ?? 0) + ms;
    log?.info({ stage, ms }, 'stage ended');
    return result;
  };
  return { timed, timings_ms };
}
