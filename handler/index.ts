/** Starts the worker: reads the environment, then serves jobs until SIGTERM. */
import { JobError } from '../core/job.ts';
import { createLog, createSerializers } from '../core/log.ts';
import { removeOrphanedScratch } from '../core/temp-files.ts';
import { checkBucket, checkCodec, checkDisk } from './fitness.ts';
import { failureOf } from './job-failure.ts';
import { runJob, type Worker } from './pipeline.ts';
import { parseFlags, type ServeOptions, serve } from './runpod/index.ts';
import { createStageTimer } from './stage-timer.ts';
import { openWorker } from './worker.ts';

try {
  const { logLevel } = parseFlags(process.argv.slice(2));
  const log = createLog({ ...process.env, ...(logLevel !== undefined && { RUNPOD_LOG_LEVEL: logLevel }) });
  const report: ServeOptions['log'] = ({ event, jobId, ...details }) => {
    log[details.error ? 'warn' : 'info']({ requestId: jobId, ...details }, event);
    if (event === 'serving') process.send?.({ event, device: worker!.model.device }); // to a local supervisor
  };
  let worker: Worker | undefined;
  let concurrency = 1;
  const open = async () => {
    await removeOrphanedScratch();
    ({ worker, concurrency } = await openWorker(process.env, (details, event) => log.info(details, event)));
  };
  if (process.channel) process.once('disconnect', () => process.exit(1)); // the local supervisor has died
  await serve(
    async ({ id, input }, { progress, signal }) => {
      const { prompt } = input as { prompt?: unknown };
      const serializers = createSerializers(process.env, String(prompt ?? ''));
      const jobLog = log.child({ requestId: id }, { serializers });
      const timer = createStageTimer(jobLog);
      try {
        return await runJob(input, worker!, { jobId: id, progress, signal, timer, log: jobLog });
      } catch (error) {
        // Callers do not see the cause of a job's error.
        if (!(error instanceof JobError)) jobLog.error({ error }, 'job failed');
        else if (error.cause) jobLog.warn({ error: error.cause }, 'job failed');
        const { device } = worker!.model;
        return failureOf(error, { usage: timer.usage(), aborted: signal.aborted, device });
      }
    },
    {
      concurrency: () => concurrency,
      fitness: { worker: open, codec: checkCodec, disk: checkDisk, bucket: () => checkBucket(worker!) },
      log: report,
    },
  );
  process.exit(0);
} catch (error) {
  console.error(`worker: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}
