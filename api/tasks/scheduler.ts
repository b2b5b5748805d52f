/** Claims tasks when they are due. The due times are in the store, so a process that dies loses nothing. */
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import { createPoller, type Poller } from '../poller.ts';
import type { Task } from '../store/task.ts';
import { LEASE } from './save-changes.ts';
import type { Submitter } from './submission.ts';

/** Longest pause between two reads of the store: another process may have died and left its tasks. */
const MAX_PAUSE = 5 * SECOND;
/** Tasks per claim. */
const MAX_CLAIM = 50;

/**
 * @param onClaimed called with each claimed task; its lease lasts for LEASE
 * @returns a poller: `wake` it when a task may have become due, or when there may be capacity again
 */
export function createScheduler(
  { store, log }: Dependencies,
  { capacity }: Submitter,
  onClaimed: (task: Task) => void,
): Poller {
  async function claimDue(): Promise<number> {
    for (;;) {
      const { due = MAX_PAUSE, waiting = MAX_PAUSE, out } = await store.nextDue();
      const { tasks, pause, ...places } = capacity(out);
      const claimed = due <= 0 ? await store.claimDue({ lease: LEASE, limit: MAX_CLAIM }) : [];
      const canSubmit = tasks > 0 && waiting <= 0;
      if (canSubmit)
        claimed.push(...(await store.claimWaiting({ lease: LEASE, limit: Math.min(tasks, MAX_CLAIM), ...places })));
      // A due task that was not claimed waits for a place: the end of a task wakes the poller.
      const nextWaiting = tasks > 0 ? waiting : pause;
      if (claimed.length === 0) return Math.min(due, nextWaiting > 0 ? nextWaiting : MAX_PAUSE, MAX_PAUSE);
      for (const task of claimed) onClaimed(task);
    }
  }

  return createPoller(claimDue, (error) => {
    log.error({ error }, 'the store could not be reached for due tasks; will be retried');
    return SECOND;
  });
}
