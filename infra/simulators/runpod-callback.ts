/** RunPod's callback to a job's webhook. */
import { SECOND } from '../../core/time.ts';
import type { Clock } from './clock.ts';
import type { QueuedJob } from './runpod-queue.ts';

const MAX_ATTEMPTS = 3;
/** How long an answer may take. RunPod does not document it. */
const CALLBACK_TIMEOUT = 30 * SECOND;

interface CallbackOptions {
  clock: Clock;
  /** milliseconds between attempts */
  retryDelay: number;
  log: (text: string) => void;
  signal: AbortSignal;
}

/**
 * Posts a job that has completed or failed to its webhook, unsigned, until the answer is 200, at most three times. Cancelled jobs have no
 * callback. Never rejects.
 */
export async function sendCallback(job: QueuedJob, { clock, retryDelay, log, signal }: CallbackOptions) {
  const { id, input, webhook, status } = job;
  if (!webhook || status === 'CANCELLED') return;
  const body = JSON.stringify({ ...presentJob(job), input, webhook });
  for (let attempt = 1; attempt <= MAX_ATTEMPTS && !signal.aborted; attempt++) {
    if (await isAccepted(webhook, body, clock, signal)) return;
    log(`callback for job ${id} was not accepted (attempt ${attempt} of ${MAX_ATTEMPTS})`);
    if (attempt < MAX_ATTEMPTS) await clock.sleep(retryDelay, signal);
  }
}

async function isAccepted(url: string, body: string, clock: Clock, signal: AbortSignal): Promise<boolean> {
  const attempt = new AbortController();
  const abort = () => attempt.abort();
  signal.addEventListener('abort', abort, { signal: attempt.signal });
  void clock.sleep(CALLBACK_TIMEOUT, attempt.signal).then(abort);
  try {
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(url, { method: 'POST', headers, body, signal: attempt.signal });
    await response.arrayBuffer();
    return response.status === 200;
  } catch {
    return false; // unreachable or too slow
  } finally {
    abort(); // ends the sleep
  }
}

/** A job as callbacks and the public API present it. Times are milliseconds; unknown fields are absent. */
export const presentJob = ({ id, status, created, started, ended, workerId, output, error, retries }: QueuedJob) => ({
  id,
  status,
  ...(started !== undefined && { delayTime: started - created }),
  ...(started !== undefined && ended !== undefined && { executionTime: ended - started }),
  ...(output !== undefined && { output }),
  ...(error !== undefined && { error }),
  ...(workerId !== undefined && { workerId }),
  ...(retries > 0 && { retries }),
});
