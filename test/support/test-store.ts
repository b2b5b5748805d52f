/** Tasks and keys for tests. */
import { type Admission, type Key, LOCAL } from '../../api/store/key.ts';
import type { Store } from '../../api/store/store.ts';
import { INITIAL_STATE, type InsertResult, type NewTask, type Task } from '../../api/store/task.ts';
import { createTaskIds } from '../../api/tasks/id.ts';

const nextId = createTaskIds(Date.now);

export function newTask(changes: Partial<NewTask> = {}): NewTask {
  const { id, created_at } = nextId();
  return {
    ...INITIAL_STATE,
    id,
    created_at,
    model: 'camera',
    input: { prompt: 'größer 👁 \0 ≥ 1' } as never,
    warnings: [],
    image_key: null,
    source_key: null,
    quote: null,
    callback_token: `token of ${id}`,
    share_secret: `secret of ${id}`,
    owner: 'local',
    idempotency_key: null,
    idempotency_hash: null,
    ...changes,
  };
}

/** Reserves nothing, and no limit refuses it. */
export const UNLIMITED: Admission = {
  amount: 0,
  now: Date.now(),
  maxActive: Number.MAX_SAFE_INTEGER,
  submissions: { interval: 0, window: 60_000 },
  expectedGpuTime: 1000,
  uploadBytes: 0,
  maxUploadBytes: Number.MAX_SAFE_INTEGER,
};

/** Stores the task's key and the task. */
export async function insertTask(
  store: Store,
  task: NewTask,
  admission: Partial<Admission> = {},
): Promise<InsertResult> {
  if (task.owner !== LOCAL) await store.addKey(newKey({ id: task.owner }));
  return store.insert(task, { ...UNLIMITED, ...admission });
}

/** @returns the stored task */
export async function insertAndGet(store: Store, changes: Partial<NewTask> = {}): Promise<Task> {
  const task = newTask(changes);
  await insertTask(store, task);
  return (await store.get(task.id))!;
}

export const ids = (rows: { id: string }[]) => rows.map(({ id }) => id).sort();

export const newKey = (changes: Partial<Key> = {}): Parameters<Store['addKey']>[0] => ({
  id: 'a',
  name: 'a',
  scopes: ['submit', 'read'],
  webhook_secret: `whsec_${Buffer.alloc(32, 9).toString('base64')}`,
  created_at: Date.now(),
  ...changes,
});
