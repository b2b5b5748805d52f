/** For tests: tasks and keys. */
import { NEW_KEY } from '../../api/keys/key-value.ts';
import { type Key, LOCAL, type Order } from '../../api/store/key.ts';
import type { Inserted, Store } from '../../api/store/store.ts';
import { FRESH, type NewTask } from '../../api/store/task.ts';
import { taskIds } from '../../api/tasks/id.ts';

const nextId = taskIds(Date.now);

export function newTask(changes: Partial<NewTask> = {}): NewTask {
  const { id, created_at } = nextId();
  return {
    ...FRESH,
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
export const FREE: Order = {
  amount: 0,
  now: Date.now(),
  maxOpen: Number.MAX_SAFE_INTEGER,
  submissions: { interval: 0, window: 60_000 },
  expectedGpuTime: 1000,
};

/** Stores a task, and before it the key that it belongs to. */
export async function insertTask(store: Store, task: NewTask, order: Partial<Order> = {}): Promise<Inserted> {
  if (task.owner !== LOCAL) await store.addKey(newKey({ id: task.owner }));
  return store.insert(task, { ...FREE, ...order });
}

export const newKey = (changes: Partial<Key> = {}): Parameters<Store['addKey']>[0] => ({
  id: 'a',
  name: 'a',
  scopes: ['submit', 'read'],
  hash: null,
  ...NEW_KEY,
  webhook_secret: `whsec_${Buffer.alloc(32, 9).toString('base64')}`,
  created_at: Date.now(),
  ...changes,
});
