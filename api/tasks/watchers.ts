/**
 * Tasks that clients watch in this process: they are polled more often, and subscribers are notified of each change once, whichever
 * process made it. The states of a task here:
 *
 *   not watched ──watch()──▶ watched ──WATCH_TTL without watch(), or its end──▶ not watched
 */
import { EventEmitter } from 'node:events';
import { isActive } from '../../core/task-status.ts';
import { SECOND } from '../../core/time.ts';
import type { Dependencies } from '../dependencies.ts';
import type { Store } from '../store/store.ts';
import type { PublicTask, Task } from '../store/task.ts';
import { LEASE } from './save-changes.ts';

const WATCH_TTL = 20 * SECOND;

/** Changes of other fields are not worth a notification. */
const NOTIFIED = ['status', 'stage', 'step', 'progress', 'still', 'still_preview', 'expired_at'] as const;

export interface WatcherOptions extends Pick<Dependencies, 'log' | 'now'> {
  store: Pick<Store, 'isShared' | 'getMany' | 'claim'>;
  /** milliseconds between reads of the changes by other processes */
  interval: number;
  /** called with the id of a task when it becomes watched */
  onWatched: (id: string) => void;
  /** called with watched tasks whose next step was too far away; they are leased for it now */
  onClaimed: (task: Task) => void;
}

export function createWatchers({ store, interval, onWatched, onClaimed, log, now }: WatcherOptions) {
  const changes = new EventEmitter<Record<string, [PublicTask]>>().setMaxListeners(0);
  const watched = new Map<string, { until: number; seen: PublicTask }>(); // `seen`: the version that was notified last
  let timer: NodeJS.Timeout | undefined;
  let reading: Promise<void> | undefined;
  let stopped = false;

  function notify(task: PublicTask, before: PublicTask): void {
    const watcher = watched.get(task.id);
    const seen = watcher?.seen ?? before;
    if (watcher) {
      if (seen.version >= task.version) return;
      watcher.seen = task;
      if (!isActive(task.status)) watched.delete(task.id);
    }
    if (NOTIFIED.some((name) => task[name] !== seen[name])) changes.emit(task.id, task);
  }

  /** Where other processes change tasks too, reads their changes, in one query for all watched tasks. */
  async function readChanges(): Promise<void> {
    for (const [id, { until }] of watched) if (until <= now()) watched.delete(id);
    const ids = [...watched.keys()];
    try {
      for (const task of await store.getMany(ids)) notify(task, watched.get(task.id)?.seen ?? task);
      // A process where nobody watches schedules the next step late.
      for (const task of await store.claim(ids, { lease: LEASE, dueAfter: interval })) onClaimed(task);
    } catch (error) {
      log.error({ error }, 'the store could not be reached for watched tasks; will be retried');
    }
    timer = undefined;
    if (watched.size > 0) scheduleRead();
  }

  function scheduleRead(): void {
    if (!store.isShared || stopped) return;
    timer ??= setTimeout(() => {
      reading = readChanges();
    }, interval);
  }

  return {
    isWatched: (id: string): boolean => (watched.get(id)?.until ?? 0) > now(),

    /** Watches an active task for another WATCH_TTL. */
    watch(task: PublicTask): void {
      if (!isActive(task.status)) return;
      const watcher = watched.get(task.id);
      const isNew = !watcher || watcher.until <= now();
      watched.set(task.id, { until: now() + WATCH_TTL, seen: isNew ? task : watcher.seen });
      if (!isNew) return;
      onWatched(task.id);
      scheduleRead();
    },

    /**
     * Notifies subscribers of a stored change, if they have not seen it.
     * @param before the task before the change; it counts where nobody watches
     */
    notify,

    /** @returns a function that ends the subscription */
    subscribe(id: string, listener: (task: PublicTask) => void): () => void {
      changes.on(id, listener);
      return () => changes.off(id, listener);
    },

    async stop(): Promise<void> {
      stopped = true;
      clearTimeout(timer);
      await reading;
    },
  };
}
