import { rename } from 'node:fs/promises';
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
  vi.restoreAllMocks();
  delete service.faults.bucket;
  delete service.faults.runpod;
  service.clock.ahead += 1001; // the last result has expired
});

const ask = async () => {
  const response = await fetch(`${service.url}/readyz`);
  return { code: response.status, ...(await response.json()) };
};
const ok = { status: 'ok' };
const failing = (reason: string) => ({ status: 'failing', reason });

test('a service whose dependencies all respond is ready', async () => {
  expect(await ask()).toEqual({ code: 200, status: 'ready', parts: { store: ok, bucket: ok, runpod: ok } });
  const { paths } = await (await fetch(`${service.url}/openapi.json`)).json();
  expect(Object.keys(paths['/readyz'].get.responses)).toEqual(['200', '403', '503']);
});

test('without the store or the bucket the service is not ready, and reveals no details', async () => {
  vi.spyOn(service.store, 'check').mockRejectedValue(new Error('password of host 10.0.0.1'));
  service.faults.bucket = new StorageError('the store at 10.0.0.1 can’t be reached', 'ECONNREFUSED', 3);
  const parts = { store: failing('error'), bucket: failing('unreachable'), runpod: ok };
  expect(await ask()).toEqual({ code: 503, status: 'not_ready', parts });
  expect(service.logged.filter(({ part }) => part).map(({ part }) => part)).toEqual(['store', 'bucket']);

  vi.restoreAllMocks();
  service.clock.ahead += 1001;
  expect(await ask()).toMatchObject({ code: 503, parts: { store: ok, bucket: failing('unreachable') } });
});

test('with a full disk the service is not ready, for store and bucket are checked by writing', async () => {
  for (const code of ['SQLITE_FULL', '53100']) {
    vi.spyOn(service.store, 'check').mockRejectedValueOnce(Object.assign(new Error('full'), { code }));
    expect(await ask()).toMatchObject({ code: 503, parts: { store: failing('full'), bucket: ok } });
    service.clock.ahead += 1001;
  }
  vi.spyOn(service.disk, 'check').mockRejectedValueOnce(Object.assign(new Error('full'), { code: 'ENOSPC' }));
  expect(await ask()).toMatchObject({ code: 503, parts: { store: ok, bucket: failing('full') } });
  service.clock.ahead += 1001;
  expect(await ask()).toMatchObject({ code: 200 });

  await rename(`${service.folder}/bucket/tmp`, `${service.folder}/bucket/away`); // nothing can be written
  service.clock.ahead += 1001;
  expect(await ask()).toMatchObject({ code: 503, parts: { bucket: { status: 'failing' } } });
  await rename(`${service.folder}/bucket/away`, `${service.folder}/bucket/tmp`);
});

test('without RunPod the service is ready', async () => {
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

test('a result is reused for a second, for any number of requests', async () => {
  vi.spyOn(performance, 'now').mockReturnValue(performance.now()); // time stands still
  const check = vi.spyOn(service.store, 'check');
  await Promise.all(Array.from({ length: 50 }, ask));
  service.clock.ahead += 999;
  await ask();
  expect(check).toHaveBeenCalledTimes(1);
  service.clock.ahead += 1;
  await ask();
  expect(check).toHaveBeenCalledTimes(2);
});

test('dependencies are checked in parallel, each for at most 3 s', async () => {
  const never = () => new Promise<never>(() => undefined);
  const parts = { store: { check: never }, bucket: { has: never }, runpod: { health: never } };
  const services = {
    ...parts,
    log: pino({ level: 'silent' }),
    stopping: new AbortController().signal,
    uptime: Date.now,
  };
  const respond = ready.handle(services as never)!;
  const app = new Hono().get('/readyz', (c) => respond(c, {}));
  const startedAt = performance.now();
  const response = await app.request('/readyz');
  const took = performance.now() - startedAt;
  expect(took).toBeGreaterThan(2900);
  expect(took).toBeLessThan(8500); // one after another they would take 9 s
  expect([response.status, await response.json()]).toEqual([
    503,
    {
      status: 'not_ready',
      parts: { store: failing('timeout'), bucket: failing('timeout'), runpod: failing('timeout') },
    },
  ]);
}, 20_000);

test('a stopping process says so, checks nothing and ends waiting requests', async () => {
  const own = await testService();
  const { id } = await (await own.post({ prompt: 'x' })).json();
  const events = await fetch(`${own.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
  const reader = events.body!.getReader();
  await reader.read();
  const check = vi.spyOn(own.store, 'check');
  own.announceStop();
  while (!(await reader.read()).done); // the stream ends
  const response = await fetch(`${own.url}/readyz`);
  expect([response.status, await response.json()]).toEqual([503, { status: 'stopping' }]);
  expect(response.headers.get('connection')).toBe('close');
  expect(check).not.toHaveBeenCalled();
  await own.close();
});
