/** An announcement to a webhook as the store keeps it: the outbox. */
export const DELIVERY_STATUSES = ['pending', 'delivered', 'failed', 'disabled'] as const;
/** `failed`: given up; `disabled`: its receiver has answered 410 to this or another one. Either may be replayed. */
export type DeliveryStatus = (typeof DELIVERY_STATUSES)[number];

/** Times are milliseconds since 1970; `next_attempt_at` by the database's clock, the others by the API's. */
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
  /** when it is tried next, or, while it is being tried, tried by somebody else; null: not at all */
  next_attempt_at: number | null;
  /** tried so often since it was created or replayed */
  attempts: number;
  attempted_at: number | null;
  /** of the last attempt: the receiver's answer, or why there was none */
  status_code: number | null;
  error: string | null;
  delivered_at: number | null;
}

export type NewDelivery = Pick<Delivery, 'id' | 'owner' | 'task_id' | 'type' | 'url' | 'created_at'>;

/** What an attempt has shown. */
export type Attempt = Pick<
  Delivery,
  'status' | 'attempts' | 'attempted_at' | 'status_code' | 'error' | 'delivered_at'
> & {
  /** milliseconds until the next; null: there is none */
  nextAttemptIn: number | null;
};
