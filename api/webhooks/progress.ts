/**
 * Sends `task.progress` to webhooks: one attempt each, signed as all others. A later one says the same and more, so nothing is stored or
 * tried again. While a receiver is slow, only the latest progress of a task waits.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { v7 } from 'uuid';
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { NewDelivery } from '../store/delivery.ts';
import type { Task } from '../store/task.ts';
import { type AttemptResult, type createAttempt, GONE, SILENCE_PAUSE } from './attempt.ts';

/** Between two of one task. */
const INTERVAL = SECOND;
/** Attempts of this process at a time, and of one key. Beyond that, progress is dropped. */
const [MAX_IN_FLIGHT, MAX_IN_FLIGHT_PER_KEY] = [32, 8];

export function createProgressSender(
  { store, log, now }: Pick<Dependencies, 'store' | 'log' | 'now'>,
  attempt: ReturnType<typeof createAttempt>,
) {
  const stopping = new AbortController();
  const senders = new Map<string, { next: Task | undefined; done: Promise<void> }>(); // by task
  const inFlight = new Map<string, number>(); // by owner

  /** Sends the progress of a task now, or replaces the one that waits. */
  function send(task: Task): void {
    const known = senders.get(task.id);
    if (known) known.next = task;
    else if (!stopping.signal.aborted) {
      const sender = { next: task, done: Promise.resolve() };
      senders.set(task.id, sender);
      sender.done = sendAll(task.id, sender);
    }
  }

  async function sendAll(id: string, sender: { next: Task | undefined }): Promise<void> {
    while (sender.next && !stopping.signal.aborted) {
      const task = sender.next;
      sender.next = undefined;
      const interval = pause(INTERVAL);
      const result = await sendOne(task).catch((error) =>
        log.warn({ task: id, error }, 'progress could not be sent to the webhook'),
      );
      await (result?.status_code === null ? pause(SILENCE_PAUSE) : interval);
    }
    senders.delete(id);
  }

  const pause = (ms: number) => delay(ms, undefined, { signal: stopping.signal }).catch(() => undefined);

  /** @returns undefined: it was dropped */
  async function sendOne({ id, owner, input }: Task): Promise<AttemptResult | undefined> {
    const own = inFlight.get(owner) ?? 0;
    const all = [...inFlight.values()].reduce((sum, count) => sum + count, 0);
    if (own >= MAX_IN_FLIGHT_PER_KEY || all >= MAX_IN_FLIGHT) return undefined;
    inFlight.set(owner, own + 1);
    try {
      const url = input.webhook_url!;
      const isOver = (await store.getPublic(owner, id))?.status !== 'running';
      if (isOver || (await store.isWebhookDisabled(owner, url))) return undefined;
      const delivery: NewDelivery = { id: v7(), owner, task_id: id, type: 'task.progress', url, created_at: now() };
      const result = await attempt(delivery);
      const { status_code, error } = result;
      if (status_code === GONE) await store.disableWebhook(owner, url);
      log.debug({ delivery: delivery.id, task: id, status_code, reason: error }, 'progress sent to the webhook');
      return result;
    } finally {
      const left = inFlight.get(owner)! - 1;
      if (left > 0) inFlight.set(owner, left);
      else inFlight.delete(owner);
    }
  }

  return {
    send,

    /** Resolves when no attempt is in flight. */
    async stop(): Promise<void> {
      stopping.abort();
      await Promise.all([...senders.values()].map(({ done }) => done));
    },
  };
}
