/** The outbox: what is to be announced to webhooks, and what became of it. */
import { sql } from 'kysely';
import type { Attempt, Delivery, DeliveryStatus, NewDelivery } from './delivery.ts';
import type { Claim, Dialect, Write } from './dialect.ts';

/** Some of an owner's deliveries. */
export interface DeliverySelection {
  owner: string;
  status?: DeliveryStatus | undefined;
  task?: string | undefined;
  /** ids below this one */
  before?: string | undefined;
  limit: number;
}

export function deliveryQueries({ db, write, writeAll, fromNow, skipLocked }: Dialect) {
  const now = () => fromNow(0);
  const isGone = (write: Write, owner: string, url: string) =>
    write(db.selectFrom('disabled_webhooks').select('url').where('owner', '=', owner).where('url', '=', url)).then(
      ({ length }) => length > 0,
    );

  /** Due at once; unless its receiver is gone. */
  async function add(write: Write, delivery: NewDelivery): Promise<Delivery> {
    const due: Pick<Delivery, 'status'> & { next_attempt_at: ReturnType<typeof now> | null } = (await isGone(
      write,
      delivery.owner,
      delivery.url,
    ))
      ? { status: 'disabled', next_attempt_at: null }
      : { status: 'pending', next_attempt_at: now() };
    const [row] = await write(
      db
        .insertInto('deliveries')
        .values({ ...delivery, ...due, attempts: 0 })
        .returningAll(),
    );
    return row!;
  }

  return {
    add,

    own: {
      addDelivery: (delivery: NewDelivery): Promise<Delivery> => writeAll((write) => add(write, delivery)),

      /** Newest first. */
      async listDeliveries({ owner, status, task, before, limit }: DeliverySelection): Promise<Delivery[]> {
        let query = db
          .selectFrom('deliveries')
          .selectAll()
          .where('owner', '=', owner)
          .orderBy('id', 'desc')
          .limit(limit);
        if (status !== undefined) query = query.where('status', '=', status);
        if (task !== undefined) query = query.where('task_id', '=', task);
        if (before !== undefined) query = query.where('id', '<', before);
        return query.execute();
      },

      getDelivery: (owner: string, id: string): Promise<Delivery | undefined> =>
        db.selectFrom('deliveries').selectAll().where('owner', '=', owner).where('id', '=', id).executeTakeFirst(),

      /** Whether a receiver has answered 410 and was not asked for since. */
      isWebhookDisabled: async (owner: string, url: string): Promise<boolean> =>
        (await db
          .selectFrom('disabled_webhooks')
          .select('url')
          .where('owner', '=', owner)
          .where('url', '=', url)
          .executeTakeFirst()) !== undefined,

      /** Takes deliveries that are due, but of these owners, and puts the next attempt off, as a lease. */
      claimDeliveries({ lease, limit, except }: Claim & { except: string[] }): Promise<Delivery[]> {
        let due = db
          .selectFrom('deliveries')
          .select('id')
          .where('next_attempt_at', '<=', now())
          .orderBy('next_attempt_at')
          .limit(limit);
        if (except.length > 0) due = due.where('owner', 'not in', except);
        return write(
          db
            .with('due', () => skipLocked(due))
            .updateTable('deliveries')
            .set({ next_attempt_at: fromNow(lease) })
            .where('id', 'in', (e) => e.selectFrom('due').select('id'))
            .returningAll(),
        );
      },

      /** Milliseconds until the next delivery is due, but of these owners; below 0 if one already is, undefined if there is none. */
      async nextDeliveryDue(except: string[]): Promise<number | undefined> {
        let query = db
          .selectFrom('deliveries')
          .select((e) => e(e.fn.min('next_attempt_at'), '-', now()).as('wait'))
          .where('next_attempt_at', 'is not', null);
        if (except.length > 0) query = query.where('owner', 'not in', except);
        return (await query.executeTakeFirst())?.wait ?? undefined;
      },

      /** Writes an attempt down, unless the delivery was replayed, or tried by somebody else, meanwhile. */
      recordAttempt: ({ id, attempts }: Delivery, { nextAttemptIn, ...attempt }: Attempt): Promise<void> =>
        write(
          db
            .updateTable('deliveries')
            .set({ ...attempt, next_attempt_at: nextAttemptIn === null ? null : fromNow(nextAttemptIn) })
            .where('id', '=', id)
            .where('attempts', '=', attempts),
        ).then(() => undefined),

      /** A receiver wants no more: what else is due there is not tried, nor what is still to come. */
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

      /** A receiver is wanted again. */
      enableWebhook: (owner: string, url: string): Promise<void> =>
        write(db.deleteFrom('disabled_webhooks').where('owner', '=', owner).where('url', '=', url)).then(
          () => undefined,
        ),

      /** A receiver is overloaded: what is due there within so many milliseconds waits as long. */
      postponeWebhook: (owner: string, url: string, ms: number): Promise<void> =>
        write(
          db
            .updateTable('deliveries')
            .set({ next_attempt_at: fromNow(ms) })
            .where('owner', '=', owner)
            .where('url', '=', url)
            .where('next_attempt_at', '<', fromNow(ms)),
        ).then(() => undefined),

      /** Begins anew with a delivery, whatever became of it. @returns it */
      async resetDelivery({ id }: Delivery): Promise<Delivery> {
        const [row] = await write(
          db
            .updateTable('deliveries')
            .set({ status: 'pending', next_attempt_at: now(), attempts: sql<number>`0`, delivered_at: null })
            .where('id', '=', id)
            .returningAll(),
        );
        return row!;
      },
    },
  };
}
