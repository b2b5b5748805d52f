/** Bringing a job's outcome, chunks and progress to RunPod through its faults. */
import { setTimeout as delay } from 'node:timers/promises';
import { MINUTE, SECOND } from '../../core/time.ts';
import type { Log } from './job-log.ts';
import type { Queue } from './queue-client.ts';

/** What is not accepted is sent again after 0.25 s, doubling to 10 s, for five minutes. */
const RETRY = { first: 250, longest: 10 * SECOND, total: 5 * MINUTE };
/** Answers after which the same may be accepted later; so may what has got none. */
const isPassing = (answer: unknown) => typeof answer !== 'number' || answer >= 500 || [408, 425, 429].includes(answer);
const isAccepted = (answer: unknown) => typeof answer === 'number' && answer >= 200 && answer < 300;

/** A wait that other workers do not share. */
export const jittered = (ms: number) => ms * (0.75 + 0.5 * Math.random());

/** Waits, or less if the signal comes. */
export const pause = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal }).catch(() => undefined);

/**
 * Sends until it is accepted (true), refused for good, or five minutes have passed. An answer may be lost after the acceptance, so each
 * repeat must be the same.
 * @param send resolves to the status of the answer
 */
export async function deliver(
  what: 'outcome' | 'chunk',
  jobId: string,
  send: () => Promise<number>,
  log: Log,
): Promise<boolean> {
  const giveUp = performance.now() + RETRY.total;
  for (let wait = RETRY.first; ; wait = Math.min(RETRY.longest, wait * 2)) {
    const answer = await send().catch((error: unknown) => error);
    if (isAccepted(answer)) return true;
    if (!isPassing(answer)) {
      log({ event: `${what} refused`, jobId, error: `status ${answer}` });
      return false;
    }
    const error = typeof answer === 'number' ? `status ${answer}` : answer;
    if (performance.now() + wait > giveUp) {
      log({ event: `${what} lost`, jobId, error });
      return false;
    }
    log({ event: `${what} not accepted, will be sent again`, jobId, error });
    await delay(jittered(wait));
  }
}

/** Sends progress one at a time and only the latest, so that none arrives late, out of order, or after the outcome. */
export function progressQueue(queue: Queue, jobId: string, log: Log) {
  let latest: string | undefined;
  let sending: Promise<void> | undefined;
  const closing = new AbortController();

  /** Sends what is the latest until there is nothing newer; what is not accepted again, unless there is something newer by then. */
  async function drain() {
    let wait = RETRY.first;
    while (latest !== undefined && !closing.signal.aborted) {
      const body = latest;
      const answer = await queue.post(jobId, body).catch((error: unknown) => error);
      if (isPassing(answer)) {
        log({ event: 'progress not accepted', jobId, error: typeof answer === 'number' ? `status ${answer}` : answer });
        await pause(jittered(wait), closing.signal);
        wait = Math.min(RETRY.longest, wait * 2);
        continue;
      }
      if (!isAccepted(answer)) log({ event: 'progress refused', jobId, error: `status ${answer}` });
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
    /** Drops what has not been sent and waits for what is on its way. */
    async close() {
      closing.abort('closed');
      await sending;
    },
  };
}
