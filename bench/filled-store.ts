import { openStore, type Store } from '../api/store/store.ts';
import type { NewTask } from '../api/store/task.ts';
import { insertTask } from '../test/support/test-store.ts';

const BATCH = 1000;

export interface FilledStore {
  store: Store;
  /** of the tasks */
  ids: string[];
}

/**
 * Opens a store in an SQLite file of this folder and fills it.
 * @param dueIn after how many milliseconds the n-th task is due again; null: never
 */
export async function fillStore(
  folder: string,
  count: number,
  makeTask: () => NewTask,
  dueIn: (n: number) => number | null,
): Promise<FilledStore> {
  const store = await openStore(`file:${folder}/tasks.db`);
  const ids: string[] = [];
  while (ids.length < count) {
    const tasks = Array.from({ length: Math.min(BATCH, count - ids.length) }, makeTask);
    await Promise.all(tasks.map((task) => insertTask(store, task)));
    const due = await store.claimDue({ lease: 60_000, limit: tasks.length });
    await Promise.all(due.map((task, i) => store.update(task, { nextRunIn: dueIn(i) })));
    ids.push(...tasks.map(({ id }) => id));
  }
  return { store, ids };
}
