/** Delivers a job's outcome, chunks and progress in spite of faults. */
import { setTimeout as delay } from 'node:timers/promises';
import { MINUTE, SECOND } from '../../core/time.ts';
import type { Log } from './job-log.ts';
import type { Queue } from './queue-client.ts';

const RETRY = { first: 250, max: 10 * SECOND, budget: 5 * MINUTE };
/** A status of an answer, or the error of a request without one. */
type Result = number | Error;
const isRetryable = (result: Result) => typeof result !== 'number' || result >= 500 || [408, 425, 429].includes(result);
const isAccepted = (result: Result) => typeof result === 'number' && result >= 200 && result < 300;
const errorOf = (result: Result) => (typeof result === 'number' ? `status ${result}` : result);

/** ±25 %, so that workers do not retry in step. */
export const withJitter = (ms: number) => ms * (0.75 + 0.5 * Math.random());

/** Resolves after `ms`, or when the signal is aborted. */
export const pause = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal }).catch(() => undefined);

/**
 * Retries until the answer is a 2xx, the error is permanent, or five minutes have passed. Pauses double from 0.25 s to 10 s.
 * @param send resolves to the answer's status. It must send the same bytes each time: RunPod may have accepted a request whose answer was
 * lost
 * @returns whether it was accepted
 */
export async function deliver(
  what: 'outcome' | 'chunk',
  jobId: string,
  send: () => Promise<number>,
  log: Log,
): Promise<boolean> {
  const deadline = performance.now() + RETRY.budget;
  for (let wait = RETRY.first; ; wait = Math.min(RETRY.max, wait * 2)) {
    const result = await send().catch((error: Error) => error);
    if (isAccepted(result)) return true;
    const error = errorOf(result);
    if (!isRetryable(result) || performance.now() + wait > deadline) {
      log({ event: `${what} ${isRetryable(result) ? 'lost' : 'refused'}`, jobId, error });
      return false;
    }
    log({ event: `${what} not accepted, retrying`, jobId, error });
    await delay(withJitter(wait));
  }
}

/** Sends progress, one request at a time and only the latest value, so that none arrives out of order or after the outcome. */
export function progressQueue(queue: Queue, jobId: string, log: Log) {
  let latest: string | undefined;
  let sending: Promise<void> | undefined;
  const closing = new AbortController();

  /** Sends the latest value until there is no newer one. A value that is not accepted is retried until there is a newer one. */
  async function drain() {
    let wait = RETRY.first;
    while (latest !== undefined && !closing.signal.aborted) {
      const body = latest;
      const result = await queue.post(jobId, body).catch((error: Error) => error);
      if (isRetryable(result)) {
        log({ event: 'progress not accepted', jobId, error: errorOf(result) });
        await pause(withJitter(wait), closing.signal);
        wait = Math.min(RETRY.max, wait * 2);
        continue;
      }
      if (!isAccepted(result)) log({ event: 'progress refused', jobId, error: errorOf(result) });
      wait = RETRY.first;
      if (latest === body) latest = undefined;
    }
    sending = undefined;
  }

  return {
    send(value: unknown) {
      if (closing.signal.aborted) return;
      try {
        latest = JSON.stringify({ status: 'IN_PROGRESS', output: value ?? null });
      } catch (error) {
        log({ event: 'progress not sent', jobId, error });
        return;
      }
      sending ??= drain();
    },
    /** Drops a value that has not been sent, and waits for a request in progress. */
    async close() {
      closing.abort('closed');
      await sending;
    },
  };
}
