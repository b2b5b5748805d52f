import { expect, test, vi } from 'vitest';
import { createQueue, type QueuedJob } from './queue.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;

/** A queue whose clock stands still until it is stepped; the first worker has been heard of. */
function steppedQueue() {
  let time = 1_000_000;
  const ended: QueuedJob[] = [];
  const queue = createQueue({ now: () => time, onEnd: (job) => ended.push({ ...job }) });
  queue.heard('w1');
  return {
    queue,
    ended,
    /** Lets time pass; the workers named are heard of then. */
    step(ms: number, ...alive: string[]) {
      time += ms;
      for (const worker of alive) queue.heard(worker);
      queue.sweep();
    },
    /** A job that w1 has taken. */
    running(policy?: { executionTimeout?: number; ttl?: number }) {
      const job = queue.submit({ input: {}, policy });
      expect(queue.take('w1', 1)).toEqual([job]);
      return job;
    },
  };
}

test('a submitted job waits in the queue under an id of its own', () => {
  const { queue } = steppedQueue();
  const first = queue.submit({ input: { n: 1 } });
  const second = queue.submit({ input: { n: 1 } });
  expect(first).toMatchObject({ status: 'IN_QUEUE', input: { n: 1 }, created: 1_000_000, stream: [], retries: 0 });
  expect(first.id).not.toBe(second.id);
  expect(queue.find(first.id)).toBe(first);
  expect(queue.find('other')).toBeUndefined();
});

test('jobs are taken oldest first, each once, at most as many as asked for', () => {
  const { queue, step } = steppedQueue();
  const [a, b, c] = [1, 2, 3].map((input) => queue.submit({ input }));
  step(SECOND, 'w1');
  expect(queue.take('w1', 2)).toEqual([a, b]);
  expect(queue.take('w2', 2)).toEqual([c]);
  expect(queue.take('w1', 2)).toEqual([]);
  expect(a).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w1', created: 1_000_000, started: 1_001_000 });
  expect(c).toMatchObject({ workerId: 'w2' });
});

test('progress shows as output while the job runs; the latest wins', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 2 } });
  expect(job).toMatchObject({ status: 'IN_PROGRESS', output: { step: 2 } });
});

test('a report without error completes the job', () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  step(3 * SECOND);
  queue.report(job, 'w1', { output: { file: 'a.mp4' } });
  expect(job).toMatchObject({ status: 'COMPLETED', output: { file: 'a.mp4' }, ended: 1_003_000 });
  expect(ended).toEqual([job]);
});

test('a completed job without output has null, not its last progress', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  queue.report(job, 'w1', {});
  expect(job).toMatchObject({ status: 'COMPLETED', output: null });
});

test('a report with an error fails the job, and its progress is gone', () => {
  const { queue, running, ended } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  queue.report(job, 'w1', { error: 'boom' });
  expect(job).toMatchObject({ status: 'FAILED', error: 'boom' });
  expect(job).not.toHaveProperty('output');
  expect(ended).toEqual([job]);
});

test('nothing changes a job that has ended', () => {
  const { queue, running, ended, step } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { output: 1 });
  const before = structuredClone(job);
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 2 });
  queue.report(job, 'w1', { error: 'late' });
  queue.chunk(job, 'w1', 'late');
  queue.cancel(job);
  queue.purge();
  step(11 * MINUTE); // more than its executionTimeout
  expect(job).toEqual(before);
  expect(ended).toHaveLength(1);
  expect(queue.take('w2', 9)).toEqual([]);
  expect(queue.stops('w1')).toEqual([]);
});

test('a cancelled job that waited is never taken, and no worker is told', () => {
  const { queue, ended } = steppedQueue();
  const job = queue.submit({ input: {} });
  queue.cancel(job);
  expect(job.status).toBe('CANCELLED');
  expect(ended).toEqual([job]);
  expect(queue.take('w1', 9)).toEqual([]);
  expect(queue.stops('w1')).toEqual([]);
});

test('cancelling a running job tells its worker to stop, once', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  const other = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  queue.cancel(job);
  expect(job.status).toBe('CANCELLED');
  expect(job).not.toHaveProperty('output');
  expect(queue.stops('w2')).toEqual([]);
  expect(queue.stops('w1')).toEqual([job.id]);
  expect(queue.stops('w1')).toEqual([]);
  queue.report(job, 'w1', { output: 'too late' });
  expect(job.status).toBe('CANCELLED');
  expect(other.status).toBe('IN_PROGRESS');
});

test('purge cancels what waits and leaves what runs', () => {
  const { queue, running } = steppedQueue();
  const first = running();
  const waiting = [queue.submit({ input: 1 }), queue.submit({ input: 2 })];
  expect(queue.purge()).toBe(2);
  expect(waiting.map(({ status }) => status)).toEqual(['CANCELLED', 'CANCELLED']);
  expect(first.status).toBe('IN_PROGRESS');
  expect(queue.stops('w1')).toEqual([]);
  expect(queue.purge()).toBe(0);
});

test('retry puts a failed job back under its id and wipes its outcome', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.chunk(job, 'w1', 'part');
  queue.report(job, 'w1', { error: 'boom' });
  expect(queue.retry(job)).toBe(true);
  expect(job).toMatchObject({ status: 'IN_QUEUE', retries: 1, stream: [] });
  for (const wiped of ['error', 'output', 'started', 'ended', 'workerId']) expect(job).not.toHaveProperty(wiped);
  expect(queue.take('w2', 1)).toEqual([job]);
  queue.report(job, 'w2', { output: 'better' });
  expect(job).toMatchObject({ status: 'COMPLETED', output: 'better' });
});

test('only what failed or timed out can be tried again', () => {
  const { queue, running } = steppedQueue();
  const job = queue.submit({ input: {} });
  expect(queue.retry(job)).toBe(false);
  queue.take('w1', 1);
  expect(queue.retry(job)).toBe(false);
  queue.report(job, 'w1', {});
  expect(queue.retry(job)).toBe(false);
  const cancelled = running();
  queue.cancel(cancelled);
  expect(queue.retry(cancelled)).toBe(false);
  expect(queue.health().jobs.retried).toBe(0);
});

test('a job that runs longer than its executionTimeout times out, and its worker is told', () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running({ executionTimeout: 5 * SECOND });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  step(5 * SECOND, 'w1');
  expect(job.status).toBe('IN_PROGRESS');
  step(1, 'w1');
  expect(job).toMatchObject({ status: 'TIMED_OUT', ended: 1_005_001 });
  expect(job).not.toHaveProperty('output');
  expect(ended).toEqual([job]);
  expect(queue.stops('w1')).toEqual([job.id]);
});

test('executionTimeout counts from the taking, 10 minutes unless said', () => {
  const { queue, step } = steppedQueue();
  const job = queue.submit({ input: {} });
  step(2 * HOUR);
  expect(job.status).toBe('IN_QUEUE');
  queue.take('w1', 1);
  step(10 * MINUTE, 'w1');
  expect(job.status).toBe('IN_PROGRESS');
  step(1, 'w1');
  expect(job.status).toBe('TIMED_OUT');
});

test('a timed out job tried again by the same worker is not stopped for its first try', () => {
  const { queue, running, step } = steppedQueue();
  const job = running({ executionTimeout: 5 * SECOND });
  step(6 * SECOND, 'w1');
  expect(queue.retry(job)).toBe(true);
  expect(queue.take('w1', 1)).toEqual([job]);
  expect(queue.stops('w1')).toEqual([]);
  step(5 * SECOND, 'w1');
  expect(job.status).toBe('IN_PROGRESS'); // the second try has its own time
});

test.each(['IN_QUEUE', 'IN_PROGRESS', 'COMPLETED'] as const)(
  'ttl after submission a job is forgotten: %s',
  (status) => {
    const { queue, step, ended } = steppedQueue();
    const job = queue.submit({ input: {}, policy: { ttl: 20 * SECOND } });
    if (status !== 'IN_QUEUE') queue.take('w1', 1);
    if (status === 'COMPLETED') queue.report(job, 'w1', {});
    expect(job.status).toBe(status);
    step(20 * SECOND, 'w1');
    expect(queue.find(job.id)).toBe(job);
    step(1, 'w1');
    expect(queue.find(job.id)).toBeUndefined();
    expect(queue.stops('w1')).toEqual(status === 'IN_PROGRESS' ? [job.id] : []);
    expect(queue.take('w1', 1)).toEqual([]);
    expect(ended).toHaveLength(status === 'COMPLETED' ? 1 : 0);
  },
);

test('ttl is 24 hours unless said', () => {
  const { queue, step } = steppedQueue();
  const { id } = queue.submit({ input: {} });
  step(24 * HOUR);
  expect(queue.find(id)).toBeDefined();
  step(1);
  expect(queue.find(id)).toBeUndefined();
});

test.each(['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'] as const)(
  '30 minutes after its end a job is forgotten: %s',
  (status) => {
    const { queue, running, step } = steppedQueue();
    const job = running({ executionTimeout: 5 * SECOND });
    if (status === 'COMPLETED') queue.report(job, 'w1', {});
    if (status === 'FAILED') queue.report(job, 'w1', { error: 'boom' });
    if (status === 'CANCELLED') queue.cancel(job);
    if (status === 'TIMED_OUT') step(6 * SECOND);
    expect(job.status).toBe(status);
    step(30 * MINUTE);
    expect(queue.find(job.id)).toBe(job);
    step(1);
    expect(queue.find(job.id)).toBeUndefined();
  },
);

test('the job of a silent worker goes back into the queue, before younger ones', () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running();
  const younger = queue.submit({ input: {} });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  queue.chunk(job, 'w1', 'part');
  step(30 * SECOND);
  expect(job.status).toBe('IN_PROGRESS');
  step(1);
  expect(job).toMatchObject({ status: 'IN_QUEUE', retries: 0, stream: [] });
  for (const wiped of ['output', 'started', 'workerId']) expect(job).not.toHaveProperty(wiped);
  expect(queue.take('w2', 2)).toEqual([job, younger]);
  expect(ended).toEqual([]);
});

test('a worker that is heard of keeps its job', () => {
  const { running, step } = steppedQueue();
  const job = running();
  for (let i = 0; i < 10; i++) step(20 * SECOND, 'w1');
  expect(job).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w1' });
});

test('the job of a worker that is known to be gone goes back at once', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.lost('another');
  expect(job.status).toBe('IN_PROGRESS');
  queue.lost('w1');
  expect(job.status).toBe('IN_QUEUE');
  queue.report(job, 'w1', { output: 'late' });
  expect(queue.take('w2', 1)).toEqual([job]);
});

test('a late report of the silent worker is ignored, whether the job waits or another has it', () => {
  const { queue, running, step } = steppedQueue();
  const job = running();
  step(31 * SECOND);
  queue.report(job, 'w1', { output: 'late' });
  expect(job.status).toBe('IN_QUEUE');

  queue.heard('w2');
  queue.take('w2', 1);
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 'late' });
  queue.report(job, 'w1', { output: 'late' });
  queue.report(job, 'w1', { error: 'late' });
  queue.chunk(job, 'w1', 'late');
  expect(job).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w2', stream: [] });
  expect(job).not.toHaveProperty('output');

  queue.report(job, 'w2', { output: 'good' });
  expect(job).toMatchObject({ status: 'COMPLETED', output: 'good' });
});

test('health counts jobs by state and workers by what they do', () => {
  const { queue, running, step } = steppedQueue();
  queue.report(running(), 'w1', {});
  queue.report(running(), 'w1', {});
  queue.report(running(), 'w1', { error: 'boom' });
  const again = running();
  queue.report(again, 'w1', { error: 'boom' });
  queue.retry(again);
  queue.take('w1', 1);
  running(); // w1 has two now
  queue.submit({ input: {} });
  queue.submit({ input: {} });
  queue.submit({ input: {} });
  queue.heard('w2');
  queue.heard('w3');
  expect(queue.health()).toEqual({
    jobs: { completed: 2, failed: 1, inProgress: 2, inQueue: 3, retried: 1 },
    workers: { idle: 2, initializing: 0, ready: 3, running: 1, throttled: 0 },
  });

  step(31 * SECOND, 'w2'); // w1 and w3 are silent: what w1 had waits again
  expect(queue.health()).toMatchObject({
    jobs: { inProgress: 0, inQueue: 5 },
    workers: { idle: 1, ready: 1, running: 0 },
  });
});

test('whoever waits for a change hears of it, and of nothing else', async () => {
  const { queue } = steppedQueue();
  const heard = vi.fn();
  const change = queue.change(HOUR).then(heard);
  queue.heard('w1');
  queue.take('w1', 1); // there is nothing to take
  queue.sweep();
  await Promise.resolve();
  expect(heard).not.toHaveBeenCalled();
  queue.submit({ input: {} });
  await change;
  expect(heard).toHaveBeenCalledOnce();
});

test('waiting for a change ends with its time or its signal', async () => {
  const { queue } = steppedQueue();
  await queue.change(1);
  const controller = new AbortController();
  const waiting = queue.change(HOUR, controller.signal);
  controller.abort();
  await waiting;
  await queue.change(HOUR, controller.signal);
});
