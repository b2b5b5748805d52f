/** One attempt to deliver a webhook: a signed request, as Standard Webhooks defines it (standardwebhooks.com). */
import { Webhook } from 'standardwebhooks';
import { RefusedAddress, requestUntrusted } from '../../core/net/address-guard.ts';
import { parseRetryAfter } from '../../core/retry-after.js';
import { DAY, SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Delivery, NewDelivery } from '../store/delivery.ts';
import type { Key } from '../store/key.ts';
import { presentTask } from '../tasks/present.ts';

/** The receiver's answer to a URL that shall get nothing more. */
export const GONE = 410;
/** How long others wait for a receiver that gives no answer, so that the key's other receivers find a place. */
export const SILENCE_PAUSE = 20 * SECOND;

const TIMEOUT = 20 * SECOND;
const MAX_RETRY_AFTER = DAY;
const MAX_PROMPT = 500; // characters: a body stays under 100 kB

/** Without a response, `status_code` is null and `error` says why. */
export type AttemptResult = Pick<Delivery, 'status_code' | 'error'> & {
  /** what the receiver asked for, if it is more than 0, at most a day; milliseconds */
  retryAfter?: number | undefined;
};

/** Each attempt at a delivery has the same id, and fresh links in its body. */
export function createAttempt(dependencies: Dependencies) {
  const { config, store, now } = dependencies;

  async function bodyOf({ type, created_at, task_id }: NewDelivery): Promise<string> {
    const timestamp = new Date(created_at).toISOString();
    if (task_id === null) return JSON.stringify({ type, timestamp, data: { message: 'this receiver can be reached' } });
    const data = await presentTask((await store.get(task_id))!, dependencies);
    const { prompt } = data.input;
    if (prompt) data.input = { ...data.input, prompt: [...prompt].slice(0, MAX_PROMPT).join('') };
    return JSON.stringify({ type, timestamp, data });
  }

  return async (delivery: NewDelivery): Promise<AttemptResult> => {
    const key = (await store.getKey(delivery.owner))!;
    const body = await bodyOf(delivery);
    const sentAt = new Date(now());
    try {
      const response = await requestUntrusted(new URL(delivery.url), {
        method: 'POST',
        allowPrivate: config.allowPrivateUrls,
        signal: AbortSignal.timeout(TIMEOUT),
        body,
        headers: {
          'content-type': 'application/json',
          'user-agent': 'text-to-video-api',
          'webhook-id': delivery.id,
          'webhook-timestamp': String(Math.floor(sentAt.getTime() / SECOND)),
          'webhook-signature': secretsOf(key, now())
            .map((secret) => new Webhook(secret).sign(delivery.id, sentAt, body))
            .join(' '),
        },
      });
      response.destroy(); // the status is enough
      const retryAfter = parseRetryAfter(response.headers['retry-after'], now()) ?? 0;
      return {
        status_code: response.statusCode!,
        error: null,
        retryAfter: Math.min(MAX_RETRY_AFTER, retryAfter) || undefined,
      };
    } catch (error) {
      return { status_code: null, error: describeFailure(error) };
    }
  };
}

/** Two for a while after a rotation: the receiver may know either. */
const secretsOf = ({ webhook_secret, old_webhook_secret, old_webhook_until }: Key, now: number): string[] =>
  old_webhook_secret !== null && now < (old_webhook_until ?? 0)
    ? [webhook_secret, old_webhook_secret]
    : [webhook_secret];

/** For the webhook's owner, so it reveals nothing about our network. */
function describeFailure(error: unknown): string {
  const { code, cause } = error as { code?: string; cause?: unknown };
  const reasons = [error, cause];
  if (reasons.some((reason) => reason instanceof RefusedAddress)) return 'the address is not public';
  if (reasons.some((reason) => reason instanceof Error && reason.name === 'TimeoutError'))
    return `no response within ${TIMEOUT / SECOND} s`;
  return typeof code === 'string' ? code : 'the request failed';
}
