import { isActive } from '../../core/responses.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/task.ts';

/** After so long without a change callers are told that there was none. Less than what a look counts as watching in the lifecycle. */
const SILENCE = 15 * 1000; // milliseconds

/**
 * The task as it is, then at each change, until it has ended or a signal aborts; changes that come while the caller is busy with one
 * are told as one. Undefined after 15 s without a change. Meanwhile the task counts as watched.
 */
export async function* follow(
  owner: string,
  task: Task,
  { store, lifecycle }: Pick<Services, 'store' | 'lifecycle'>,
  signals: AbortSignal[],
): AsyncGenerator<Task | undefined, void> {
  let latest = task;
  let told: Task | undefined;
  let wake = () => {};
  const take = (changed: Task | undefined) => {
    if (changed && changed.version > latest.version) latest = changed;
    wake();
  };
  const forget = lifecycle.subscribe(task.id, take);
  const onAbort = () => wake();
  for (const signal of signals) signal.addEventListener('abort', onAbort);
  try {
    take(await store.getOwn(owner, task.id)); // it may have changed after it was read and before anybody listened
    while (!signals.some(({ aborted }) => aborted)) {
      if (told !== latest) {
        told = latest;
        yield told;
        if (!isActive(told.status)) return;
        continue;
      }
      lifecycle.watch(told);
      const isSilent = await new Promise<boolean>((resolve) => {
        const timer = setTimeout(resolve, SILENCE, true);
        wake = () => {
          clearTimeout(timer);
          resolve(false);
        };
      });
      if (isSilent) yield undefined;
    }
  } finally {
    forget();
    for (const signal of signals) signal.removeEventListener('abort', onAbort);
  }
}
