/** For tests: tasks. */
import { taskIds } from '../tasks/id.ts';
import { FRESH, type NewTask } from './task.ts';

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
    callback_token: `token of ${id}`,
    owner: 'local',
    idempotency_key: null,
    idempotency_hash: null,
    ...changes,
  };
}
