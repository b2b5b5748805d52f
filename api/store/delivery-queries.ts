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
    write(db.selectFrom('gone_webhooks').select('url').where('owner', '=', owner).where('url', '=', url)).then(
      ({ length }) => length > 0,
    );

  /** Due at once; unless its receiver is gone. */
  async function add(write: Write, delivery: NewDelivery): Promise<Delivery> {
    const due: Pick<Delivery, 'status'> & { due_at: ReturnType<typeof now> | null } = (await isGone(
      write,
      delivery.owner,
      delivery.url,
    ))
      ? { status: 'disabled', due_at: null }
      : { status: 'pending', due_at: now() };
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
      async deliveries({ owner, status, task, before, limit }: DeliverySelection): Promise<Delivery[]> {
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

      delivery: (owner: string, id: string): Promise<Delivery | undefined> =>
        db.selectFrom('deliveries').selectAll().where('owner', '=', owner).where('id', '=', id).executeTakeFirst(),

      /** Whether a receiver has answered 410 and was not asked for since. */
      isGone: async (owner: string, url: string): Promise<boolean> =>
        (await db
          .selectFrom('gone_webhooks')
          .select('url')
          .where('owner', '=', owner)
          .where('url', '=', url)
          .executeTakeFirst()) !== undefined,

      /** Takes deliveries that are due, but of these owners, and puts the next attempt off, as a lease. */
      claimDeliveries({ lease, limit, except }: Claim & { except: string[] }): Promise<Delivery[]> {
        let due = db.selectFrom('deliveries').select('id').where('due_at', '<=', now()).orderBy('due_at').limit(limit);
        if (except.length > 0) due = due.where('owner', 'not in', except);
        return write(
          db
            .with('due', () => skipLocked(due))
            .updateTable('deliveries')
            .set({ due_at: fromNow(lease) })
            .where('id', 'in', (e) => e.selectFrom('due').select('id'))
            .returningAll(),
        );
      },

      /** Milliseconds until the next delivery is due, but of these owners; below 0 if one already is, undefined if there is none. */
      async deliveryDueIn(except: string[]): Promise<number | undefined> {
        let query = db
          .selectFrom('deliveries')
          .select((e) => e(e.fn.min('due_at'), '-', now()).as('wait'))
          .where('due_at', 'is not', null);
        if (except.length > 0) query = query.where('owner', 'not in', except);
        return (await query.executeTakeFirst())?.wait ?? undefined;
      },

      /** Writes an attempt down, unless the delivery was replayed, or tried by somebody else, meanwhile. */
      setAttempt: ({ id, attempts }: Delivery, { due_in, ...attempt }: Attempt): Promise<void> =>
        write(
          db
            .updateTable('deliveries')
            .set({ ...attempt, due_at: due_in === null ? null : fromNow(due_in) })
            .where('id', '=', id)
            .where('attempts', '=', attempts),
        ).then(() => undefined),

      /** A receiver wants no more: what else is due there is not tried, nor what is still to come. */
      disable: (owner: string, url: string): Promise<void> =>
        writeAll(async (write) => {
          await write(
            db
              .insertInto('gone_webhooks')
              .values({ owner, url })
              .onConflict((conflict) => conflict.columns(['owner', 'url']).doNothing()),
          );
          await write(
            db
              .updateTable('deliveries')
              .set({ status: 'disabled', due_at: null })
              .where('owner', '=', owner)
              .where('url', '=', url)
              .where('due_at', 'is not', null),
          );
        }),

      /** A receiver is wanted again. */
      enable: (owner: string, url: string): Promise<void> =>
        write(db.deleteFrom('gone_webhooks').where('owner', '=', owner).where('url', '=', url)).then(() => undefined),

      /** A receiver is overloaded: what is due there within so many milliseconds waits as long. */
      putOff: (owner: string, url: string, ms: number): Promise<void> =>
        write(
          db
            .updateTable('deliveries')
            .set({ due_at: fromNow(ms) })
            .where('owner', '=', owner)
            .where('url', '=', url)
            .where('due_at', '<', fromNow(ms)),
        ).then(() => undefined),

      /** Begins anew with a delivery, whatever became of it. @returns it */
      async replay({ id }: Delivery): Promise<Delivery> {
        const [row] = await write(
          db
            .updateTable('deliveries')
            .set({ status: 'pending', due_at: now(), attempts: sql<number>`0`, delivered_at: null })
            .where('id', '=', id)
            .returningAll(),
        );
        return row!;
      },
    },
  };
}
