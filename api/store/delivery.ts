/** A webhook message to one URL, as the store keeps it in the outbox. */
import type { DELIVERY_STATUSES } from '../../core/responses.ts';

/** `failed`: the last attempt failed; `disabled`: the webhook answered 410, to this delivery or another. Both can be reset. */
export type DeliveryStatus = (typeof DELIVERY_STATUSES)[number];

/** Times are milliseconds since 1970: `next_attempt_at` by the database's clock, the others by the API's. */
export interface Delivery {
  /** UUIDv7: ids sort by creation. The receiver sees it as webhook-id, the same at each attempt */
  id: string;
  owner: string;
  /** null for a test */
  task_id: string | null;
  type: string;
  url: string;
  status: DeliveryStatus;
  created_at: number;
  /** next attempt; during one, lease expiry; null: none */
  next_attempt_at: number | null;
  /** attempts begun since it was created or reset */
  started: number;
  /** the same, as of the last stored outcome */
  attempts: number;
  attempted_at: number | null;
  /** of the last response; null: there was none */
  status_code: number | null;
  /** why the last attempt got no response */
  error: string | null;
  delivered_at: number | null;
}

export type NewDelivery = Pick<Delivery, 'id' | 'owner' | 'task_id' | 'type' | 'url' | 'created_at'>;

/** The outcome of an attempt. */
export type Attempt = Omit<Delivery, keyof NewDelivery | 'next_attempt_at' | 'started'> & {
  /** milliseconds until the next attempt; null: there is none */
  nextAttemptIn: number | null;
};

/** Some of an owner's deliveries. */
export interface DeliverySelection {
  owner: string;
  status?: DeliveryStatus | undefined;
  task?: string | undefined;
  /** ids below this one */
  before?: string | undefined;
  limit: number;
}
