/** For tests: tasks. */
import { taskIds } from '../tasks/id.ts';
import type { NewTask } from './store.ts';

const nextId = taskIds(Date.now);

export function newTask(changes: Partial<NewTask> = {}): NewTask {
  const { id, created_at } = nextId();
  return {
    id,
    status: 'queued',
    stage: null,
    step: null,
    steps: null,
    progress: 0,
    created_at,
    started_at: null,
    finished_at: null,
    model: 'camera',
    input: { prompt: 'größer 👁 \0 ≥ 1' } as never,
    warnings: [],
    image_key: null,
    source_key: null,
    still: null,
    output: null,
    error: null,
    callback_token: `token of ${id}`,
    job_id: null,
    submitted_at: null,
    jobs: 0,
    failures: 0,
    webhook_attempts: 0,
    owner: 'local',
    idempotency_key: null,
    idempotency_hash: null,
    cancel_requested_at: null,
    strays: [],
    expired_at: null,
    version: 1,
    ...changes,
  };
}
