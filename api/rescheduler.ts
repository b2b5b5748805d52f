import { MINUTE } from '../core/time.ts';
import type { Dependencies } from './dependencies.ts';
import { createPoller, type Poller } from './poller.ts';

/** @returns a poller that makes due, every minute, what was scheduled too late because a clock was ahead */
export function createRescheduler({ config, store, log }: Dependencies): Poller {
  const reschedule = async () => {
    await store.rescheduleFarTasks(Math.max(config.retain, config.taskDeadline));
    await store.rescheduleFarDeliveries();
    return MINUTE;
  };
  return createPoller(reschedule, (error) => {
    log.error({ error }, 'the schedule of the store could not be checked; will be retried');
    return MINUTE;
  });
}
