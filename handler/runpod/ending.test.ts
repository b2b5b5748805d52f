import { setTimeout as delay } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import {
  gate,
  hold,
  inTurn,
  jobs,
  json,
  SOON,
  scriptedQueue,
  shortenTimer,
  startWorker,
  status,
  untilAborted,
  withPings,
} from '../../test/support/test-worker.ts';
import { serve } from './index.ts';

test('an idle worker ends promptly although its polls and pings are held', async () => {
  const queue = await scriptedQueue({ ping: hold });
  const { stop, logged } = startWorker(() => 1, withPings(queue.env, 10 * SECOND));
  await Promise.all([queue.waitFor(1, 'job-take'), queue.waitFor(1, 'job-stop'), queue.waitFor(1, 'ping')]);
  await stop(); // not after 90 s, the timeout of a poll
  expect(queue.requests('job-take')).toHaveLength(1);
  for (const fault of ['take failed', 'stop poll failed', 'ping failed']) expect(logged(fault)).toEqual([]);
});

test('a worker that has to end during its fitness checks ends without waiting for them, and takes no job', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const loading = gate();
  const never = gate();
  const model = () => {
    loading.open();
    return never.opened;
  };
  const { stop, logged } = startWorker(() => 1, queue.env, { fitness: { model } });
  await loading.opened;
  await stop();
  expect(queue.requests('job-take')).toEqual([]);
  expect(logged('serving')).toEqual([]);
});

test('an ending worker takes no more jobs, and posts the running one', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b') });
  const running = gate();
  const finish = gate();
  const { stop, logged } = startWorker(
    async (_, { signal }) => {
      running.open();
      await finish.opened;
      return { aborted: signal.aborted };
    },
    withPings(queue.env),
    { gracePeriod: 10 * SECOND },
  );
  await running.opened;
  const ended = stop();
  expect(await queue.pingedJobs(3)).toBe('a'); // pings go on
  expect(logged('stopped')).toEqual([]);
  finish.open();
  await ended;
  expect(queue.posted()).toEqual([{ output: { aborted: false } }]);
  expect(queue.requests('job-take')).toHaveLength(1);
});

test('an ending worker retries an outcome until it is accepted', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), json({})) });
  const { stop } = startWorker(() => 1, queue.env, { gracePeriod: 0 });
  await queue.waitFor(1, 'job-done');
  await stop();
  expect(queue.posted()).toEqual([{ output: 1 }, { output: 1 }]);
});

test('after the grace period running jobs are aborted and their failures posted', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b') });
  const { stop, logged } = startWorker((_, { signal }) => untilAborted(signal), queue.env, {
    gracePeriod: 200,
    concurrency: 2,
  });
  await vi.waitFor(() => expect(logged('job started')).toHaveLength(2), SOON);
  const start = performance.now();
  await stop();
  expect(performance.now() - start).toBeGreaterThan(190);
  for (const id of ['a', 'b']) {
    expect(queue.posted(id)).toEqual([{ error: expect.stringContaining('the worker had to stop') }]);
  }
});

test('a job that arrives together with the signal is run within the grace period', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b') });
  const controller = new AbortController();
  const { ended } = startWorker((_, { signal }) => untilAborted(signal), queue.env, {
    signal: controller.signal,
    gracePeriod: 50,
    log: ({ event }) => {
      if (event === 'job started') controller.abort();
    },
  });
  await ended;
  expect(queue.posted('a')).toEqual([{ error: expect.stringContaining('the worker had to stop') }]);
  expect(queue.requests('job-take')).toHaveLength(1);
});

test.each(['SIGTERM', 'SIGINT'])('the first %s ends the worker, the second the process', async (name) => {
  const listeners = new Map<string | symbol, () => void>();
  vi.spyOn(process, 'on').mockImplementation((event, listener) => {
    listeners.set(event, listener);
    return process;
  });
  const exit = vi.spyOn(process, 'exit').mockImplementation((() => {}) as never);
  const queue = await scriptedQueue();
  const ended = serve(() => 1, { env: queue.env, log() {} });
  await queue.waitFor(1, 'job-take');
  listeners.get(name)!();
  await ended;
  expect(exit).not.toHaveBeenCalled();
  listeners.get(name)!();
  expect(exit).toHaveBeenCalledExactlyOnceWith(1);
});

test('a job that has begun to arrive at the signal is read to its end and run', async () => {
  const signalled = gate();
  const queue = await scriptedQueue({
    'job-take': (response) => {
      response.writeHead(200, { 'content-type': 'application/json' }).write('{"id":"a",');
      void signalled.opened.then(() => response.end('"input":1}'));
    },
  });
  const { stop, ended } = startWorker(() => 'done', queue.env);
  await queue.waitFor(1, 'job-take');
  await delay(100); // until the headers have arrived, which nothing reports
  void stop();
  signalled.open();
  await ended;
  expect(queue.posted('a')).toEqual([{ output: 'done' }]);
});

test('a job that ignores its signal is failed 5 s later, and the worker ends', async () => {
  shortenTimer(50 + 5 * SECOND, 150);
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const running = gate();
  const never = gate();
  const { stop } = startWorker(
    () => {
      running.open();
      return never.opened;
    },
    queue.env,
    { gracePeriod: 50 },
  );
  await running.opened;
  await stop();
  expect(queue.posted('a')).toEqual([{ error: expect.stringContaining('the worker had to stop') }]);
});
