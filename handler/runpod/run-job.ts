import { deliver, progressQueue } from './delivery.ts';
import type { Log } from './job-log.ts';
import type { ActiveJob } from './process-events.ts';
import type { Queue, TakenJob } from './queue-client.ts';
import { formatError, type Handler, runHandler, serialize } from './run-handler.ts';

/** What RunPod accepts, in bytes: outputs of jobs from /run and from /runsync, and chunks. */
const MAX_PAYLOAD = { run: 10e6, runsync: 20e6, chunk: 1e6 };

/** The abort reason of a job that RunPod stopped. No outcome is posted for it, because RunPod accepts none. */
export const STOPPED = new DOMException('RunPod stopped the job', 'AbortError');

/** Runs a job and delivers its outcome. Never rejects. */
export async function runJob(
  job: TakenJob,
  { controller: { signal }, failed }: ActiveJob,
  handler: Handler,
  queue: Queue,
  { refreshWorker, aggregateStream, log }: { refreshWorker: boolean; aggregateStream: boolean; log: Log },
) {
  const start = performance.now();
  log({ event: 'job started', jobId: job.id });
  const updates = progressQueue(queue, job.id, log);
  const { postChunk } = queue;
  async function sendChunk(chunk: unknown) {
    const body = serialize({ output: chunk ?? null }, 'a chunk', MAX_PAYLOAD.chunk);
    const isDelivered = await deliver('chunk', job.id, () => postChunk!(job.id, body), log);
    if (!isDelivered) throw new Error('a chunk of the output could not be delivered');
  }
  const refresh = refreshWorker ? { stopPod: true } : {};
  let isStream = false;
  let body: string;
  try {
    const run = runHandler(handler, job, {
      progress: updates.send,
      signal,
      onStream: () => {
        isStream = true;
      },
      sendChunk: postChunk && sendChunk,
      aggregate: aggregateStream,
    });
    const outcome = { ...(await Promise.race([run, failed])), ...refresh };
    body = serialize(outcome, 'the output', job.id.startsWith('sync-') ? MAX_PAYLOAD.runsync : MAX_PAYLOAD.run);
  } catch (error) {
    log({ event: 'job threw', jobId: job.id, error });
    body = JSON.stringify({ error: formatError(error, queue.workerId), ...refresh });
  }
  await updates.close();
  const ms = Math.round(performance.now() - start);
  if (signal.reason === STOPPED) return log({ event: 'job stopped', jobId: job.id, ms });
  await deliver('outcome', job.id, () => queue.post(job.id, body, isStream), log);
  log({ event: 'job ended', jobId: job.id, ms });
}

/** Fails a job without running it. */
export async function rejectJob(jobId: string, error: Error, queue: Queue, log: Log) {
  const body = JSON.stringify({ error: formatError(error, queue.workerId) });
  await deliver('outcome', jobId, () => queue.post(jobId, body), log);
}
