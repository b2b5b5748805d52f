/** For tests: tasks and keys. */
import { KEY_DEFAULTS } from '../../api/keys/key-value.ts';
import { type Admission, type Key, LOCAL } from '../../api/store/key.ts';
import type { Store } from '../../api/store/store.ts';
import { INITIAL_STATE, type InsertResult, type NewTask } from '../../api/store/task.ts';
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
    owner: 'local',
    idempotency_key: null,
    idempotency_hash: null,
    ...changes,
  };
}

/** Costs nothing, and no limit refuses it. */
export const FREE: Admission = {
  amount: 0,
  now: Date.now(),
  maxActive: Number.MAX_SAFE_INTEGER,
  submissions: { interval: 0, window: 60_000 },
  expectedGpuTime: 1000,
};

/** Stores a task, and before it the key that it belongs to. */
export async function insertTask(store: Store, task: NewTask, order: Partial<Admission> = {}): Promise<InsertResult> {
  if (task.owner !== LOCAL) await store.addKey(newKey({ id: task.owner }));
  return store.insert(task, { ...FREE, ...order });
}

export const newKey = (changes: Partial<Key> = {}): Parameters<Store['addKey']>[0] => ({
  id: 'a',
  name: 'a',
  scopes: ['submit', 'read'],
  hash: null,
  ...KEY_DEFAULTS,
  webhook_secret: `whsec_${Buffer.alloc(32, 9).toString('base64')}`,
  created_at: Date.now(),
  ...changes,
});
