import { setTimeout as delay } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import {
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  SOON,
  status,
  untilAborted,
  withPings,
  worker,
} from '../../test/support/test-worker.ts';
import { serve } from './index.ts';

// The end of the worker.

test('an idle worker ends promptly although its polls and pings are held', async () => {
  const far = await farQueue({ ping: hold });
  const { stop, happened } = worker(() => 1, withPings(far.env, 10 * SECOND));
  await Promise.all([far.until(1, 'job-take'), far.until(1, 'job-stop'), far.until(1, 'ping')]);
  const start = performance.now();
  await stop();
  expect(performance.now() - start).toBeLessThan(SECOND);
  expect(far.of('job-take')).toHaveLength(1);
  for (const fault of ['take failed', 'stop poll failed', 'ping failed']) expect(happened(fault)).toEqual([]);
});

test('a worker that shall end while it still checks its fitness does not wait for that, and takes no job', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const loading = gate();
  const never = gate();
  const model = () => {
    loading.open();
    return never.opens;
  };
  const { stop, happened } = worker(() => 1, far.env, { fitness: { model } });
  await loading.opens;
  await stop();
  expect(far.of('job-take')).toEqual([]);
  expect(happened('serving')).toEqual([]);
});

test('a worker that shall end takes no more jobs, and posts the one in hand', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b') });
  const running = gate();
  const finish = gate();
  const { stop, happened } = worker(
    async (_, { signal }) => {
      running.open();
      await finish.opens;
      return { aborted: signal.aborted };
    },
    withPings(far.env),
    { grace: 10 * SECOND },
  );
  await running.opens;
  const ended = stop();
  await far.until(far.of('ping').length + 3, 'ping');
  expect(far.of('ping').at(-1)!.url.search).toBe('?job_id=a'); // pings go on
  expect(happened('stopped')).toEqual([]);
  finish.open();
  await ended;
  expect(far.posted()).toEqual([{ output: { aborted: false } }]);
  expect(far.of('job-take')).toHaveLength(1);
});

test('a worker that shall end still posts an outcome until it is accepted', async () => {
  const far = await farQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), json({})) });
  const { stop } = worker(() => 1, far.env, { grace: 0 });
  await far.until(1, 'job-done');
  await stop();
  expect(far.posted()).toEqual([{ output: 1 }, { output: 1 }]);
});

test('after the grace the jobs in hand are aborted and their failures posted', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b') });
  const { stop, happened } = worker((_, { signal }) => untilAborted(signal), far.env, { grace: 200, concurrency: 2 });
  await vi.waitFor(() => expect(happened('job started')).toHaveLength(2), SOON);
  const start = performance.now();
  await stop();
  expect(performance.now() - start).toBeGreaterThan(190);
  for (const id of ['a', 'b']) {
    expect(far.posted(id)).toEqual([{ error: expect.stringContaining('the worker had to stop') }]);
  }
});

test('a job that arrives together with the signal is run, within the grace', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b') });
  const controller = new AbortController();
  const { ended } = worker((_, { signal }) => untilAborted(signal), far.env, {
    signal: controller.signal,
    grace: 50,
    log: ({ event }) => {
      if (event === 'job started') controller.abort();
    },
  });
  await ended;
  expect(far.posted('a')).toEqual([{ error: expect.stringContaining('the worker had to stop') }]);
  expect(far.of('job-take')).toHaveLength(1);
});

test.each(['SIGTERM', 'SIGINT'])('%s ends the worker; the second ends the process', async (name) => {
  const listeners = new Map<string | symbol, () => void>();
  vi.spyOn(process, 'on').mockImplementation((event, listener) => {
    listeners.set(event, listener);
    return process;
  });
  const exit = vi.spyOn(process, 'exit').mockImplementation((() => {}) as never);
  const far = await farQueue({});
  const ended = serve(() => 1, { env: far.env, log() {} });
  await far.until(1, 'job-take');
  listeners.get(name)!();
  await ended;
  expect(exit).not.toHaveBeenCalled();
  listeners.get(name)!();
  expect(exit).toHaveBeenCalledExactlyOnceWith(1);
});

test('a job that has begun to arrive when the signal comes is read to its end and run', async () => {
  const signalled = gate();
  const far = await farQueue({
    'job-take': (response) => {
      response.writeHead(200, { 'content-type': 'application/json' }).write('{"id":"a",');
      void signalled.opens.then(() => response.end('"input":1}'));
    },
  });
  const { stop, ended } = worker(() => 'done', far.env);
  await far.until(1, 'job-take');
  await delay(100); // the head has to arrive: nothing that can be seen tells when
  void stop();
  signalled.open();
  await ended;
  expect(far.posted('a')).toEqual([{ output: 'done' }]);
});

test('a job that is deaf to its signal is failed soon after, and the worker ends', async () => {
  const real = setTimeout;
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((call: () => void, ms?: number, ...rest: []) =>
    real(call, ms === 50 + 5 * SECOND ? 150 : ms, ...rest)) as typeof setTimeout);
  const far = await farQueue({ 'job-take': jobs('a') });
  const running = gate();
  const never = gate();
  const { stop } = worker(
    () => {
      running.open();
      return never.opens;
    },
    far.env,
    { grace: 50 },
  );
  await running.opens;
  await stop();
  expect(far.posted('a')).toEqual([{ error: expect.stringContaining('the worker had to stop') }]);
});
