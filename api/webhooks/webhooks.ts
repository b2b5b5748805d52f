/**
 * Announces ended tasks to their `webhook_url`, signed as Standard Webhooks says (standardwebhooks.com), until it is heard. What is due
 * lies in the store: a process that dies forgets no announcement.
 */
import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { Webhook } from 'standardwebhooks';
import { request } from 'undici';
import type { Bucket } from '../../handler/bucket/bucket.ts';
import { checkHost, guardedAgent } from '../../handler/net/guard.ts';
import { secretFile } from '../../handler/secret-file.ts';
import type { Attempt } from '../metrics.ts';
import type { Store } from '../store/store.ts';
import type { Task } from '../store/task.ts';
import { present } from '../tasks/present.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** Waits before each attempt after the first; then it is given up. */
const DELAYS = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];
const TIMEOUT = 20 * SECOND;
/** The store is asked at least so often what is due: another replica may have died before it could announce a task's end. */
const POLL = 5 * SECOND;
const LEASE = MINUTE;
const MAX_PROMPT = 500; // characters: a body stays under 20 kB

export interface WebhookOptions {
  store: Store;
  bucket: Bucket;
  /** whsec_ and base64 */
  secret: string;
  linkSeconds: number;
  /** lifts the guard against addresses that are not public */
  allowPrivate: boolean;
  /** called after each attempt; `ms`: since the task's end */
  onAttempt?: (outcome: Attempt, ms: number) => void;
  log: Logger;
  now?: () => number;
}

export function createWebhooks({
  store,
  bucket,
  secret,
  linkSeconds,
  allowPrivate,
  onAttempt = () => {},
  log,
  now = Date.now,
}: WebhookOptions) {
  const signer = new Webhook(secret);
  const agent = guardedAgent(allowPrivate);
  const flights = new Set<Promise<void>>();
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
        for (const task of await store.claimWebhooks({ lease: LEASE, limit: 20 })) {
          const flight: Promise<void> = deliver(task)
            .catch((error) =>
              log.error({ task: task.id, error }, 'webhook could not be handled; it will be tried again'),
            )
            .finally(() => flights.delete(flight));
          flights.add(flight);
        }
      }
      const wait = (await store.webhookDueIn()) ?? POLL;
      if (!stopped) timer = setTimeout(wake, Math.max(10, Math.min(POLL, wait)));
    } catch (error) {
      log.error({ error }, 'the store could not be reached; webhooks will be tried again');
      if (!stopped) timer = setTimeout(wake, POLL);
    }
  }

  async function deliver(task: Task): Promise<void> {
    const attempt = task.webhook_attempts + 1;
    const { heard, final, unreachable, retryAfter } = await send(task);
    const delay = DELAYS[attempt - 1];
    const next =
      heard || final || delay === undefined ? null : Math.max(retryAfter ?? 0, delay * (0.9 + 0.2 * Math.random()));
    const outcome = heard ? 'heard' : next === null ? 'given_up' : unreachable ? 'unreachable' : 'refused';
    onAttempt(outcome, now() - task.finished_at!);
    await store.setWebhook(task.id, { webhook_attempts: attempt, webhook_due_in: next });
    log[heard ? 'info' : 'warn'](
      { task: task.id, attempt, givenUp: !heard && next === null },
      heard ? 'webhook heard' : 'webhook not heard',
    );
    if (next !== null) wake();
  }

  /** One attempt: body and links made anew, the same id. */
  async function send(
    task: Task,
  ): Promise<{ heard: boolean; final?: boolean; unreachable?: true; retryAfter?: number }> {
    const shown = await present(task, { bucket, linkSeconds, now });
    if (shown.input.prompt)
      shown.input = { ...shown.input, prompt: [...shown.input.prompt].slice(0, MAX_PROMPT).join('') };
    const timestamp = new Date(now());
    const body = JSON.stringify({ type: `task.${task.status}`, timestamp: timestamp.toISOString(), data: shown });
    const url = new URL(task.input.webhook_url!);
    try {
      if (!allowPrivate) checkHost(url);
      const {
        statusCode,
        headers,
        body: answer,
      } = await request(url, {
        method: 'POST',
        dispatcher: agent,
        signal: AbortSignal.timeout(TIMEOUT),
        body,
        headers: {
          'content-type': 'application/json',
          'user-agent': 'text-to-video-api',
          'webhook-id': task.id,
          'webhook-timestamp': String(Math.floor(timestamp.getTime() / 1000)),
          'webhook-signature': signer.sign(task.id, timestamp, body),
        },
      });
      await answer.dump();
      if (statusCode >= 200 && statusCode < 300) return { heard: true };
      const seconds = Number(headers['retry-after']);
      return {
        heard: false,
        final: statusCode === 410,
        ...(seconds > 0 && { retryAfter: Math.min(24 * HOUR, seconds * SECOND) }),
      };
    } catch (error) {
      log.warn({ task: task.id, error }, 'webhook could not be sent');
      return { heard: false, unreachable: true };
    }
  }

  return {
    wake,
    async stop(): Promise<void> {
      stopped = true;
      clearTimeout(timer);
      await turning;
      await Promise.all(flights);
    },
  };
}

/** The secret with which receivers check our announcements: the first process made it; DATA_DIR/webhook-secret shows it to the operator. */
export async function webhookSecret(dataDir: string, store: Store): Promise<string> {
  const path = join(dataDir, 'webhook-secret');
  const make = () => `whsec_${randomBytes(32).toString('base64')}`;
  const own = (await secretFile(path, () => `${make()}\n`)).toString('utf8').trim();
  const secret = await store.secret('webhook', own);
  if (secret !== own) {
    await rm(path); // another replica was first
    await secretFile(path, () => `${secret}\n`);
  }
  return secret;
}
