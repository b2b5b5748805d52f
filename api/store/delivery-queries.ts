/** Queries of the outbox: webhook deliveries and their attempts. */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import type { Attempt, Delivery, DeliverySelection, NewDelivery } from './delivery.ts';
import type { Dialect, Write } from './dialect.ts';
import { dueOwners, type FairClaim, fairest, type Queue } from './fair-claim.ts';
import { SCHEDULED } from './schema.ts';

const QUEUE: Queue = { table: 'deliveries', condition: SCHEDULED, due: 'next_attempt_at' };

/** Adds a delivery that is due at once, or a disabled one if its webhook is disabled. */
export async function insertDelivery({ db, fromNow }: Dialect, write: Write, delivery: NewDelivery): Promise<Delivery> {
  const disabled = await db
    .selectFrom('disabled_webhooks')
    .select('url_hash')
    .where((e) => e.and(webhookKey(delivery.owner, delivery.url)))
    .$call(write);
  const state =
    disabled.length > 0
      ? { status: 'disabled' as const, next_attempt_at: null }
      : { status: 'pending' as const, next_attempt_at: fromNow(0) };
  const values = { ...delivery, ...state, started: 0, attempts: 0 };
  const [row] = await db.insertInto('deliveries').values(values).returningAll().$call(write);
  return row!;
}

/** The key of a webhook's row, if the webhook is disabled. */
const webhookKey = (owner: string, url: string) => ({
  owner,
  url_hash: createHash('sha256').update(url).digest('hex'),
});

export function deliveryQueries(dialect: Dialect) {
  const { db, write, writeAll, fromNow, skipLocked } = dialect;
  const deliveriesOf = (owner: string) => db.selectFrom('deliveries').selectAll().where('owner', '=', owner);
  return {
    addDelivery: (delivery: NewDelivery): Promise<Delivery> =>
      writeAll((write) => insertDelivery(dialect, write, delivery)),

    getDelivery: (owner: string, id: string): Promise<Delivery | undefined> =>
      deliveriesOf(owner).where('id', '=', id).executeTakeFirst(),

    /** Newest first. */
    listDeliveries: ({ owner, status, task, before, limit }: DeliverySelection): Promise<Delivery[]> =>
      deliveriesOf(owner)
        .$if(status !== undefined, (query) => query.where('status', '=', status!))
        .$if(task !== undefined, (query) => query.where('task_id', '=', task!))
        .$if(before !== undefined, (query) => query.where('id', '<', before!))
        .orderBy('id', 'desc')
        .limit(limit)
        .execute(),

    /**
     * Leases due deliveries, fairly among owners: their next attempt is the lease's expiry. The attempt counts from here on, so a delivery
     * whose outcome can't be stored ends all the same.
     * @param underWay deliveries that this process attempts now, by owner
     */
    async claimDeliveries({ underWay, ...claim }: FairClaim & { underWay: Map<string, number> }): Promise<Delivery[]> {
      const owners = (await dueOwners(dialect, QUEUE)).map(({ owner }) => ({ owner, count: underWay.get(owner) ?? 0 }));
      if (owners.length === 0) return [];
      const due = db
        .selectFrom('deliveries')
        .select('id')
        .where('id', 'in', fairest(dialect, QUEUE, owners, claim))
        .where('next_attempt_at', '<=', fromNow(0));
      return db
        .with('due', () => skipLocked(due))
        .updateTable('deliveries')
        .set({ next_attempt_at: fromNow(claim.lease), started: sql`started + 1` })
        .where('id', 'in', (e) => e.selectFrom('due').select('id'))
        .returningAll()
        .$call(write);
    },

    /** Milliseconds until the next attempt. Below 0: one may be claimed now; undefined: there is none. */
    async nextDeliveryDue(): Promise<number | undefined> {
      const row = await db
        .selectFrom('deliveries')
        .select((e) => e(e.fn.min('next_attempt_at'), '-', fromNow(0)).as('wait'))
        .where(SCHEDULED)
        .executeTakeFirst();
      return row?.wait ?? undefined;
    },

    /** Stores the outcome of an attempt, unless the delivery was reset or claimed by another process meanwhile. */
    async recordAttempt({ id, started }: Delivery, { nextAttemptIn, ...attempt }: Attempt): Promise<void> {
      const next_attempt_at = nextAttemptIn === null ? null : fromNow(nextAttemptIn);
      await db
        .updateTable('deliveries')
        .set({ ...attempt, next_attempt_at })
        .where((e) => e.and({ id, started }))
        .$call(write);
    },

    /** Makes a delivery of any status pending and due, with no attempts. @returns it */
    async resetDelivery({ id }: Delivery): Promise<Delivery> {
      const [row] = await db
        .updateTable('deliveries')
        .set({ status: 'pending', next_attempt_at: fromNow(0), started: 0, attempts: 0, delivered_at: null })
        .where('id', '=', id)
        .returningAll()
        .$call(write);
      return row!;
    },
  };
}

/** Queries of webhooks: a webhook is one owner's URL. */
export function webhookQueries({ db, write, writeAll, fromNow }: Dialect) {
  return {
    /** Whether the webhook answered 410 and was not enabled since. */
    isWebhookDisabled: async (owner: string, url: string): Promise<boolean> =>
      (
        await db
          .selectFrom('disabled_webhooks')
          .select('url_hash')
          .where((e) => e.and(webhookKey(owner, url)))
          .execute()
      ).length > 0,

    /** Disables the webhook's scheduled deliveries, and all that come until it is enabled. */
    disableWebhook: (owner: string, url: string): Promise<void> =>
      writeAll(async (write) => {
        await db
          .insertInto('disabled_webhooks')
          .values({ ...webhookKey(owner, url), disabled_at: fromNow(0) })
          .onConflict((conflict) => conflict.columns(['owner', 'url_hash']).doNothing())
          .$call(write);
        await db
          .updateTable('deliveries')
          .set({ status: 'disabled', next_attempt_at: null })
          .where((e) => e.and({ owner, url }))
          .where(SCHEDULED)
          .$call(write);
      }),

    async enableWebhook(owner: string, url: string): Promise<void> {
      await db
        .deleteFrom('disabled_webhooks')
        .where((e) => e.and(webhookKey(owner, url)))
        .$call(write);
    },

    /** Schedules no attempt at the webhook within the next `ms` milliseconds. */
    async postponeWebhook(owner: string, url: string, ms: number): Promise<void> {
      await db
        .updateTable('deliveries')
        .set({ next_attempt_at: fromNow(ms) })
        .where((e) => e.and({ owner, url }))
        .where('next_attempt_at', '<', fromNow(ms))
        .$call(write);
    },
  };
}
