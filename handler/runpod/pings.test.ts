import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test, vi } from 'vitest';
import { MINUTE, SECOND } from '../../core/time.ts';
import {
  environment,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  KEY,
  type RecordedRequest,
  reset,
  SOON,
  scriptedQueue,
  startWorker,
  status,
  withPings,
} from '../../test/support/test-worker.ts';

test('the first ping is sent at once with the key alone, and names no job', async () => {
  const queue = await scriptedQueue();
  startWorker(() => 1, withPings(queue.env, MINUTE));
  await queue.waitFor(1, 'ping');
  const [{ path, headers }] = queue.requests('ping') as [RecordedRequest];
  expect(path).toBe('ping/pod1');
  expect(headers.authorization).toBe(KEY);
});

test('pings name the active job, then none', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const held = gate();
  startWorker(() => held.opened, withPings(queue.env));
  const named = () => queue.requests('ping').at(-1)?.query.get('job_id');
  await vi.waitFor(() => expect(named()).toBe('a'), SOON);
  held.open();
  await queue.waitFor(1, 'job-done');
  await vi.waitFor(() => expect(named()).toBe(null), SOON);
});

test('pings go on and name the job while it blocks the main thread', async () => {
  const pings = new Int32Array(new SharedArrayBuffer(4)); // how many have named the job
  // The queue runs in a thread, because this one will be blocked.
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    let given = false;
    const server = require('node:http').createServer((request, response) => {
      const { pathname, searchParams } = new URL(request.url, 'http://queue');
      const [, operation] = pathname.split('/').slice(2);
      if (operation === 'ping' && searchParams.get('job_id') === 'a') {
        Atomics.add(workerData, 0, 1);
        Atomics.notify(workerData, 0);
      }
      const isJob = operation === 'job-take' && !given;
      if (isJob) given = true;
      if (isJob) response.end(JSON.stringify({ id: 'a', input: 1 }));
      else if (operation === 'ping' || operation === 'job-done') response.end('{}');
    });
    server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));`;
  const queue = new Worker(code, { eval: true, workerData: pings });
  onTestFinished(async () => void (await queue.terminate()));
  const [port] = await once(queue, 'message');
  let seen = 0;
  const { logged } = startWorker(
    () => {
      const giveUp = performance.now() + 10 * SECOND;
      while (seen < 5 && performance.now() < giveUp) {
        Atomics.wait(pings, 0, seen, 100);
        seen = Atomics.load(pings, 0);
      }
    },
    withPings(environment(`http://127.0.0.1:${port}`)),
  );
  await vi.waitFor(() => expect(logged('job ended')).toHaveLength(1), SOON);
  expect(seen).toBeGreaterThanOrEqual(5);
});

test('pings that fail are logged and go on', async () => {
  const queue = await scriptedQueue({ ping: inTurn(status(500), reset, hold, json({})) }); // the held one times out after two intervals
  const { logged } = startWorker(() => 1, withPings(queue.env));
  await queue.waitFor(5, 'ping');
  expect(logged('ping failed').length).toBeGreaterThanOrEqual(3);
});

test('without a key no pings are sent', async () => {
  const queue = await scriptedQueue({ 'job-take': inTurn(json({ id: 'a', input: 1 }), jobs('b')) });
  startWorker(() => 1, { ...withPings(queue.env, 5), RUNPOD_AI_API_KEY: undefined });
  await queue.waitFor(2, 'job-done');
  await delay(30);
  expect(queue.requests('ping')).toEqual([]);
});
