import { expect, test, vi } from 'vitest';
import { HOUR, MINUTE, SECOND } from '../../core/time.ts';
import { steppedClock } from './clock.ts';
import { NEW_WORK, type QueuedJob, RunPodQueue, stopTopic } from './runpod-queue.ts';

/** A queue on a stepped clock, which knows worker w1. */
function steppedQueue() {
  const clock = steppedClock(1_000_000);
  const ended: QueuedJob[] = [];
  const queue = new RunPodQueue({ clock, onEnd: (job) => ended.push({ ...job }) });
  queue.touchWorker('w1');
  return {
    queue,
    clock,
    ended,
    /** Lets time pass. The workers named show that they are alive every 10 seconds, and at the end. */
    async step(ms: number, ...alive: string[]) {
      const pause = alive.length > 0 ? 10 * SECOND : ms;
      for (let left = ms; left > 0; left -= pause) {
        await clock.step(Math.min(left, pause));
        for (const worker of alive) queue.touchWorker(worker);
      }
    },
    /** A job that w1 has taken. */
    running(policy?: { executionTimeout?: number; ttl?: number }) {
      const job = queue.submit({ input: {}, policy });
      expect(queue.take('w1', 1)).toEqual([job]);
      return job;
    },
  };
}

test('a submitted job is queued under a unique id', () => {
  const { queue } = steppedQueue();
  const first = queue.submit({ input: { n: 1 } });
  const second = queue.submit({ input: { n: 1 } });
  expect(first).toMatchObject({ status: 'IN_QUEUE', input: { n: 1 }, created: 1_000_000, stream: [], retries: 0 });
  expect(first.id).not.toBe(second.id);
  expect(queue.find(first.id)).toBe(first);
  expect(queue.find('other')).toBeUndefined();
});

test('jobs are taken oldest first, each once, at most `count` at a time', async () => {
  const { queue, step } = steppedQueue();
  const [a, b, c] = [1, 2, 3].map((input) => queue.submit({ input }));
  await step(SECOND, 'w1');
  expect(queue.take('w1', 2)).toEqual([a, b]);
  expect(queue.take('w2', 2)).toEqual([c]);
  expect(queue.take('w1', 2)).toEqual([]);
  expect(a).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w1', created: 1_000_000, started: 1_001_000 });
  expect(c).toMatchObject({ workerId: 'w2' });
});

test('the latest progress is the output of a running job', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 2 } });
  expect(job).toMatchObject({ status: 'IN_PROGRESS', output: { step: 2 } });
});

test('a report without error completes the job', async () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  await step(3 * SECOND);
  queue.report(job, 'w1', { output: { file: 'a.mp4' } });
  expect(job).toMatchObject({ status: 'COMPLETED', output: { file: 'a.mp4' }, ended: 1_003_000 });
  expect(ended).toEqual([job]);
});

test('a completed job without output has null instead of its last progress', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  queue.report(job, 'w1', {});
  expect(job).toMatchObject({ status: 'COMPLETED', output: null });
});

test('a report with an error fails the job and removes its progress', () => {
  const { queue, running, ended } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  queue.report(job, 'w1', { error: 'boom' });
  expect(job).toMatchObject({ status: 'FAILED', error: 'boom' });
  expect(job).not.toHaveProperty('output');
  expect(ended).toEqual([job]);
});

test('nothing changes a job that has ended', async () => {
  const { queue, running, ended, step } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { output: 1 });
  const before = structuredClone(job);
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 2 });
  queue.report(job, 'w1', { error: 'late' });
  queue.addChunk(job, 'w1', 'late');
  queue.cancel(job);
  queue.purge();
  await step(11 * MINUTE); // more than its executionTimeout
  expect(job).toEqual(before);
  expect(ended).toHaveLength(1);
  expect(queue.take('w2', 9)).toEqual([]);
  expect(queue.takeStops('w1')).toEqual([]);
});

test('a job cancelled in the queue is never taken, and no worker has to stop it', () => {
  const { queue, ended } = steppedQueue();
  const job = queue.submit({ input: {} });
  queue.cancel(job);
  expect(job.status).toBe('CANCELLED');
  expect(ended).toEqual([job]);
  expect(queue.take('w1', 9)).toEqual([]);
  expect(queue.takeStops('w1')).toEqual([]);
});

test('cancelling a running job makes its worker stop it, once', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  const other = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  queue.cancel(job);
  expect(job.status).toBe('CANCELLED');
  expect(job).not.toHaveProperty('output');
  expect(queue.takeStops('w2')).toEqual([]);
  expect(queue.takeStops('w1')).toEqual([job.id]);
  expect(queue.takeStops('w1')).toEqual([]);
  queue.report(job, 'w1', { output: 'too late' });
  expect(job.status).toBe('CANCELLED');
  expect(other.status).toBe('IN_PROGRESS');
});

test('purge cancels queued jobs and leaves running ones', () => {
  const { queue, running } = steppedQueue();
  const first = running();
  const waiting = [queue.submit({ input: 1 }), queue.submit({ input: 2 })];
  expect(queue.purge()).toBe(2);
  expect(waiting.map(({ status }) => status)).toEqual(['CANCELLED', 'CANCELLED']);
  expect(first.status).toBe('IN_PROGRESS');
  expect(queue.takeStops('w1')).toEqual([]);
  expect(queue.purge()).toBe(0);
});

test('retry queues a failed job under the same id, without its outcome', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.addChunk(job, 'w1', 'part');
  queue.report(job, 'w1', { error: 'boom' });
  expect(queue.retry(job)).toBe(true);
  expect(job).toMatchObject({ status: 'IN_QUEUE', retries: 1, stream: [] });
  for (const wiped of ['error', 'output', 'started', 'ended', 'workerId']) expect(job).not.toHaveProperty(wiped);
  expect(queue.take('w2', 1)).toEqual([job]);
  queue.report(job, 'w2', { output: 'better' });
  expect(job).toMatchObject({ status: 'COMPLETED', output: 'better' });
});

test('only a failed or timed-out job can be retried', () => {
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

test('a job that exceeds its executionTimeout times out, and its worker has to stop it', async () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running({ executionTimeout: 5 * SECOND });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  await step(5 * SECOND - 1, 'w1');
  expect(job.status).toBe('IN_PROGRESS');
  await step(1, 'w1');
  expect(job).toMatchObject({ status: 'TIMED_OUT', ended: 1_005_000 });
  expect(job).not.toHaveProperty('output');
  expect(ended).toEqual([job]);
  expect(queue.takeStops('w1')).toEqual([job.id]);
});

test('executionTimeout counts from the start and defaults to 10 minutes', async () => {
  const { queue, step } = steppedQueue();
  const job = queue.submit({ input: {} });
  await step(2 * HOUR);
  expect(job.status).toBe('IN_QUEUE');
  queue.take('w1', 1);
  await step(10 * MINUTE - 1, 'w1');
  expect(job.status).toBe('IN_PROGRESS');
  await step(1, 'w1');
  expect(job.status).toBe('TIMED_OUT');
});

test('a timed-out job retried by the same worker is not stopped for its first attempt', async () => {
  const { queue, running, step } = steppedQueue();
  const job = running({ executionTimeout: 5 * SECOND });
  await step(6 * SECOND, 'w1');
  expect(queue.retry(job)).toBe(true);
  expect(queue.take('w1', 1)).toEqual([job]);
  expect(queue.takeStops('w1')).toEqual([]);
  await step(5 * SECOND - 1, 'w1');
  expect(job.status).toBe('IN_PROGRESS'); // the second attempt has its own timeout
});

test.each(['IN_QUEUE', 'IN_PROGRESS', 'COMPLETED'] as const)(
  'a job is deleted when its ttl has passed since submission: %s',
  async (status) => {
    const { queue, step, ended } = steppedQueue();
    const job = queue.submit({ input: {}, policy: { ttl: 20 * SECOND } });
    if (status !== 'IN_QUEUE') queue.take('w1', 1);
    if (status === 'COMPLETED') queue.report(job, 'w1', {});
    expect(job.status).toBe(status);
    await step(20 * SECOND - 1, 'w1');
    expect(queue.find(job.id)).toBe(job);
    await step(1, 'w1');
    expect(queue.find(job.id)).toBeUndefined();
    expect(queue.takeStops('w1')).toEqual(status === 'IN_PROGRESS' ? [job.id] : []);
    expect(queue.take('w1', 1)).toEqual([]);
    expect(ended).toHaveLength(status === 'COMPLETED' ? 1 : 0);
  },
);

test('ttl defaults to 24 hours', async () => {
  const { queue, step } = steppedQueue();
  const { id } = queue.submit({ input: {} });
  await step(24 * HOUR - 1);
  expect(queue.find(id)).toBeDefined();
  await step(1);
  expect(queue.find(id)).toBeUndefined();
});

test.each(['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'] as const)(
  'a job is deleted 30 minutes after its end: %s',
  async (status) => {
    const { queue, running, step } = steppedQueue();
    const job = running({ executionTimeout: 5 * SECOND });
    if (status === 'COMPLETED') queue.report(job, 'w1', {});
    if (status === 'FAILED') queue.report(job, 'w1', { error: 'boom' });
    if (status === 'CANCELLED') queue.cancel(job);
    if (status === 'TIMED_OUT') await step(5 * SECOND);
    expect(job.status).toBe(status);
    await step(30 * MINUTE - 1);
    expect(queue.find(job.id)).toBe(job);
    await step(1);
    expect(queue.find(job.id)).toBeUndefined();
  },
);

test('the job of a silent worker goes back into the queue, before younger ones', async () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running();
  const younger = queue.submit({ input: {} });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  queue.addChunk(job, 'w1', 'part');
  await step(30 * SECOND - 1);
  expect(job.status).toBe('IN_PROGRESS');
  await step(1);
  expect(job).toMatchObject({ status: 'IN_QUEUE', retries: 0, stream: [] });
  for (const wiped of ['output', 'started', 'workerId']) expect(job).not.toHaveProperty(wiped);
  expect(queue.take('w2', 2)).toEqual([job, younger]);
  expect(ended).toEqual([]);
});

test('a worker that shows that it is alive keeps its job', async () => {
  const { running, step } = steppedQueue();
  const job = running();
  for (let i = 0; i < 10; i++) await step(20 * SECOND, 'w1');
  expect(job).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w1' });
});

test('the job of a lost worker goes back into the queue at once', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.workerLost('another');
  expect(job.status).toBe('IN_PROGRESS');
  queue.workerLost('w1');
  expect(job.status).toBe('IN_QUEUE');
  queue.report(job, 'w1', { output: 'late' });
  expect(queue.take('w2', 1)).toEqual([job]);
});

test('a late report of a silent worker is ignored, whether the job is queued or another worker runs it', async () => {
  const { queue, running, step } = steppedQueue();
  const job = running();
  await step(31 * SECOND);
  queue.report(job, 'w1', { output: 'late' });
  expect(job.status).toBe('IN_QUEUE');

  queue.touchWorker('w2');
  queue.take('w2', 1);
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 'late' });
  queue.report(job, 'w1', { output: 'late' });
  queue.report(job, 'w1', { error: 'late' });
  queue.addChunk(job, 'w1', 'late');
  expect(job).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w2', stream: [] });
  expect(job).not.toHaveProperty('output');

  queue.report(job, 'w2', { output: 'good' });
  expect(job).toMatchObject({ status: 'COMPLETED', output: 'good' });
});

test('health counts jobs by status and workers by activity', async () => {
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
  queue.touchWorker('w2');
  queue.touchWorker('w3');
  expect(queue.health()).toEqual({
    jobs: { completed: 2, failed: 1, inProgress: 2, inQueue: 3, retried: 1 },
    workers: { idle: 2, initializing: 0, ready: 3, running: 1, throttled: 0 },
  });

  await step(31 * SECOND, 'w2'); // w1 and w3 are silent: the jobs of w1 are queued again
  expect(queue.health()).toMatchObject({
    jobs: { inProgress: 0, inQueue: 5 },
    workers: { idle: 1, ready: 1, running: 0 },
  });
});

test('a worker that was silent for ten timeouts is removed when a new one appears', async () => {
  const { queue, clock, running } = steppedQueue();
  const job = running();
  queue.cancel(job); // w1 does not know yet
  await clock.step(300 * SECOND);
  queue.touchWorker('w2');
  expect(queue.takeStops('w1')).toEqual([job.id]);
  queue.touchWorker('w1');
  queue.cancel(running());
  await clock.step(300 * SECOND + 1);
  queue.touchWorker('w3');
  expect(queue.takeStops('w1')).toEqual([]);
});

test('waitForChange resolves at a change, and not without one', async () => {
  const { queue, clock } = steppedQueue();
  const changed = vi.fn();
  const change = queue.waitForChange(HOUR).then(changed);
  queue.touchWorker('w1');
  queue.take('w1', 1); // there is nothing to take
  queue.applyTimeouts();
  await clock.step(1);
  expect(changed).not.toHaveBeenCalled();
  queue.submit({ input: {} });
  await change;
  expect(changed).toHaveBeenCalledOnce();
});

test('waitForChange of a topic resolves at that topic’s changes only', async () => {
  const { queue, clock, running } = steppedQueue();
  const job = running();
  const other = running();
  const news: string[] = [];
  for (const topic of [NEW_WORK, job.id, stopTopic('w1'), stopTopic('w2')])
    void queue.waitForChange(HOUR, undefined, topic).then(() => news.push(topic));
  await clock.step(1);
  queue.report(other, 'w1', {});
  await clock.step(1);
  expect(news).toEqual([]);
  queue.cancel(job);
  await clock.step(1);
  expect(news.splice(0).sort()).toEqual([job.id, stopTopic('w1')].sort());
  queue.submit({ input: {} });
  await clock.step(1);
  expect(news).toEqual([NEW_WORK]);
});

test('waitForChange ends with its timeout, its signal or the queue', async () => {
  const { queue, clock } = steppedQueue();
  const ended = vi.fn();
  void queue.waitForChange(MINUTE).then(ended);
  await clock.step(MINUTE - 1);
  expect(ended).not.toHaveBeenCalled();
  await clock.step(1);
  expect(ended).toHaveBeenCalledOnce();

  const controller = new AbortController();
  const waiting = queue.waitForChange(HOUR, controller.signal);
  controller.abort();
  await waiting;
  await queue.waitForChange(HOUR, controller.signal);

  const untilClosed = queue.waitForChange(HOUR);
  queue.close();
  await untilClosed;
  await queue.waitForChange(HOUR);
  expect(clock.sleeping()).toBe(0);
});

test('timeouts happen on time with any size of the clock’s step', async () => {
  const { queue, clock, running, ended } = steppedQueue();
  const [a, b] = [running({ executionTimeout: 7 * SECOND }), running({ executionTimeout: 6 * SECOND })];
  const c = queue.submit({ input: {}, policy: { ttl: 6500 } });
  queue.touchWorker('w1');
  await clock.step(HOUR);
  expect(ended.map(({ id, ended }) => [id, ended])).toEqual([
    [b.id, 1_006_000],
    [a.id, 1_007_000],
  ]);
  for (const { id } of [a, b, c]) expect(queue.find(id)).toBeUndefined();
});

test('a job of /runsync is kept for a minute, or for the requested retention', async () => {
  const { queue, clock } = steppedQueue();
  const short = queue.submit({ input: {}, sync: true });
  const long = queue.submit({ input: {}, sync: true, retention: 5 * MINUTE });
  expect(short.id).toMatch(/^sync-[0-9a-f]{8}-[0-9a-f-]{27}-u1$/);
  for (const job of queue.take('w1', 2)) queue.report(job, 'w1', {});
  await clock.step(MINUTE - 1);
  expect(queue.find(short.id)).toBe(short);
  await clock.step(1);
  expect(queue.find(short.id)).toBeUndefined();
  await clock.step(4 * MINUTE - 1);
  expect(queue.find(long.id)).toBe(long);
  await clock.step(1);
  expect(queue.find(long.id)).toBeUndefined();
});

test('a closed queue applies no timeouts', async () => {
  const { queue, clock, running } = steppedQueue();
  const job = running();
  queue.close();
  expect(clock.sleeping()).toBe(0);
  await clock.step(HOUR);
  expect(job.status).toBe('IN_PROGRESS');
});

test('requeued jobs keep their order, and deleted ones are not taken', async () => {
  const { queue, clock } = steppedQueue();
  const jobs = Array.from({ length: 60 }, (_, n) =>
    queue.submit({ input: n, policy: { ttl: n % 7 === 0 ? 20 * SECOND : HOUR } }),
  );
  for (const worker of ['w1', 'w2', 'w3']) queue.take(worker, 15);
  queue.workerLost('w2'); // 15–29
  for (const job of jobs.slice(30, 45)) queue.report(job, 'w3', { error: 'boom' });
  for (const job of jobs.slice(30, 45)) expect(queue.retry(job)).toBe(true);
  for (const n of [16, 33, 50]) queue.cancel(jobs[n]!);
  await clock.step(20 * SECOND); // every seventh has been deleted
  const expected = jobs.map((_, n) => n).filter((n) => n >= 15 && n % 7 !== 0 && ![16, 33, 50].includes(n));
  expect(queue.health().jobs.inQueue).toBe(expected.length);
  expect(queue.take('w4', 100).map(({ input }) => input)).toEqual(expected);
});

test('the time per job does not grow with queued jobs, ended jobs or past waits', async () => {
  const { queue } = steppedQueue();
  const finish = (count: number) => {
    const start = process.cpuUsage();
    for (let n = 0; n < count; n++) {
      queue.submit({ input: {} });
      queue.applyTimeouts();
      queue.report(queue.take('w1', 1)[0]!, 'w1', {});
      queue.health();
    }
    return process.cpuUsage(start).user / count;
  };
  for (let n = 0; n < 10_000; n++) queue.submit({ input: {} });
  for (let n = 0; n < 10_000; n++) await queue.waitForChange(0);
  finish(10_000);
  expect(finish(2000)).toBeLessThan(200); // microseconds; a loop over all jobs would take several hundred
  expect(queue.health().jobs).toMatchObject({ completed: 12_000, inQueue: 10_000 });
});
