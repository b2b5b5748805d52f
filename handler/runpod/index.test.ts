import { getEventListeners } from 'node:events';
import type { Server } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { serve as listen } from '@hono/node-server';
import { Hono } from 'hono';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import {
  type Asked,
  environment,
  farQueue,
  gate,
  jobs,
  KEY,
  opened,
  SOON,
  untilAborted,
  withPings,
  worker,
} from '../../test/support/test-worker.ts';
import { type Handle, serve } from './index.ts';

// With the queue of infra/local.

async function localQueue() {
  const { app, queue } = queueServer({ apiKey: KEY });
  const server = listen({ fetch: new Hono().route('/v2', app).fetch, hostname: '127.0.0.1', port: 0 }) as Server;
  let open = 0;
  server.on('request', (_, response) => {
    open++;
    response.once('close', () => open--);
  });
  /** Resolves when the server has noticed that all requests are over. */
  const left = () => vi.waitFor(() => expect(open).toBe(0), SOON);
  const env = environment(await opened(server));
  return { queue, env, left };
}

test('jobs go from the queue to their outcome', async () => {
  const { queue, env } = await localQueue();
  const submitted = Array.from({ length: 20 }, (_, n) => queue.submit({ input: { n } }));
  const bad = queue.submit({ input: { n: -1 } });
  const seen: unknown[] = [];
  worker(
    ({ input }) => {
      seen.push(input);
      const { n } = input as { n: number };
      if (n < 0) throw new RangeError('negative');
      return { square: n * n };
    },
    env,
    { concurrency: 3 },
  );
  while (bad.ended === undefined || submitted.some((job) => job.ended === undefined)) await queue.waitForChange(SECOND);
  expect(submitted.map(({ output }) => output)).toEqual(submitted.map((_, n) => ({ square: n * n })));
  expect(bad).toMatchObject({ status: 'FAILED', workerId: 'pod1' });
  expect(JSON.parse(bad.error!)).toMatchObject({ error_type: 'RangeError', error_message: 'negative' });
  expect(seen).toHaveLength(21);
});

test('progress shows in the queue while the job runs', async () => {
  const { queue, env } = await localQueue();
  const job = queue.submit({ input: {} });
  const looked = gate();
  worker(async (_, { progress }) => {
    progress({ step: 3 });
    await looked.opens;
    return 'end';
  }, env);
  while (job.output === undefined) await queue.waitForChange(SECOND);
  expect(job).toMatchObject({ status: 'IN_PROGRESS', output: { step: 3 } });
  looked.open();
  while (job.ended === undefined) await queue.waitForChange(SECOND);
  expect(job).toMatchObject({ status: 'COMPLETED', output: 'end' });
});

test('a job cancelled in the queue is aborted, and the worker goes on', async () => {
  const { queue, env } = await localQueue();
  const running = gate();
  const report = vi.spyOn(queue, 'report');
  const job = queue.submit({ input: 'long' });
  worker(async ({ input }, { signal }) => {
    if (input === 'short') return 'short';
    running.open();
    return untilAborted(signal);
  }, env);
  await running.opens;
  queue.cancel(job);
  const next = queue.submit({ input: 'short' });
  while (next.ended === undefined) await queue.waitForChange(SECOND);
  expect(next).toMatchObject({ status: 'COMPLETED', output: 'short' });
  expect(report.mock.calls.map(([reported]) => reported)).toEqual([next]);
});

test('a worker that ended leaves later jobs in the queue', async () => {
  const { queue, env, left } = await localQueue();
  const change = vi.spyOn(queue, 'waitForChange'); // called when a poll is held
  const { stop } = worker(() => 'never', env);
  await vi.waitFor(() => expect(change).toHaveBeenCalled(), SOON);
  await stop();
  await left();
  const job = queue.submit({ input: {} });
  await delay(50);
  expect(job.status).toBe('IN_QUEUE');
});

// Several jobs at once.

test('concurrency 2 runs two jobs at once, never three', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b', 'c', 'd') });
  const gates = { a: gate(), b: gate(), c: gate(), d: gate() };
  let running = 0;
  let most = 0;
  const { happened } = worker(
    async ({ id }) => {
      most = Math.max(most, ++running);
      await gates[id as 'a'].opens;
      running--;
      return id;
    },
    withPings(far.env),
    { concurrency: 2 },
  );
  await vi.waitFor(() => expect(running).toBe(2), SOON);
  await far.until(far.of('ping').length + 3, 'ping');
  expect(far.of('job-take')).toHaveLength(2); // it does not even ask
  expect(far.of('ping').at(-1)!.url.search).toBe('?job_id=a%2Cb');

  gates.b.open();
  await vi.waitFor(() => expect(happened('job started')).toHaveLength(3), SOON);
  expect(far.posted()).toEqual([{ output: 'b' }]);
  for (const { open } of Object.values(gates)) open();
  await far.until(4, 'job-done');
  expect(most).toBe(2);
  expect(far.of('job-take').map(({ url }) => url.searchParams.get('job_in_progress'))).toEqual(
    expect.arrayContaining(['0', '1']),
  );
});

test('job_in_progress says whether a job is in hand', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const held = gate();
  worker(() => held.opens, far.env, { concurrency: 2 });
  await far.until(2, 'job-take');
  expect(far.of('job-take').map(({ url }) => url.searchParams.get('job_in_progress'))).toEqual(['0', '1']);
  held.open();
});

test('jobs leave no listeners behind on the signal', async () => {
  const ids = Array.from({ length: 20 }, (_, n) => `job-${n}`);
  const far = await farQueue({ 'job-take': jobs(...ids) });
  const { signal } = worker(() => 1, far.env);
  await far.until(21, 'job-take');
  expect(getEventListeners(signal, 'abort').length).toBeLessThan(3);
});

// Fitness, fresh workers, and how many jobs at once.

test('fitness checks come in order before the first job', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const order: string[] = [];
  const check = (name: string) => async () => {
    expect(far.of('job-take')).toEqual([]);
    order.push(name);
  };
  worker(() => 1, far.env, { fitness: { gpu: check('gpu'), disk: check('disk') } });
  await far.until(1, 'job-done');
  expect(order).toEqual(['gpu', 'disk']);
});

test('the first check that fails is reported, and the worker ends without a job', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  let later = false;
  const fitness = {
    gpu: async () => {
      throw new RangeError('x'.repeat(300));
    },
    async disk() {
      later = true;
    },
  };
  const env = withPings(far.env);
  await expect(serve(() => 1, { env, fitness, signal: new AbortController().signal })).rejects.toThrow('xxx');
  const [{ url, headers }] = far.of('ping') as [Asked];
  expect(Object.fromEntries(url.searchParams)).toEqual({
    status: 'unhealthy',
    check: 'gpu',
    reason: `RangeError: ${'x'.repeat(256 - 'RangeError: '.length)}`,
  });
  expect(headers.authorization).toBe(KEY);
  expect([later, far.of('job-take'), far.of('ping').length]).toEqual([false, [], 1]);
});

test('with refreshWorker a job asks for a fresh worker, and this one ends', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b') });
  const { ended } = worker(() => ({ ok: 1 }), far.env, { refreshWorker: true });
  await ended;
  expect(far.posted()).toEqual([{ output: { ok: 1 }, stopPod: true }]);
});

test('how many jobs are in hand at once may change', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b', 'c', 'd') });
  let limit = 1;
  const doors = new Map<string, ReturnType<typeof gate>>();
  const handle: Handle = ({ id }) => {
    const door = gate();
    doors.set(id, door);
    return door.opens;
  };
  worker(handle, far.env, { concurrency: () => limit });
  await vi.waitFor(() => expect([...doors.keys()]).toEqual(['a']), SOON);
  limit = 2;
  doors.get('a')!.open();
  await vi.waitFor(() => expect([...doors.keys()]).toEqual(['a', 'b', 'c']), SOON);
  limit = 1;
  doors.get('b')!.open();
  await far.until(2, 'job-done');
  expect(far.of('job-take').filter(({ url }) => url.searchParams.get('job_in_progress') === '1').length).toBeLessThan(
    3,
  );
  expect([...doors.keys()]).toEqual(['a', 'b', 'c']); // c alone is the limit now
  doors.get('c')!.open();
  await vi.waitFor(() => expect(doors.has('d')).toBe(true), SOON);
  doors.get('d')!.open();
  await far.until(4, 'job-done');
});
