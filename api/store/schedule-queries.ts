/** Corrections of the times at which tasks and deliveries are next worked on. */
import type { ExpressionBuilder } from 'kysely';
import { DAY, MINUTE } from '../../core/time.ts';
import type { Dialect, Tables } from './dialect.ts';
import { ACTIVE, NOT_WAITING } from './schema.ts';
import { NEVER } from './task-queries.ts';

/** Longer than any lease and any pause between two steps of an active task. */
const MAX_PAUSE = 5 * MINUTE;
/** Longer than any pause between two attempts of a delivery. */
const MAX_DELIVERY_PAUSE = 2 * DAY;

export function scheduleQueries({ db, write, fromNow }: Dialect) {
  return {
    /**
     * Makes tasks due whose next step is further away than any is scheduled: a clock was ahead.
     * @param longest time from the end of a task to its next step; milliseconds
     */
    async rescheduleFarTasks(longest: number): Promise<void> {
      const due = { next_run_at: fromNow(0), leased_until: 0 };
      const isFar = (ms: number) => (e: ExpressionBuilder<Tables, 'tasks'>) =>
        e.and([e('next_run_at', '>', fromNow(ms)), e('next_run_at', '<', NEVER)]);
      await write(db.updateTable('tasks').set(due).where(ACTIVE).where(isFar(MAX_PAUSE)));
      await write(
        db
          .updateTable('tasks')
          .set(due)
          .where(NOT_WAITING)
          .where(isFar(longest + DAY)),
      );
    },

    /** Makes deliveries due whose next attempt is further away than any is scheduled: a clock was ahead. */
    async rescheduleFarDeliveries(): Promise<void> {
      await db
        .updateTable('deliveries')
        .set({ next_attempt_at: fromNow(0) })
        .where('next_attempt_at', '>', fromNow(MAX_DELIVERY_PAUSE))
        .$call(write);
    },

    /** Makes ended tasks due whose files are older than `retain` milliseconds, for the case that RETAIN_DAYS was shortened. */
    async rescheduleExpiry(retain: number, now: number): Promise<void> {
      await db
        .updateTable('tasks')
        .set({ next_run_at: 0 })
        .where('finished_at', '<', now - retain)
        .where('expired_at', 'is', null)
        .$call(write);
    },
  };
}
