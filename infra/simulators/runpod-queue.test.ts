import { expect, test, vi } from 'vitest';
import { HOUR, MINUTE, SECOND } from '../../core/time.ts';
import { steppedClock } from './clock.ts';
import { createQueue, type QueuedJob, stopsOf, WORK } from './runpod-queue.ts';

/** A queue whose clock stands still until it is stepped; the first worker has been heard of. */
function steppedQueue() {
  const clock = steppedClock(1_000_000);
  const ended: QueuedJob[] = [];
  const queue = createQueue({ clock, onEnd: (job) => ended.push({ ...job }) });
  queue.heard('w1');
  return {
    queue,
    clock,
    ended,
    /** Lets time pass; the workers named are heard of every 10 seconds, and at the end. */
    async step(ms: number, ...alive: string[]) {
      const pause = alive.length > 0 ? 10 * SECOND : ms;
      for (let left = ms; left > 0; left -= pause) {
        await clock.step(Math.min(left, pause));
        for (const worker of alive) queue.heard(worker);
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

test('a submitted job waits in the queue under an id of its own', () => {
  const { queue } = steppedQueue();
  const first = queue.submit({ input: { n: 1 } });
  const second = queue.submit({ input: { n: 1 } });
  expect(first).toMatchObject({ status: 'IN_QUEUE', input: { n: 1 }, created: 1_000_000, stream: [], retries: 0 });
  expect(first.id).not.toBe(second.id);
  expect(queue.find(first.id)).toBe(first);
  expect(queue.find('other')).toBeUndefined();
});

test('jobs are taken oldest first, each once, at most as many as asked for', async () => {
  const { queue, step } = steppedQueue();
  const [a, b, c] = [1, 2, 3].map((input) => queue.submit({ input }));
  await step(SECOND, 'w1');
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

test('a report without error completes the job', async () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: { step: 1 } });
  await step(3 * SECOND);
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

test('nothing changes a job that has ended', async () => {
  const { queue, running, ended, step } = steppedQueue();
  const job = running();
  queue.report(job, 'w1', { output: 1 });
  const before = structuredClone(job);
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 2 });
  queue.report(job, 'w1', { error: 'late' });
  queue.chunk(job, 'w1', 'late');
  queue.cancel(job);
  queue.purge();
  await step(11 * MINUTE); // more than its executionTimeout
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

test('a job that runs longer than its executionTimeout times out, and its worker is told', async () => {
  const { queue, running, step, ended } = steppedQueue();
  const job = running({ executionTimeout: 5 * SECOND });
  queue.report(job, 'w1', { status: 'IN_PROGRESS', output: 1 });
  await step(5 * SECOND - 1, 'w1');
  expect(job.status).toBe('IN_PROGRESS');
  await step(1, 'w1');
  expect(job).toMatchObject({ status: 'TIMED_OUT', ended: 1_005_000 });
  expect(job).not.toHaveProperty('output');
  expect(ended).toEqual([job]);
  expect(queue.stops('w1')).toEqual([job.id]);
});

test('executionTimeout counts from the taking, 10 minutes unless said', async () => {
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

test('a timed out job tried again by the same worker is not stopped for its first try', async () => {
  const { queue, running, step } = steppedQueue();
  const job = running({ executionTimeout: 5 * SECOND });
  await step(6 * SECOND, 'w1');
  expect(queue.retry(job)).toBe(true);
  expect(queue.take('w1', 1)).toEqual([job]);
  expect(queue.stops('w1')).toEqual([]);
  await step(5 * SECOND - 1, 'w1');
  expect(job.status).toBe('IN_PROGRESS'); // the second try has its own time
});

test.each(['IN_QUEUE', 'IN_PROGRESS', 'COMPLETED'] as const)(
  'ttl after submission a job is forgotten: %s',
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
    expect(queue.stops('w1')).toEqual(status === 'IN_PROGRESS' ? [job.id] : []);
    expect(queue.take('w1', 1)).toEqual([]);
    expect(ended).toHaveLength(status === 'COMPLETED' ? 1 : 0);
  },
);

test('ttl is 24 hours unless said', async () => {
  const { queue, step } = steppedQueue();
  const { id } = queue.submit({ input: {} });
  await step(24 * HOUR - 1);
  expect(queue.find(id)).toBeDefined();
  await step(1);
  expect(queue.find(id)).toBeUndefined();
});

test.each(['COMPLETED', 'FAILED', 'CANCELLED', 'TIMED_OUT'] as const)(
  '30 minutes after its end a job is forgotten: %s',
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
  queue.chunk(job, 'w1', 'part');
  await step(30 * SECOND - 1);
  expect(job.status).toBe('IN_PROGRESS');
  await step(1);
  expect(job).toMatchObject({ status: 'IN_QUEUE', retries: 0, stream: [] });
  for (const wiped of ['output', 'started', 'workerId']) expect(job).not.toHaveProperty(wiped);
  expect(queue.take('w2', 2)).toEqual([job, younger]);
  expect(ended).toEqual([]);
});

test('a worker that is heard of keeps its job', async () => {
  const { running, step } = steppedQueue();
  const job = running();
  for (let i = 0; i < 10; i++) await step(20 * SECOND, 'w1');
  expect(job).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w1' });
});

test('the job of a worker that is known to be gone goes back at once', () => {
  const { queue, running } = steppedQueue();
  const job = running();
  queue.workerLost('another');
  expect(job.status).toBe('IN_PROGRESS');
  queue.workerLost('w1');
  expect(job.status).toBe('IN_QUEUE');
  queue.report(job, 'w1', { output: 'late' });
  expect(queue.take('w2', 1)).toEqual([job]);
});

test('a late report of the silent worker is ignored, whether the job waits or another has it', async () => {
  const { queue, running, step } = steppedQueue();
  const job = running();
  await step(31 * SECOND);
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

test('health counts jobs by state and workers by what they do', async () => {
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

  await step(31 * SECOND, 'w2'); // w1 and w3 are silent: what w1 had waits again
  expect(queue.health()).toMatchObject({
    jobs: { inProgress: 0, inQueue: 5 },
    workers: { idle: 1, ready: 1, running: 0 },
  });
});

test('a worker that was silent for long is forgotten when a new one comes', async () => {
  const { queue, clock, running } = steppedQueue();
  const job = running();
  queue.cancel(job); // w1 has yet to be told
  await clock.step(300 * SECOND);
  queue.heard('w2');
  expect(queue.stops('w1')).toEqual([job.id]);
  queue.heard('w1');
  queue.cancel(running());
  await clock.step(300 * SECOND + 1);
  queue.heard('w3');
  expect(queue.stops('w1')).toEqual([]);
});

test('whoever waits for a change hears of it, and of nothing else', async () => {
  const { queue, clock } = steppedQueue();
  const heard = vi.fn();
  const change = queue.waitForChange(HOUR).then(heard);
  queue.heard('w1');
  queue.take('w1', 1); // there is nothing to take
  queue.sweep();
  await clock.step(1);
  expect(heard).not.toHaveBeenCalled();
  queue.submit({ input: {} });
  await change;
  expect(heard).toHaveBeenCalledOnce();
});

test('whoever waits for one topic hears of that alone', async () => {
  const { queue, clock, running } = steppedQueue();
  const job = running();
  const other = running();
  const news: string[] = [];
  for (const topic of [WORK, job.id, stopsOf('w1'), stopsOf('w2')])
    void queue.waitForChange(HOUR, undefined, topic).then(() => news.push(topic));
  await clock.step(1);
  queue.report(other, 'w1', {});
  await clock.step(1);
  expect(news).toEqual([]);
  queue.cancel(job);
  await clock.step(1);
  expect(news.splice(0).sort()).toEqual([job.id, stopsOf('w1')].sort());
  queue.submit({ input: {} });
  await clock.step(1);
  expect(news).toEqual([WORK]);
});

test('waiting for a change ends with its time, its signal or the queue', async () => {
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
  expect(clock.asleep()).toBe(0);
});

test('what falls due happens at its moment, whatever the size of the step', async () => {
  const { queue, clock, running, ended } = steppedQueue();
  const [a, b] = [running({ executionTimeout: 7 * SECOND }), running({ executionTimeout: 6 * SECOND })];
  const c = queue.submit({ input: {}, policy: { ttl: 6500 } });
  queue.heard('w1');
  await clock.step(HOUR);
  expect(ended.map(({ id, ended }) => [id, ended])).toEqual([
    [b.id, 1_006_000],
    [a.id, 1_007_000],
  ]);
  for (const { id } of [a, b, c]) expect(queue.find(id)).toBeUndefined();
});

test('a job of /runsync is kept for a minute, or as long as was asked', async () => {
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

test('a closed queue lets no more time pass', async () => {
  const { queue, clock, running } = steppedQueue();
  const job = running();
  queue.close();
  expect(clock.asleep()).toBe(0);
  await clock.step(HOUR);
  expect(job.status).toBe('IN_PROGRESS');
});

test('the oldest is first however jobs come back, and what is gone is not handed out', async () => {
  const { queue, clock } = steppedQueue();
  const jobs = Array.from({ length: 60 }, (_, n) =>
    queue.submit({ input: n, policy: { ttl: n % 7 === 0 ? 20 * SECOND : HOUR } }),
  );
  for (const worker of ['w1', 'w2', 'w3']) queue.take(worker, 15);
  queue.workerLost('w2'); // 15–29
  for (const job of jobs.slice(30, 45)) queue.report(job, 'w3', { error: 'boom' });
  for (const job of jobs.slice(30, 45)) expect(queue.retry(job)).toBe(true);
  for (const n of [16, 33, 50]) queue.cancel(jobs[n]!);
  await clock.step(20 * SECOND); // the sevenths are gone
  const expected = jobs.map((_, n) => n).filter((n) => n >= 15 && n % 7 !== 0 && ![16, 33, 50].includes(n));
  expect(queue.health().jobs.inQueue).toBe(expected.length);
  expect(queue.take('w4', 100).map(({ input }) => input)).toEqual(expected);
});

test('neither waiting nor ended jobs nor past waits slow the next jobs down', async () => {
  const { queue } = steppedQueue();
  const finish = (count: number) => {
    const start = process.cpuUsage();
    for (let n = 0; n < count; n++) {
      queue.submit({ input: {} });
      queue.sweep();
      queue.report(queue.take('w1', 1)[0]!, 'w1', {});
      queue.health();
    }
    return process.cpuUsage(start).user / count;
  };
  for (let n = 0; n < 10_000; n++) queue.submit({ input: {} });
  for (let n = 0; n < 10_000; n++) await queue.waitForChange(0);
  finish(10_000);
  expect(finish(2000)).toBeLessThan(200); // microseconds; a look at all of them takes some hundred at each step
  expect(queue.health().jobs).toMatchObject({ completed: 12_000, inQueue: 10_000 });
});
