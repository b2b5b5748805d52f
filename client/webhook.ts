/** Webhooks as a receiver sees them: how a task goes on and ends. */
import { WebhookVerificationError as VerificationError, Webhook } from 'standardwebhooks';
import type { Task } from './types.ts';

/** Thrown where a webhook is not signed with the secret, or is too old. */
export class WebhookVerificationError extends Error {
  override name = 'WebhookVerificationError';
}

export type WebhookEvent =
  | {
      type: 'task.started' | 'task.progress' | 'task.succeeded' | 'task.failed' | 'task.canceled';
      timestamp: string;
      data: Task;
    }
  | { type: 'webhook.test'; timestamp: string; data: { message: string } };

/**
 * The event in a webhook's body, if it is signed with this secret and not older than five minutes.
 * @param body byte for byte as it came
 * @param secret whsec_…, that of the API key that made the task
 * @throws WebhookVerificationError it is not from there, or too old; Error the secret is none
 */
export function verifyWebhook(
  body: string | Uint8Array,
  headers: Headers | Record<string, string | string[] | undefined>,
  secret: string,
): WebhookEvent {
  const text = typeof body === 'string' ? body : new TextDecoder().decode(body);
  const named = headers instanceof Headers ? Object.fromEntries(headers) : headers;
  const single = Object.fromEntries(Object.entries(named).map(([name, value]) => [name, String(value ?? '')]));
  const webhook = new Webhook(secret);
  try {
    return webhook.verify(text, single) as WebhookEvent;
  } catch (cause) {
    if (cause instanceof VerificationError) throw new WebhookVerificationError(cause.message, { cause });
    throw cause;
  }
}
