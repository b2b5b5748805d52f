/** Deletes what nobody needs any more. Tasks and lines of the ledger stay. */
import { DAY } from '../../core/time.ts';
import { firstIdAt } from '../tasks/id.ts';
import type { Dialect } from './dialect.ts';
import { IDEMPOTENCY_TTL } from './task-queries.ts';

/** Rows of a kind at a time: others wait to write meanwhile. */
const MAX_ROWS = 500;
const TEST_TTL = DAY;

export function pruneQueries({ db, write, fromNow }: Dialect) {
  /** Ids rise with time. */
  const endedBefore = (ms: number) =>
    db
      .selectFrom('deliveries')
      .select('id')
      .where('id', '<', firstIdAt(ms))
      .where('next_attempt_at', 'is', null)
      .limit(MAX_ROWS);
  return {
    /**
     * Deletes some of the ended deliveries that are older than `retain` milliseconds (tests: than a day), of the disabled webhooks as old,
     * and of the expired idempotency keys.
     * @param now milliseconds since 1970
     * @returns whether there may be more
     */
    async prune(retain: number, now: number): Promise<boolean> {
      const old = endedBefore(now - retain);
      const tests = endedBefore(now - TEST_TTL).where('task_id', 'is', null);
      const keyed = db
        .selectFrom('tasks')
        .select('id')
        .where('id', '<', firstIdAt(now - IDEMPOTENCY_TTL))
        .where('idempotency_key', 'is not', null)
        .limit(MAX_ROWS);
      const released = { idempotency_key: null, idempotency_hash: null };
      const pruned = await Promise.all([
        write(db.deleteFrom('deliveries').where('id', 'in', old).returning('id')),
        write(db.deleteFrom('deliveries').where('id', 'in', tests).returning('id')),
        write(db.updateTable('tasks').set(released).where('id', 'in', keyed).returning('id')),
      ]);
      await write(db.deleteFrom('disabled_webhooks').where('disabled_at', '<', fromNow(-retain)));
      return pruned.some((rows) => rows.length === MAX_ROWS);
    },
  };
}
