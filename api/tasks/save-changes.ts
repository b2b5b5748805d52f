import { setTimeout as delay } from 'node:timers/promises';
import { isActive } from '../../core/task-status.ts';
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Store } from '../store/store.ts';
import type { Changes, Task } from '../store/task.ts';

/** Longer than a submission's timeout plus the bucket's. */
export const LEASE = 60 * SECOND;

/** Whether the new job, or the end of the task, is in the store. */
const isStored = ({ job_id, status, finished_at }: Changes, task: Task) =>
  job_id
    ? task.job_id === job_id || task.jobs_to_cancel.includes(job_id)
    : finished_at !== undefined && task.status === status && task.finished_at === finished_at;

interface SaveOptions extends Pick<Dependencies, 'log' | 'now'> {
  store: Pick<Store, 'update' | 'get'>;
  /** if aborted, nothing is tried again */
  signal: AbortSignal;
}

/**
 * Stores the changes of a step. A new job must not get lost, or the task would get a second one. So an unreachable store is tried again
 * while the lease lasts, and a new job is stored even if another process has changed the task meanwhile: as the task's job if the lease
 * is still ours, else as one to cancel. A store that failed may have stored the changes nevertheless.
 * @returns the changed task, or undefined
 * @throws Error the store could not be reached
 */
export async function saveChanges(
  task: Task,
  changes: Changes,
  { store, log, now, signal }: SaveOptions,
): Promise<Task | undefined> {
  const { job_id } = changes;
  const until = now() + LEASE;
  for (let pause = SECOND / 10, current = task; ; pause = Math.min(5 * SECOND, 2 * pause)) {
    try {
      const isOurs = isActive(current.status) && current.leased_until === task.leased_until;
      if (!job_id || isOurs) {
        const jobs_to_cancel = [...new Set([...current.jobs_to_cancel, ...(changes.jobs_to_cancel ?? [])])];
        const updated = await store.update(current, current === task ? changes : { ...changes, jobs_to_cancel });
        if (updated) return updated;
      } else if (await store.update(current, { jobs_to_cancel: [...current.jobs_to_cancel, job_id], runNow: true })) {
        log.warn({ task: task.id, job: job_id }, 'the new job is superseded already');
        return undefined;
      }
      const latest = await store.get(task.id);
      if (!latest) return undefined;
      if (isStored(changes, latest)) return job_id && !isActive(latest.status) ? undefined : latest;
      if (!job_id) return undefined;
      current = latest;
    } catch (error) {
      if (signal.aborted || now() > until) throw error;
      log.warn({ task: task.id, error }, 'the task could not be stored; will be retried');
      await delay(pause);
    }
  }
}
