import { inspect } from 'node:util';
import { ignoreOutputErrors } from '../../core/standard-output.ts';
import { SECOND } from '../../core/time.ts';
import { parseFlags } from './flags.ts';
import { consoleLog, type Log } from './job-log.ts';
import { serveApi } from './local-api.ts';
import { watchProcess } from './process-events.ts';
import { openQueue, type Queue } from './queue-client.ts';
import { QueueWorker } from './queue-worker.ts';
import type { Handler } from './run-handler.ts';
import type { ServeOptions } from './serve-options.ts';
import { readTestJob, runTestJob } from './test-job.ts';

export { parseFlags } from './flags.ts';
export type { Log } from './job-log.ts';
export type { TakenJob } from './queue-client.ts';
export type { Handler, JobContext } from './run-handler.ts';
export type { ServeOptions } from './serve-options.ts';

/**
 * Runs a RunPod serverless worker until a signal ends it: takes jobs from RunPod's queue, runs them, and delivers their outcomes. With
 * `--rp_serve_api` it is an HTTP server instead. With `--test_input`, or without a queue in the environment, it runs one job.
 * @example
 * await serve(
 *   async ({ id, input }, { progress, signal }) => {
 *     progress({ step: 1 });
 *     return { answer: await work(input, signal) };
 *   },
 *   { concurrency: 2, fitness: { model: loadModel }, gracePeriod: 60_000 },
 * );
 * @throws Error: an option, a flag or the environment is invalid, a fitness check or the one job has failed, or an exception was not caught
 */
export async function serve(handler: Handler, options: ServeOptions = {}): Promise<void> {
  ignoreOutputErrors();
  const { env = process.env, argv = process.argv.slice(2), concurrency = 1, fitness = {} } = options;
  if (typeof concurrency === 'number' && !(Number.isInteger(concurrency) && concurrency > 0))
    throw new Error(`concurrency must be a whole number from 1, or a function that returns one; it is ${concurrency}`);
  const flags = parseFlags(argv);
  const log = options.log ?? consoleLog(flags.logLevel ?? (env.RUNPOD_LOG_LEVEL || undefined));
  const gracePeriod = options.gracePeriod ?? 30 * SECOND;
  const ending = new AbortController();
  const { signal } = ending;
  const { runInJob, uncaught, unwatch } = watchProcess(ending, options.signal, log);
  try {
    if (flags.serveApi || flags.testInput !== undefined || !env.RUNPOD_WEBHOOK_GET_JOB) {
      const job = flags.serveApi ? undefined : await readTestJob(flags.testInput); // before the checks, which may load a model
      for (const check of Object.values(fitness)) await check();
      const local = { log, signal, runInJob, gracePeriod };
      await (job ? runTestJob(handler, job, local) : serveApi(handler, flags, local));
    } else {
      const queue = openQueue(env);
      const aborted = new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      if (!signal.aborted) await Promise.race([checkFitness(fitness, queue, log), aborted]);
      const workerOptions = {
        ...{ env, log, gracePeriod, ending, runInJob },
        concurrency: typeof concurrency === 'number' ? () => concurrency : () => Math.max(1, Math.floor(concurrency())),
        refreshWorker: options.refreshWorker ?? false,
        aggregateStream: options.aggregateStream ?? false,
      };
      if (!signal.aborted) await new QueueWorker(handler, queue, workerOptions).serve();
    }
  } finally {
    unwatch();
  }
  if (uncaught.length > 0) throw uncaught[0];
}

/** @throws what the first check that fails throws, after it has been reported to RunPod */
async function checkFitness(checks: NonNullable<ServeOptions['fitness']>, queue: Queue, log: Log) {
  for (const [check, run] of Object.entries(checks)) {
    const start = performance.now();
    try {
      await run();
    } catch (error) {
      const { name, message } = error instanceof Error ? error : new Error(inspect(error));
      await queue.reportUnhealthy(check, `${name}: ${message}`);
      throw error;
    }
    log({ event: 'fitness check passed', check, ms: Math.round(performance.now() - start) });
  }
}
