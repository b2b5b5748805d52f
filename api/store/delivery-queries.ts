/** Queries of the outbox: webhook deliveries and their attempts. */
import type { Attempt, Delivery, DeliverySelection, NewDelivery } from './delivery.ts';
import type { Claim, Dialect, Write } from './dialect.ts';

/** Adds a delivery that is due at once, or a disabled one if its webhook is disabled. */
export async function insertDelivery({ db, fromNow }: Dialect, write: Write, delivery: NewDelivery): Promise<Delivery> {
  const { owner, url } = delivery;
  const disabled = await write(
    db.selectFrom('disabled_webhooks').select('url').where('owner', '=', owner).where('url', '=', url),
  );
  const state =
    disabled.length > 0
      ? { status: 'disabled' as const, next_attempt_at: null }
      : { status: 'pending' as const, next_attempt_at: fromNow(0) };
  const [row] = await write(
    db
      .insertInto('deliveries')
      .values({ ...delivery, ...state, attempts: 0 })
      .returningAll(),
  );
  return row!;
}

export function deliveryQueries(dialect: Dialect) {
  const { db, write, writeAll, fromNow, skipLocked } = dialect;
  const deliveriesOf = (owner: string) => db.selectFrom('deliveries').selectAll().where('owner', '=', owner);
  return {
    addDelivery: (delivery: NewDelivery): Promise<Delivery> =>
      writeAll((write) => insertDelivery(dialect, write, delivery)),

    getDelivery: (owner: string, id: string): Promise<Delivery | undefined> =>
      deliveriesOf(owner).where('id', '=', id).executeTakeFirst(),

    /** Newest first. */
    async listDeliveries({ owner, status, task, before, limit }: DeliverySelection): Promise<Delivery[]> {
      let query = deliveriesOf(owner).orderBy('id', 'desc').limit(limit);
      if (status !== undefined) query = query.where('status', '=', status);
      if (task !== undefined) query = query.where('task_id', '=', task);
      if (before !== undefined) query = query.where('id', '<', before);
      return query.execute();
    },

    /** Leases deliveries that are due, except those of some owners: their next attempt is the lease's expiry. */
    claimDeliveries({ lease, limit, except }: Claim & { except: string[] }): Promise<Delivery[]> {
      const due = db
        .selectFrom('deliveries')
        .select('id')
        .where('next_attempt_at', '<=', fromNow(0))
        .$if(except.length > 0, (query) => query.where('owner', 'not in', except))
        .orderBy('next_attempt_at')
        .limit(limit);
      return write(
        db
          .with('due', () => skipLocked(due))
          .updateTable('deliveries')
          .set({ next_attempt_at: fromNow(lease) })
          .where('id', 'in', (e) => e.selectFrom('due').select('id'))
          .returningAll(),
      );
    },

    /** Milliseconds until the next attempt, except those of some owners. Below 0: one is due; undefined: there is none. */
    async nextDeliveryDue(except: string[]): Promise<number | undefined> {
      const row = await db
        .selectFrom('deliveries')
        .select((e) => e(e.fn.min('next_attempt_at'), '-', fromNow(0)).as('wait'))
        .where('next_attempt_at', 'is not', null)
        .$if(except.length > 0, (query) => query.where('owner', 'not in', except))
        .executeTakeFirst();
      return row?.wait ?? undefined;
    },

    /** Stores the outcome of an attempt, unless the delivery was reset or attempted by another process meanwhile. */
    async recordAttempt({ id, attempts }: Delivery, { nextAttemptIn, ...attempt }: Attempt): Promise<void> {
      const next_attempt_at = nextAttemptIn === null ? null : fromNow(nextAttemptIn);
      await write(
        db
          .updateTable('deliveries')
          .set({ ...attempt, next_attempt_at })
          .where('id', '=', id)
          .where('attempts', '=', attempts),
      );
    },

    /** Makes a delivery pending and due, with no attempts, whatever its status. @returns it */
    async resetDelivery({ id }: Delivery): Promise<Delivery> {
      const [row] = await write(
        db
          .updateTable('deliveries')
          .set({ status: 'pending', next_attempt_at: fromNow(0), attempts: 0, delivered_at: null })
          .where('id', '=', id)
          .returningAll(),
      );
      return row!;
    },
  };
}

/** Queries of webhooks: a webhook is one owner's URL. */
export function webhookQueries({ db, write, writeAll, fromNow }: Dialect) {
  return {
    /** Whether the webhook answered 410 and was not enabled since. */
    isWebhookDisabled: async (owner: string, url: string): Promise<boolean> =>
      (await db
        .selectFrom('disabled_webhooks')
        .select('url')
        .where('owner', '=', owner)
        .where('url', '=', url)
        .executeTakeFirst()) !== undefined,

    /** Disables the webhook's scheduled deliveries, and all that come until it is enabled. */
    disableWebhook: (owner: string, url: string): Promise<void> =>
      writeAll(async (write) => {
        await write(
          db
            .insertInto('disabled_webhooks')
            .values({ owner, url })
            .onConflict((conflict) => conflict.columns(['owner', 'url']).doNothing()),
        );
        await write(
          db
            .updateTable('deliveries')
            .set({ status: 'disabled', next_attempt_at: null })
            .where('owner', '=', owner)
            .where('url', '=', url)
            .where('next_attempt_at', 'is not', null),
        );
      }),

    async enableWebhook(owner: string, url: string): Promise<void> {
      await write(db.deleteFrom('disabled_webhooks').where('owner', '=', owner).where('url', '=', url));
    },

    /** Schedules no attempt at the webhook within the next `ms` milliseconds. */
    async postponeWebhook(owner: string, url: string, ms: number): Promise<void> {
      await write(
        db
          .updateTable('deliveries')
          .set({ next_attempt_at: fromNow(ms) })
          .where('owner', '=', owner)
          .where('url', '=', url)
          .where('next_attempt_at', '<', fromNow(ms)),
      );
    },
  };
}
