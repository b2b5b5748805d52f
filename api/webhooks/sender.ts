/**
 * Delivers webhooks. The outbox is in the store, and the write that starts or ends a task adds to it, so a process that dies loses no
 * delivery. Progress is not in the outbox: see progress.ts.
 * The states of a delivery:
 *
 *   pending ──2xx──▶ delivered
 *     │ ▲  ├──410──▶ disabled, with all other deliveries to the URL
 *     │ │  └──the last attempt fails──▶ failed
 *     └─┘ another failure: the next attempt is scheduled
 *
 * A replay makes any of them pending again.
 */
import { v7 } from 'uuid';
import { HOUR, MINUTE, SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { AttemptOutcome } from '../metrics.ts';
import { createPoller } from '../poller.ts';
import type { Delivery, DeliveryStatus } from '../store/delivery.ts';
import { type AttemptResult, createAttempt, GONE, SILENCE_PAUSE } from './attempt.ts';
import { createProgressSender } from './progress.ts';

/** Before each attempt after the first. */
const DELAYS = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
/** Longest pause between two reads of the store: another process may have died and left its deliveries. */
const MAX_PAUSE = 5 * SECOND;
const LEASE = MINUTE;
/** Deliveries of this process at a time, and of one key. A slow receiver of one key must not delay the deliveries of other keys. */
const MAX_IN_FLIGHT = 64;
const MAX_IN_FLIGHT_PER_KEY = 16;
/** A key has at most as many deliveries in flight as there are free places. */
const SHARE = 1;

/** The receiver, or a proxy before it, is overloaded: all other deliveries to the URL wait, too. */
const OVERLOADED = [429, 502, 504];
const OVERLOAD_PAUSE = 5 * MINUTE;

const TEST = 'webhook.test';

const maxAttempts = ({ type }: Delivery) => (type === TEST ? 1 : DELAYS.length + 1);
/** The process died during each attempt, or the store refused each outcome. Another attempt could go on for ever. */
const UNSTORED: AttemptResult = { status_code: null, error: 'the outcome of the last attempt could not be stored' };

export type Webhooks = ReturnType<typeof createWebhooks>;

/** @param onAttempt called after each attempt; `ms`: since the event */
export function createWebhooks(dependencies: Dependencies, onAttempt: (outcome: AttemptOutcome, ms: number) => void) {
  const { store, log, now } = dependencies;
  const attempt = createAttempt(dependencies);
  const progress = createProgressSender(dependencies, attempt);
  const inFlight = new Map<Promise<void>, string>(); // and the owner of each
  let isHeldBack = false; // whether a due delivery waits for a place

  const poller = createPoller(startDue, (error) => {
    log.error({ error }, 'the store could not be reached for webhooks; will be retried');
    return MAX_PAUSE;
  });

  /** @returns milliseconds until the next attempt */
  async function startDue(): Promise<number> {
    for (;;) {
      const pause = Math.min(MAX_PAUSE, (await store.nextDeliveryDue()) ?? MAX_PAUSE);
      if (pause > 0) return pause;
      const claimed = await claimSome();
      isHeldBack = claimed.length === 0;
      if (isHeldBack) return SECOND; // other deliveries may become due meanwhile; the end of one wakes the poller
      for (const delivery of claimed) start(delivery);
    }
  }

  async function claimSome(): Promise<Delivery[]> {
    const free = MAX_IN_FLIGHT - inFlight.size;
    if (free === 0) return [];
    const underWay = new Map<string, number>();
    for (const owner of inFlight.values()) underWay.set(owner, (underWay.get(owner) ?? 0) + 1);
    const places = { limit: free, free, share: SHARE, maxPerOwner: MAX_IN_FLIGHT_PER_KEY };
    return store.claimDeliveries({ lease: LEASE, underWay, ...places });
  }

  function start(delivery: Delivery): void {
    const delivering: Promise<void> = deliver(delivery)
      .catch((error) => log.error({ delivery: delivery.id, error }, 'webhook could not be processed; will be retried'))
      .finally(() => {
        inFlight.delete(delivering);
        if (isHeldBack) poller.wake();
      });
    inFlight.set(delivering, delivery.owner);
  }

  async function deliver(delivery: Delivery): Promise<void> {
    const { id, task_id, owner, url, started: attempts } = delivery;
    const result = attempts > maxAttempts(delivery) ? UNSTORED : await attempt(delivery);
    const { status_code, error, retryAfter } = result;
    const { status, outcome, nextAttemptIn } = stateAfter(delivery, result);

    if (status === 'disabled') await store.disableWebhook(owner, url);
    const pause = retryAfter ?? pauseAfter(status_code);
    if (nextAttemptIn !== null && pause > 0) await store.postponeWebhook(owner, url, Math.min(nextAttemptIn, pause));
    const attempted_at = now();
    const delivered_at = status === 'delivered' ? attempted_at : null;
    const facts = { status, attempts, attempted_at, status_code, error, delivered_at };
    await store.recordAttempt(delivery, { ...facts, nextAttemptIn });
    onAttempt(outcome, attempted_at - delivery.created_at);
    const line = { delivery: id, task: task_id, attempt: attempts, status, status_code, reason: error };
    log[delivered_at ? 'info' : 'warn'](line, delivered_at ? 'webhook delivered' : 'webhook not delivered');
    if (nextAttemptIn !== null) poller.wake();
  }

  return {
    /** To be called when a delivery may have become due. */
    wake: poller.wake,

    /** Sends a running task’s progress, or drops it: see progress.ts. */
    sendProgress: progress.send,

    /** Makes a delivery pending again, and enables its webhook. @returns it */
    async replay(delivery: Delivery): Promise<Delivery> {
      await store.enableWebhook(delivery.owner, delivery.url);
      const replayed = await store.resetDelivery(delivery);
      poller.wake();
      return replayed;
    },

    /** Sends a test event, with one attempt, and enables the webhook. @returns its delivery */
    async test(owner: string, url: string): Promise<Delivery> {
      await store.enableWebhook(owner, url);
      const delivery = { id: v7(), owner, task_id: null, type: TEST, url, created_at: now() };
      const added = await store.addDelivery(delivery);
      poller.wake();
      return added;
    },

    /** Resolves when no delivery is in flight. */
    async stop(): Promise<void> {
      await Promise.all([poller.stop(), progress.stop()]);
      await Promise.all(inFlight.keys());
    },
  };
}

/** How long other deliveries to the URL wait, if the receiver does not say it. Milliseconds. */
const pauseAfter = (status: number | null) =>
  status === null ? SILENCE_PAUSE : OVERLOADED.includes(status) ? OVERLOAD_PAUSE : 0;

/** The state of a delivery after an attempt. `nextAttemptIn`: milliseconds, up to 10 % more or less at random; null: never. */
function stateAfter(
  delivery: Delivery,
  { status_code, retryAfter }: AttemptResult,
): { status: DeliveryStatus; outcome: AttemptOutcome; nextAttemptIn: number | null } {
  if (status_code !== null && status_code >= 200 && status_code < 300)
    return { status: 'delivered', outcome: 'delivered', nextAttemptIn: null };
  if (status_code === GONE) return { status: 'disabled', outcome: 'exhausted', nextAttemptIn: null };
  if (delivery.started >= maxAttempts(delivery)) return { status: 'failed', outcome: 'exhausted', nextAttemptIn: null };
  const nextAttemptIn = Math.max(retryAfter ?? 0, DELAYS[delivery.started - 1]! * (0.9 + 0.2 * Math.random()));
  return { status: 'pending', outcome: status_code === null ? 'unreachable' : 'refused', nextAttemptIn };
}
