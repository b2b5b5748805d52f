import { getEventListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { getRequestListener } from '@hono/node-server';
import { Hono } from 'hono';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import {
  environment,
  gate,
  jobs,
  KEY,
  type RecordedRequest,
  SOON,
  scriptedQueue,
  serveUntilTestEnds,
  startWorker,
  untilAborted,
  withPings,
} from '../../test/support/test-worker.ts';
import { type Handler, serve } from './index.ts';

// With the queue simulator.

async function simulatedQueue() {
  const { app, queue } = queueServer({ apiKey: KEY });
  const listener = getRequestListener(new Hono().route('/v2', app).fetch);
  let open = 0;
  const base = await serveUntilTestEnds((request, response) => {
    open++;
    response.once('close', () => open--);
    return listener(request, response);
  });
  /** Resolves when the server has noticed that all requests are over. */
  const allClosed = () => vi.waitFor(() => expect(open).toBe(0), SOON);
  return { queue, env: environment(base), allClosed };
}

test('jobs are taken from the queue and their outcomes reported', async () => {
  const { queue, env } = await simulatedQueue();
  const submitted = Array.from({ length: 20 }, (_, n) => queue.submit({ input: { n } }));
  const bad = queue.submit({ input: { n: -1 } });
  const seen: unknown[] = [];
  startWorker(
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

test('the queue has the progress of a running job', async () => {
  const { queue, env } = await simulatedQueue();
  const job = queue.submit({ input: {} });
  const checked = gate();
  startWorker(async (_, { progress }) => {
    progress({ step: 3 });
    await checked.opened;
    return 'end';
  }, env);
  while (job.output === undefined) await queue.waitForChange(SECOND);
  expect(job).toMatchObject({ status: 'IN_PROGRESS', output: { step: 3 } });
  checked.open();
  while (job.ended === undefined) await queue.waitForChange(SECOND);
  expect(job).toMatchObject({ status: 'COMPLETED', output: 'end' });
});

test('a job cancelled in the queue is aborted, and the worker goes on', async () => {
  const { queue, env } = await simulatedQueue();
  const running = gate();
  const report = vi.spyOn(queue, 'report');
  const job = queue.submit({ input: 'long' });
  startWorker(async ({ input }, { signal }) => {
    if (input === 'short') return 'short';
    running.open();
    return untilAborted(signal);
  }, env);
  await running.opened;
  queue.cancel(job);
  const next = queue.submit({ input: 'short' });
  while (next.ended === undefined) await queue.waitForChange(SECOND);
  expect(next).toMatchObject({ status: 'COMPLETED', output: 'short' });
  expect(report.mock.calls.map(([reported]) => reported)).toEqual([next]);
});

test('later jobs stay in the queue when the worker has ended', async () => {
  const { queue, env, allClosed } = await simulatedQueue();
  const change = vi.spyOn(queue, 'waitForChange'); // called when a poll is held
  const { stop } = startWorker(() => 'never', env);
  await vi.waitFor(() => expect(change).toHaveBeenCalled(), SOON);
  await stop();
  await allClosed();
  const job = queue.submit({ input: {} });
  await delay(50);
  expect(job.status).toBe('IN_QUEUE');
});

// Several jobs at once.

test('at concurrency 2 two jobs run at once, never three', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b', 'c', 'd') });
  const gates = { a: gate(), b: gate(), c: gate(), d: gate() };
  let running = 0;
  let maximum = 0;
  const { logged } = startWorker(
    async ({ id }) => {
      maximum = Math.max(maximum, ++running);
      await gates[id as 'a'].opened;
      running--;
      return id;
    },
    withPings(queue.env),
    { concurrency: 2 },
  );
  await vi.waitFor(() => expect(running).toBe(2), SOON);
  await queue.waitFor(queue.requests('ping').length + 3, 'ping');
  expect(queue.requests('job-take')).toHaveLength(2); // no take while no slot is free
  expect(queue.requests('ping').at(-1)!.path).toBe('ping/pod1?job_id=a%2Cb');

  gates.b.open();
  await vi.waitFor(() => expect(logged('job started')).toHaveLength(3), SOON);
  expect(queue.posted()).toEqual([{ output: 'b' }]);
  for (const { open } of Object.values(gates)) open();
  await queue.waitFor(4, 'job-done');
  expect(maximum).toBe(2);
  expect(queue.requests('job-take').map(({ query }) => query.get('job_in_progress'))).toEqual(
    expect.arrayContaining(['0', '1']),
  );
});

test('job_in_progress says whether a job is active', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const held = gate();
  startWorker(() => held.opened, queue.env, { concurrency: 2 });
  await queue.waitFor(2, 'job-take');
  expect(queue.requests('job-take').map(({ query }) => query.get('job_in_progress'))).toEqual(['0', '1']);
  held.open();
});

test('jobs leave no listeners on the signal', async () => {
  const ids = Array.from({ length: 20 }, (_, n) => `job-${n}`);
  const queue = await scriptedQueue({ 'job-take': jobs(...ids) });
  const { signal } = startWorker(() => 1, queue.env);
  await queue.waitFor(21, 'job-take');
  expect(getEventListeners(signal, 'abort').length).toBeLessThan(3);
});

// Fitness, fresh workers, changing concurrency.

test('fitness checks run in order before the first job', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const order: string[] = [];
  const check = (name: string) => async () => {
    expect(queue.requests('job-take')).toEqual([]);
    order.push(name);
  };
  startWorker(() => 1, queue.env, { fitness: { gpu: check('gpu'), disk: check('disk') } });
  await queue.waitFor(1, 'job-done');
  expect(order).toEqual(['gpu', 'disk']);
});

test('the first failed check is reported, and the worker ends without a job', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  let later = false;
  const fitness = {
    gpu: async () => {
      throw new RangeError('x'.repeat(300));
    },
    async disk() {
      later = true;
    },
  };
  const env = withPings(queue.env);
  await expect(serve(() => 1, { env, fitness, signal: new AbortController().signal })).rejects.toThrow('xxx');
  const [{ query, headers }] = queue.requests('ping') as [RecordedRequest];
  expect(Object.fromEntries(query)).toEqual({
    status: 'unhealthy',
    check: 'gpu',
    reason: `RangeError: ${'x'.repeat(256 - 'RangeError: '.length)}`,
  });
  expect(headers.authorization).toBe(KEY);
  expect([later, queue.requests('job-take'), queue.requests('ping').length]).toEqual([false, [], 1]);
});

test('with refreshWorker a job asks for a fresh worker, and this one ends', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b') });
  const { ended } = startWorker(() => ({ ok: 1 }), queue.env, { refreshWorker: true });
  await ended;
  expect(queue.posted()).toEqual([{ output: { ok: 1 }, stopPod: true }]);
});

test('the concurrency may change between takes', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b', 'c', 'd') });
  let limit = 1;
  const doors = new Map<string, ReturnType<typeof gate>>();
  const handle: Handler = ({ id }) => {
    const door = gate();
    doors.set(id, door);
    return door.opened;
  };
  startWorker(handle, queue.env, { concurrency: () => limit });
  await vi.waitFor(() => expect([...doors.keys()]).toEqual(['a']), SOON);
  limit = 2;
  doors.get('a')!.open();
  await vi.waitFor(() => expect([...doors.keys()]).toEqual(['a', 'b', 'c']), SOON);
  limit = 1;
  doors.get('b')!.open();
  await queue.waitFor(2, 'job-done');
  expect(queue.requests('job-take').filter(({ query }) => query.get('job_in_progress') === '1').length).toBeLessThan(3);
  expect([...doors.keys()]).toEqual(['a', 'b', 'c']); // c alone is the limit now
  doors.get('c')!.open();
  await vi.waitFor(() => expect(doors.has('d')).toBe(true), SOON);
  doors.get('d')!.open();
  await queue.waitFor(4, 'job-done');
});
