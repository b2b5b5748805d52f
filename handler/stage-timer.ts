import { GPU_STAGES, type JobUsage, type TIMED_STAGES } from '../core/job.ts';
import type { Log } from '../core/log.ts';

/** Runs one stage of a job, unless the job has been aborted. */
export type Timed = <R>(stage: (typeof TIMED_STAGES)[number], work: () => Promise<R>) => Promise<R>;

export type StageTimer = ReturnType<typeof createStageTimer>;

/**
 * Measures the stages of a job.
 * @param log receives each stage when it begins (debug), and when it ends with its milliseconds (info)
 * @returns `timings_ms`: the milliseconds of each stage so far, also of those that failed
 */
export function createStageTimer(log?: Pick<Log, 'debug' | 'info'>) {
  const started_at = Date.now();
  const timings_ms: Record<string, number> = {};
  let gpu_since: number | undefined;

  return {
    timings_ms,

    usage(): JobUsage {
      const gpu_ms = GPU_STAGES.reduce((sum, stage) => sum + (timings_ms[stage] ?? 0), 0);
      return { started_at, gpu_ms, ...(gpu_since !== undefined && { gpu_since }) };
    },

    timed:
      (signal: AbortSignal): Timed =>
      async (stage, work) => {
        signal.throwIfAborted();
        const start = performance.now();
        if (GPU_STAGES.includes(stage)) gpu_since = Date.now(); // one at a time: only uploads run next to other stages
        log?.debug({ stage }, 'stage started');
        try {
          return await work();
        } finally {
          const ms = Math.round(performance.now() - start);
          timings_ms[stage] = (timings_ms[stage] ?? 0) + ms;
          if (GPU_STAGES.includes(stage)) gpu_since = undefined;
          log?.info({ stage, ms }, 'stage ended');
        }
      },
  };
}
