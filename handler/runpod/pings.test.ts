import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import {
  type Asked,
  afterwards,
  environment,
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  KEY,
  MINUTE,
  reset,
  SOON,
  status,
  withPings,
  worker,
} from '../../test/support/test-worker.ts';

// Pings.

test('the first ping comes at once and names no job; it is signed with the bare key', async () => {
  const far = await farQueue({});
  worker(() => 1, withPings(far.env, MINUTE));
  await far.until(1, 'ping');
  const [{ url, headers }] = far.of('ping') as [Asked];
  expect(url.pathname + url.search).toBe('/v2/ep/ping/pod1');
  expect(headers.authorization).toBe(KEY);
});

test('pings name the job in hand, then none', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const held = gate();
  worker(() => held.opens, withPings(far.env));
  const named = () => far.of('ping').at(-1)?.url.searchParams.get('job_id');
  await vi.waitFor(() => expect(named()).toBe('a'), SOON);
  held.open();
  await far.until(1, 'job-done');
  await vi.waitFor(() => expect(named()).toBe(null), SOON);
});

test('pings go on and name the job while it keeps the main thread busy', async () => {
  const pings = new Int32Array(new SharedArrayBuffer(4)); // those that have named the job
  // A queue in a thread of its own, for this one will be blocked.
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    let given = false;
    const server = require('node:http').createServer((request, response) => {
      const { pathname, searchParams } = new URL(request.url, 'http://far');
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
  const far = new Worker(code, { eval: true, workerData: pings });
  afterwards(async () => void (await far.terminate()));
  const [port] = await once(far, 'message');
  let seen = 0;
  const { happened } = worker(
    () => {
      const giveUp = performance.now() + 10 * SECOND;
      while (seen < 5 && performance.now() < giveUp) {
        Atomics.wait(pings, 0, seen, 100);
        seen = Atomics.load(pings, 0);
      }
    },
    withPings(environment(`http://127.0.0.1:${port}`)),
  );
  await vi.waitFor(() => expect(happened('job ended')).toHaveLength(1), SOON);
  expect(seen).toBeGreaterThanOrEqual(5);
});

test('pings that fail are logged and go on', async () => {
  const far = await farQueue({ ping: inTurn(status(500), reset, hold, json({})) }); // the held one is cut after two intervals
  const { happened } = worker(() => 1, withPings(far.env));
  await far.until(5, 'ping');
  expect(happened('ping failed').length).toBeGreaterThanOrEqual(3);
});

test('without a key there are no pings', async () => {
  const far = await farQueue({ 'job-take': inTurn(json({ id: 'a', input: 1 }), jobs('b')) });
  worker(() => 1, { ...withPings(far.env, 5), RUNPOD_AI_API_KEY: undefined });
  await far.until(2, 'job-done');
  await delay(30);
  expect(far.of('ping')).toEqual([]);
});
