/** For tests: tasks. */
import { randomUUID } from 'node:crypto';
import type { NewTask } from './store.ts';

let serial = 0;
/** Ids sort by their making, as UUIDv7s do. */
export function newTask(changes: Partial<NewTask> = {}): NewTask {
  const id = `${String(++serial).padStart(8, '0')}${randomUUID().slice(8)}`;
  return {
    id,
    status: 'queued',
    stage: null,
    step: null,
    steps: null,
    progress: 0,
    created_at: Date.now(),
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
