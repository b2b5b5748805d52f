/** Which events of a task its webhook is notified of. */
import * as v from 'valibot';

export const WEBHOOK_EVENTS = ['started', 'progress', 'ended'] as const;
export type WebhookEventName = (typeof WEBHOOK_EVENTS)[number];

const ALLOWED = `must be a list of ${WEBHOOK_EVENTS.join(', ')}, at least one; in a form send text with commas`;

/** Forms and command lines carry the names as text with commas. @returns undefined: neither a list nor text */
const namesOf = (value: unknown): unknown[] | undefined =>
  typeof value === 'string' ? value.split(',').map((name) => name.trim()) : Array.isArray(value) ? value : undefined;

/** The output has each name once, in the order in which the events come. */
export const webhookEvents = (description: string) =>
  v.pipe(
    v.custom<WebhookEventName[]>((value) => {
      const names = namesOf(value) ?? [];
      return names.length > 0 && names.every((name) => (WEBHOOK_EVENTS as readonly unknown[]).includes(name));
    }, ALLOWED),
    v.metadata({ type: 'array', items: { type: 'string', enum: [...WEBHOOK_EVENTS] }, minItems: 1, description }),
    v.transform((value): WebhookEventName[] => WEBHOOK_EVENTS.filter((name) => namesOf(value)!.includes(name))),
  );

interface Notified {
  webhook_url?: string;
  webhook_events?: WebhookEventName[];
}

/** Whether a task with this input has a webhook that is notified of an event. */
export const isNotified = ({ webhook_url, webhook_events = ['ended'] }: Notified, event: WebhookEventName): boolean =>
  webhook_url !== undefined && webhook_events.includes(event);
