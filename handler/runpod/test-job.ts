/** One job without RunPod: from `--test_input '{"input": …}'` or the file test_input.json. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from './job-log.ts';
import type { RunInJob } from './process-events.ts';
import type { TakenJob } from './queue-client.ts';
import { type Handler, runHandler } from './run-handler.ts';

export interface LocalOptions {
  log: Log;
  /** ends the worker */
  signal: AbortSignal;
  /** milliseconds */
  gracePeriod: number;
  runInJob: RunInJob;
}

/**
 * @param text JSON with `input` and optionally `id`; default: the file test_input.json in the working directory
 * @throws Error: there is no such job
 */
export async function readTestJob(text: string | undefined): Promise<TakenJob> {
  let job: unknown;
  try {
    job = JSON.parse(text ?? (await readTestFile()));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new Error('the test input is not JSON', { cause });
  }
  if (typeof job !== 'object' || job === null || !('input' in job) || job.input == null)
    throw new Error('the test input must be {"input": …}');
  return { ...job, input: job.input, id: 'id' in job && typeof job.id === 'string' ? job.id : 'local_test' };
}

async function readTestFile(): Promise<string> {
  return readFile(join(process.cwd(), 'test_input.json'), 'utf8').catch((cause) => {
    const message =
      'RUNPOD_WEBHOOK_GET_JOB is not set (RunPod sets it for its workers) and there is no test_input.json. ' +
      'To run one job here give --test_input \'{"input": …}\', to serve over HTTP --rp_serve_api';
    throw new Error(message, { cause });
  });
}

/**
 * Runs one job and prints its outcome as the last line of standard output.
 * @throws Error: the job has failed
 */
export async function runTestJob(handler: Handler, job: TakenJob, { log, signal, runInJob }: LocalOptions) {
  const outcome = await runInJob(job.id, ({ controller, failed }) => {
    const abort = () => controller.abort(new Error('the worker had to stop'));
    signal.addEventListener('abort', abort, { once: true });
    const run = runHandler(handler, job, {
      progress: (value) => log({ event: 'progress', jobId: job.id, value }),
      signal: controller.signal,
      sendChunk: async (chunk) => log({ event: 'chunk', jobId: job.id, chunk }),
      aggregate: true,
    });
    return Promise.race([run, failed]);
  });
  console.log(JSON.stringify(outcome));
  if (outcome.error !== undefined) throw new Error(`the job failed: ${outcome.error}`);
}
