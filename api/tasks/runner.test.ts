import { pino } from 'pino';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { newTask } from '../../test/support/test-store.ts';
import type { Changes, Task } from '../store/task.ts';
import { createRunner, type RunnerOptions } from './runner.ts';

// Retries come at once.
vi.mock('node:timers/promises', () => ({ setTimeout: () => new Promise((resolve) => setImmediate(resolve)) }));

const task: Task = { ...newTask(), next_run_at: 0, leased_until: 5 };
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** A runner over a store that holds this one task. */
function create(changes: Changes = {}) {
  const store = {
    claim: vi.fn<RunnerOptions['store']['claim']>(async () => [task]),
    release: vi.fn<RunnerOptions['store']['release']>(async () => undefined),
    get: vi.fn<RunnerOptions['store']['get']>(async () => task),
    update: vi.fn<RunnerOptions['store']['update']>(async () => ({ ...task, version: 2 })),
  };
  const step = vi.fn(async (_task: Task, _unknownJob?: string) => ({ jobs_to_cancel: [], failures: 0, ...changes }));
  const afterCommit = vi.fn();
  const options = { store, step, pollDelay: () => 7, retain: 99, afterCommit, onIdle: vi.fn(), now: Date.now };
  return { store, step, afterCommit, ...createRunner({ ...options, log: pino({ level: 'silent' }) }) };
}

test('a run stores the changes of a step, and when the next one is due', async () => {
  for (const [changes, nextRunIn] of [
    [{}, 7],
    [{ nextRunIn: 3 }, 3],
    [{ failures: 2 }, 2 * SECOND],
    [{ status: 'canceled' }, 99],
    [{ status: 'canceled', jobs_to_cancel: ['job'] }, 0],
  ] as [Changes, number][]) {
    const { run, store, afterCommit } = create(changes);
    run(task.id);
    await settled();
    expect(store.update).toHaveBeenCalledExactlyOnceWith(task, expect.objectContaining({ ...changes, nextRunIn }));
    expect(afterCommit).toHaveBeenCalledExactlyOnceWith(expect.objectContaining({ version: 2 }), task);
  }
});

test('runs of one task never overlap; those during a step lead to one more', async () => {
  const { run, step } = create();
  let finish = () => {};
  step.mockImplementationOnce(
    () => new Promise((resolve) => (finish = () => resolve({ jobs_to_cancel: [], failures: 0 }))),
  );
  for (let i = 0; i < 3; i++) run(task.id);
  await settled();
  for (let i = 0; i < 3; i++) run(task.id);
  await settled();
  expect(step).toHaveBeenCalledTimes(1);
  finish();
  await settled();
  expect(step).toHaveBeenCalledTimes(2);
});

test('a task that another process leases is left alone, but a job from a callback waits for the lease', async () => {
  const { run, store, step } = create();
  store.claim.mockResolvedValueOnce([]);
  run(task.id);
  await settled();
  expect(step).not.toHaveBeenCalled();
  store.claim.mockResolvedValueOnce([]).mockResolvedValueOnce([]);
  run(task.id, { unknownJob: 'job' });
  await vi.waitFor(() => expect(step).toHaveBeenCalledExactlyOnceWith(task, 'job'));
});

test('a job from a callback is looked up again after a failed step, and after a failure of the store', async () => {
  const { run, store, step } = create();
  store.claim.mockRejectedValueOnce(new Error('down'));
  store.update.mockResolvedValueOnce({ ...task, version: 2, failures: 1 });
  run(task.id, { unknownJob: 'job' });
  const lookup = [task, 'job'];
  await vi.waitFor(() => expect(step.mock.calls).toEqual([lookup, lookup]));
});

test('a lease is released when another process has changed the task', async () => {
  const { run, store } = create();
  store.update.mockResolvedValue(undefined);
  run(task.id, { claimed: task });
  await settled();
  expect(store.release).toHaveBeenCalledExactlyOnceWith(task);
});

test('a new job is stored also after a failure of the store, and after a change by another process', async () => {
  const { run, store } = create({ job_id: 'job' });
  const changed = { ...task, version: 4 };
  store.update.mockRejectedValueOnce(new Error('down')).mockResolvedValueOnce(undefined);
  store.get.mockResolvedValueOnce(changed);
  run(task.id, { claimed: task });
  const changes = expect.objectContaining({ job_id: 'job' });
  await vi.waitFor(() => expect(store.update).toHaveBeenLastCalledWith(changed, changes));
});

test('a new job is to be cancelled if the task has ended meanwhile', async () => {
  const { run, store } = create({ job_id: 'job' });
  const canceled = { ...task, version: 4, status: 'canceled' as const };
  store.update.mockResolvedValueOnce(undefined);
  store.get.mockResolvedValueOnce(canceled);
  run(task.id, { claimed: task });
  await settled();
  expect(store.update).toHaveBeenLastCalledWith(canceled, { jobs_to_cancel: ['job'], runNow: true });
});

test('a new job stays the task’s if the store had stored it but could not say so', async () => {
  const { run, store, afterCommit } = create({ job_id: 'job' });
  const stored = { ...task, job_id: 'job', version: 2, leased_until: 0 };
  store.update.mockRejectedValueOnce(new Error('connection lost')).mockResolvedValueOnce(undefined);
  store.get.mockResolvedValueOnce(stored);
  run(task.id, { claimed: task });
  await vi.waitFor(() => expect(afterCommit).toHaveBeenCalledExactlyOnceWith(stored, task));
  expect(store.update).toHaveBeenCalledTimes(2);
});
