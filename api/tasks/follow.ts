import { isActive } from '../../core/task-status.ts';
import { SECOND } from '../../core/time.ts';
import type { Services } from '../services.ts';
import type { PublicTask } from '../store/task.ts';

/** Below the lifecycle's WATCH_TTL, so that a followed task stays watched. */
const SILENCE = 15 * SECOND;

/**
 * Yields the task as it is, then at each change, until it has ended or a signal aborts. Changes that come while the consumer is busy
 * are yielded as one. Yields undefined after 15 s without a change. Meanwhile the task counts as watched.
 * @param isAdmitted asked before each of these: false ends them, since the task would get fresh links
 */
export async function* follow(
  owner: string,
  task: PublicTask,
  { store, lifecycle }: Pick<Services, 'store' | 'lifecycle'>,
  signals: AbortSignal[],
  isAdmitted: () => Promise<boolean>,
): AsyncGenerator<PublicTask | undefined, void> {
  let latest = task;
  let yielded: PublicTask | undefined;
  let wake = () => {};
  const onChange = (changed: PublicTask | undefined) => {
    if (changed && changed.version > latest.version) latest = changed;
    wake();
  };
  const unsubscribe = lifecycle.subscribe(task.id, onChange);
  const onAbort = () => wake();
  for (const signal of signals) signal.addEventListener('abort', onAbort);
  try {
    onChange(await store.getPublic(owner, task.id)); // it may have changed between its read and the subscription
    while (!signals.some(({ aborted }) => aborted)) {
      if (yielded !== latest) {
        if (!(await isAdmitted())) return;
        yielded = latest;
        yield yielded;
        if (!isActive(yielded.status)) return;
        continue;
      }
      lifecycle.watch(yielded);
      const isSilent = await new Promise<boolean>((resolve) => {
        const timer = setTimeout(resolve, SILENCE, true);
        wake = () => {
          clearTimeout(timer);
          resolve(false);
        };
      });
      if (!isSilent) continue;
      if (!(await isAdmitted())) return;
      yield undefined;
    }
  } finally {
    unsubscribe();
    for (const signal of signals) signal.removeEventListener('abort', onAbort);
  }
}
