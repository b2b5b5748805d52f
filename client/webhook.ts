/** Webhooks as a receiver sees them: how a task has ended. */
import { Webhook } from 'standardwebhooks';
import type { PresentedTask } from '../core/responses.ts';

export { WebhookVerificationError } from 'standardwebhooks';

export type WebhookEvent =
  | { type: 'task.succeeded' | 'task.failed' | 'task.canceled'; timestamp: string; data: PresentedTask }
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
  return new Webhook(secret).verify(text, single) as WebhookEvent;
}
