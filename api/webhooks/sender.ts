/**
 * Announces ended tasks to their `webhook_url`, signed as Standard Webhooks says (standardwebhooks.com), until it is heard. The outbox
 * lies in the store, filled by the write that ends a task: a process that dies forgets no announcement.
 */
import type { Logger } from 'pino';
import { Webhook } from 'standardwebhooks';
import { request } from 'undici';
import { v7 } from 'uuid';
import type { Bucket } from '../../core/bucket/bucket.ts';
import { assertPublicHost, createGuardedAgent, RefusedAddress } from '../../core/net/address-guard.ts';
import { HOUR, MINUTE, SECOND } from '../../core/time.ts';
import type { AttemptOutcome } from '../metrics.ts';
import type { Delivery } from '../store/delivery.ts';
import type { Key } from '../store/key.ts';
import type { Store } from '../store/store.ts';
import { presentTask } from '../tasks/present.ts';

/** Waits before each attempt after the first; then it is given up. */
const DELAYS = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
const TIMEOUT = 20 * SECOND;
/** The store is asked at least so often what is due: another replica may have died before it could announce a task's end. */
const POLL = 5 * SECOND;
const LEASE = MINUTE;
/** Deliveries under way at a time, and of one key: its receivers may be slow, and others wait meanwhile. */
const MAX_IN_FLIGHT = 64;
const MAX_IN_FLIGHT_PER_KEY = 16;
const MAX_PROMPT = 500; // characters: a body stays under 20 kB

const GONE = 410;
/** The receiver, or what stands before it, has too much to do: everything else that is due there waits, too. */
const OVERLOADED = [429, 502, 504];

const TEST = 'webhook.test';

export interface WebhookOptions {
  store: Store;
  bucket: Bucket;
  linkSeconds: number;
  /** lifts the guard against addresses that are not public */
  allowPrivate: boolean;
  /** called after each attempt; `ms`: since the task's end */
  onAttempt?: (outcome: AttemptOutcome, ms: number) => void;
  log: Logger;
  now?: () => number;
}

/** What an attempt has shown: the receiver's answer, or why there was none. */
interface Outcome {
  status_code: number | null;
  error: string | null;
  /** what the receiver asked for; milliseconds */
  retryAfter: number | undefined;
}

export type Webhooks = ReturnType<typeof createWebhooks>;

export function createWebhooks({
  store,
  bucket,
  linkSeconds,
  allowPrivate,
  onAttempt = () => {},
  log,
  now = Date.now,
}: WebhookOptions) {
  const agent = createGuardedAgent(allowPrivate);
  const flights = new Map<Promise<void>, string>(); // and whose
  let timer: NodeJS.Timeout | undefined;
  let turning: Promise<void> | undefined;
  let again = false;
  let stopped = false;

  /** Sends what is due, and comes back when the next is. */
  function wake(): void {
    if (stopped) return;
    again = true;
    turning ??= turn().finally(() => {
      turning = undefined;
    });
  }

  async function turn(): Promise<void> {
    clearTimeout(timer);
    try {
      while (again && !stopped) {
        again = false;
        const limit = Math.min(MAX_IN_FLIGHT_PER_KEY, MAX_IN_FLIGHT - flights.size);
        if (limit <= 0) return; // the end of a flight comes back here
        const claimed = await store.claimDeliveries({ lease: LEASE, limit, except: busy() });
        for (const delivery of claimed) fly(delivery);
        again ||= claimed.length === limit;
      }
      const wait = (await store.nextDeliveryDue(busy())) ?? POLL;
      if (!stopped) timer = setTimeout(wake, Math.max(10, Math.min(POLL, wait)));
    } catch (error) {
      log.error({ error }, 'the store could not be reached; webhooks will be tried again');
      if (!stopped) timer = setTimeout(wake, POLL);
    }
  }

  /** Who has as many under way as one may. */
  function busy(): string[] {
    const counts = new Map<string, number>();
    for (const owner of flights.values()) counts.set(owner, (counts.get(owner) ?? 0) + 1);
    return [...counts].filter(([, count]) => count >= MAX_IN_FLIGHT_PER_KEY).map(([owner]) => owner);
  }

  function fly(delivery: Delivery): void {
    const flight: Promise<void> = deliver(delivery)
      .catch((error) =>
        log.error({ delivery: delivery.id, error }, 'webhook could not be handled; it will be tried again'),
      )
      .finally(() => {
        const isFull = flights.size >= MAX_IN_FLIGHT || busy().length > 0;
        flights.delete(flight);
        if (isFull) wake();
      });
    flights.set(flight, delivery.owner);
  }

  async function deliver(delivery: Delivery): Promise<void> {
    const { id, task_id, owner, type, url } = delivery;
    const attempts = delivery.attempts + 1;
    const { status_code, error, retryAfter } = await send(delivery);
    const isHeard = status_code !== null && status_code >= 200 && status_code < 300;
    const delay = type === TEST ? undefined : DELAYS[attempts - 1];
    const isOver = isHeard || status_code === GONE || delay === undefined;
    const nextAttemptIn = isOver ? null : Math.max(retryAfter ?? 0, delay * (0.9 + 0.2 * Math.random()));
    const status = isHeard ? 'delivered' : status_code === GONE ? 'disabled' : isOver ? 'failed' : 'pending';

    if (status === 'disabled') await store.disableWebhook(owner, url);
    if (nextAttemptIn !== null && (retryAfter !== undefined || OVERLOADED.includes(status_code!)))
      await store.postponeWebhook(owner, url, Math.min(nextAttemptIn, retryAfter ?? 5 * MINUTE));
    const delivered_at = isHeard ? now() : null;
    await store.recordAttempt(delivery, {
      status,
      attempts,
      attempted_at: now(),
      status_code,
      error,
      delivered_at,
      nextAttemptIn,
    });
    onAttempt(
      isHeard ? 'delivered' : isOver ? 'exhausted' : status_code === null ? 'unreachable' : 'refused',
      now() - delivery.created_at,
    );
    const line = { delivery: id, task: task_id, attempt: attempts, status, status_code, reason: error };
    log[isHeard ? 'info' : 'warn'](line, isHeard ? 'webhook delivered' : 'webhook not delivered');
    if (nextAttemptIn !== null) wake();
  }

  /** One attempt: body and links made anew, the same id. */
  async function send(delivery: Delivery): Promise<Outcome> {
    const key = (await store.getKey(delivery.owner))!;
    const body = await bodyOf(delivery);
    const url = new URL(delivery.url);
    const at = new Date(now());
    try {
      if (!allowPrivate) assertPublicHost(url);
      const answer = await request(url, {
        method: 'POST',
        dispatcher: agent,
        signal: AbortSignal.timeout(TIMEOUT),
        body,
        headers: {
          'content-type': 'application/json',
          'user-agent': 'text-to-video-api',
          'webhook-id': delivery.id,
          'webhook-timestamp': String(Math.floor(at.getTime() / SECOND)),
          'webhook-signature': secretsOf(key)
            .map((secret) => new Webhook(secret).sign(delivery.id, at, body))
            .join(' '),
        },
      });
      await answer.body.dump();
      return { status_code: answer.statusCode, error: null, retryAfter: readRetryAfter(answer.headers['retry-after']) };
    } catch (error) {
      return { status_code: null, error: reasonOf(error), retryAfter: undefined };
    }
  }

  /** Since its last rotation two, for a while: the receiver may know either. */
  const secretsOf = ({ webhook_secret, old_webhook_secret, old_webhook_until }: Key): string[] =>
    old_webhook_secret !== null && now() < (old_webhook_until ?? 0)
      ? [webhook_secret, old_webhook_secret]
      : [webhook_secret];

  async function bodyOf({ type, created_at, task_id }: Delivery): Promise<string> {
    const timestamp = new Date(created_at).toISOString();
    if (task_id === null) return JSON.stringify({ type, timestamp, data: { message: 'this receiver can be reached' } });
    const data = await presentTask((await store.get(task_id))!, { bucket, linkSeconds, now });
    const { prompt } = data.input;
    if (prompt) data.input = { ...data.input, prompt: [...prompt].slice(0, MAX_PROMPT).join('') };
    return JSON.stringify({ type, timestamp, data });
  }

  /** @param header seconds, or a date; at most a day counts. @returns milliseconds */
  function readRetryAfter(header: string | string[] | undefined): number | undefined {
    const text = String(header ?? '');
    const ms = /^\d+$/.test(text) ? Number(text) * SECOND : Date.parse(text) - now();
    return ms > 0 ? Math.min(24 * HOUR, ms) : undefined;
  }

  return {
    wake,

    /** Begins anew with a delivery, also to a receiver that wanted no more. @returns it */
    async replay(delivery: Delivery): Promise<Delivery> {
      await store.enableWebhook(delivery.owner, delivery.url);
      const replayed = await store.resetDelivery(delivery);
      wake();
      return replayed;
    },

    /** Sends an event that means nothing, once. @returns its delivery, which tells later how it went */
    async test(owner: string, url: string): Promise<Delivery> {
      await store.enableWebhook(owner, url);
      const delivery = { id: v7(), owner, task_id: null, type: TEST, url, created_at: now() };
      const added = await store.addDelivery(delivery);
      wake();
      return added;
    },

    async stop(): Promise<void> {
      stopped = true;
      clearTimeout(timer);
      await turning;
      await Promise.all(flights.keys());
    },
  };
}

/** Why there was no answer, for the receiver's owner: nothing of what our network looks like. */
function reasonOf(error: unknown): string {
  const { name, code, cause } = error as { name?: string; code?: string; cause?: unknown };
  const isRefused = [error, cause].some((reason) => reason instanceof RefusedAddress);
  if (isRefused) return 'the address is not public';
  if (name === 'TimeoutError') return `no answer within ${TIMEOUT / SECOND} s`;
  return typeof code === 'string' ? code : 'it could not be sent';
}
