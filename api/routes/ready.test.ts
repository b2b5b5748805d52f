import { Hono } from 'hono';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { StorageError } from '../../core/bucket/bucket.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { ready } from './ready.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  delete service.faults.bucket;
  delete service.faults.runpod;
  service.clock.ahead += 1001; // what was found is forgotten
});

const ask = async () => {
  const response = await fetch(`${service.url}/readyz`);
  return { code: response.status, ...(await response.json()) };
};
const ok = { status: 'ok' };
const failing = (reason: string) => ({ status: 'failing', reason });

test('all is well', async () => {
  expect(await ask()).toEqual({ code: 200, status: 'ready', parts: { store: ok, bucket: ok, runpod: ok } });
  const { paths } = await (await fetch(`${service.url}/openapi.json`)).json();
  expect(Object.keys(paths['/readyz'].get.responses)).toEqual(['200', '403', '503']);
});

test('without the store or the bucket it is not ready, and says nothing of their inside', async () => {
  vi.spyOn(service.store, 'check').mockRejectedValue(new Error('password of host 10.0.0.1'));
  service.faults.bucket = new StorageError('the store at 10.0.0.1 can’t be reached', 'ECONNREFUSED', 3);
  const parts = { store: failing('error'), bucket: failing('unreachable'), runpod: ok };
  expect(await ask()).toEqual({ code: 503, status: 'not_ready', parts });
  expect(service.logged.filter(({ part }) => part).map(({ part }) => part)).toEqual(['store', 'bucket']);

  vi.restoreAllMocks();
  service.clock.ahead += 1001;
  expect(await ask()).toMatchObject({ code: 503, parts: { store: ok, bucket: failing('unreachable') } });
});

test('without RunPod it is ready all the same: tasks are kept until it is back', async () => {
  for (const [answer, reason] of [
    [() => new Response('no', { status: 401 }), 'error'],
    [() => new Response('{}', { status: 202 }), 'error'],
    [() => Response.json({ jobs: {}, workers: {} }), undefined],
  ] as const) {
    service.faults.runpod = answer;
    expect(await ask()).toMatchObject({ code: 200, parts: { runpod: reason ? failing(reason) : ok } });
    service.clock.ahead += 1001;
  }
});

test('what was found is kept for a second, however many ask', async () => {
  vi.useFakeTimers({ toFake: ['Date'] }); // it stands still
  const check = vi.spyOn(service.store, 'check');
  await Promise.all(Array.from({ length: 50 }, ask));
  service.clock.ahead += 999;
  await ask();
  expect(check).toHaveBeenCalledTimes(1);
  service.clock.ahead += 1;
  await ask();
  expect(check).toHaveBeenCalledTimes(2);
});

test('parts that do not answer are waited for side by side, and not for long', async () => {
  const never = () => new Promise<never>(() => undefined);
  const parts = { store: { check: never }, bucket: { has: never }, runpod: { health: never } };
  const app = new Hono().route(
    '/',
    ready(
      { ...parts, log: pino({ level: 'silent' }), stopping: new AbortController().signal, now: Date.now } as never,
      { patience: 300 },
    ),
  );
  const began = performance.now();
  const response = await app.request('/readyz');
  expect(performance.now() - began).toBeLessThan(850); // not three times as long
  expect([response.status, await response.json()]).toEqual([
    503,
    {
      status: 'not_ready',
      parts: { store: failing('timeout'), bucket: failing('timeout'), runpod: failing('timeout') },
    },
  ]);
});

test('when the process stops it says so, asks nothing, and ends what waits for news', async () => {
  const own = await testService();
  const { id } = await (await own.post({ prompt: 'x' })).json();
  const events = await fetch(`${own.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
  const check = vi.spyOn(own.store, 'check');
  own.stopping.abort();
  expect(await events.text()).toContain(`"id":"${id}"`); // resolves: the stream has ended
  const response = await fetch(`${own.url}/readyz`);
  expect([response.status, await response.json()]).toEqual([503, { status: 'stopping' }]);
  expect(response.headers.get('connection')).toBe('close');
  expect(check).not.toHaveBeenCalled();
  await own.close();
});
