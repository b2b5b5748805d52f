/** POST /img2vid with `Prefer: wait`. */
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
beforeEach(async () => {
  service = await testService();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await service.close();
});

async function send(prefer: string | undefined, { key, signal }: { key?: string; signal?: AbortSignal } = {}) {
  const headers = {
    'content-type': 'application/json',
    ...(prefer !== undefined && { prefer }),
    ...(key && { 'idempotency-key': key }),
  };
  const response = await service.post({ prompt: 'x' }, { headers, ...(signal && { signal }) });
  const task = await response.json();
  expect(response.headers.get('location')).toBe(`/status?id=${task.id}`);
  return {
    status: response.status,
    applied: response.headers.get('preference-applied'),
    replayed: response.headers.get('idempotency-replayed'),
    task,
  };
}

/** The only task's id and job, as soon as it has one. */
async function taken() {
  let id: string | undefined;
  for (; !id; await turn()) id = (await service.store.list({ owner: 'local', limit: 1 }))[0]?.id;
  return { id, job: await service.take(id) };
}
/** Resolves when a request subscribes to changes; `gone` resolves when it has unsubscribed. */
function subscription() {
  const { subscribe } = service.lifecycle;
  return new Promise<{ gone: Promise<void> }>((resolve) => {
    vi.spyOn(service.lifecycle, 'subscribe').mockImplementation((id, listener) => {
      const forget = subscribe(id, listener);
      let left = () => {};
      const gone = new Promise<void>((done) => {
        left = done;
      });
      resolve({ gone });
      return () => {
        forget();
        left();
      };
    });
  });
}

test('a task that ends in time is answered with 200; the wait is at most a minute', async () => {
  const watch = vi.spyOn(service.lifecycle, 'watch');
  const pending = send('respond-async, WAIT="3600"; x');
  const { id, job } = await taken();
  service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.3 } });
  while ((await service.store.get(id))!.progress !== 0.3) await turn();
  service.report(job.id, { output: await service.finish(id, job.id) });
  const { status, applied, replayed, task } = await pending;
  expect([status, applied, replayed]).toEqual([200, 'wait=60', null]);
  expect(task).toMatchObject({ id, status: 'succeeded', progress: 1, videos: [{ frames: 14 }] });
  expect(watch.mock.calls.map(([{ id }]) => id)).toContain(id); // so it is looked at more often
});

test('a task that does not end in time is answered with 202, as it is by then', async () => {
  const timeout = new AbortController();
  const { timeout: real } = AbortSignal;
  vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => (ms === 7000 ? timeout.signal : real(ms)));
  const pending = send('wait=7');
  const { id, job } = await taken();
  service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.4, step: 3, steps: 12 } });
  while ((await service.store.get(id))!.progress !== 0.4) await turn();
  timeout.abort();
  const { status, applied, task } = await pending;
  expect([status, applied]).toEqual([202, 'wait=7']);
  expect(task).toMatchObject({ status: 'running', stage: 'sampling', step: 3, progress: 0.4 });
});

test('without a wait, or with an invalid one, the response is 202 at once', async () => {
  for (const [prefer, wanted] of [
    ['wait=0', 'wait=0'],
    ['wait=soon', null],
    ['respond-async', null],
    [undefined, null],
  ] as const) {
    const { status, applied, task } = await send(prefer);
    expect([status, applied, task.status], prefer).toEqual([202, wanted, 'queued']);
  }
});

test('a retry waits too, and is answered at once when the task has ended', async () => {
  const pending = Promise.all([send('wait=30', { key: 'k' }), send('wait=20', { key: 'k' })]);
  const { id, job } = await taken();
  service.report(job.id, { output: await service.finish(id, job.id) });
  const results = [...(await pending), await send('wait=10', { key: 'k' })];
  expect(results.map(({ status, task }) => [status, task.id, task.status])).toEqual(
    Array(3).fill([200, id, 'succeeded']),
  );
  expect(results.map(({ applied }) => applied)).toEqual(['wait=30', 'wait=20', 'wait=10']);
  expect(results.filter(({ replayed }) => replayed === 'true')).toHaveLength(2);
  expect((await send(undefined, { key: 'k' })).status).toBe(202); // who does not wait is answered as always
});

test('an end between reading the task and subscribing is not missed', async () => {
  const { getOwn, getPublic, update } = service.store;
  vi.spyOn(service.store, 'getPublic').mockImplementationOnce(async (owner, id) => {
    const task = (await getPublic(owner, id))!;
    const error = { code: 'internal', message: 'x', retryable: false } as const;
    for (let ended: unknown; !ended; )
      ended = await update((await getOwn(owner, id))!, { status: 'failed', error, nextRunIn: 0 });
    return task;
  });
  const { status, task } = await send('wait=60');
  expect([status, task.status]).toEqual([200, 'failed']);
});

test('an end that is notified while an older state is read is not missed', async () => {
  const { getPublic } = service.store;
  const spy = vi.spyOn(service.store, 'getPublic');
  spy.mockImplementationOnce(getPublic).mockImplementationOnce(async (owner, id) => {
    const older = await getPublic(owner, id);
    const notified = new Promise<void>((resolve) => {
      service.lifecycle.subscribe(id, ({ status }) => status === 'succeeded' && resolve());
    });
    const job = await service.take(id);
    service.report(job.id, { output: await service.finish(id, job.id) });
    await notified;
    return older;
  });
  const { status, task } = await send('wait=60');
  expect([status, task.status]).toEqual([200, 'succeeded']);
});

test('a client that disconnects ends the wait', async () => {
  const subscribed = subscription();
  const client = new AbortController();
  const pending = send('wait=60', { signal: client.signal });
  const { gone } = await subscribed;
  client.abort();
  await expect(pending).rejects.toThrow(/aborted/);
  await gone;
});

test('a store that fails meanwhile does not make an accepted task look refused', async () => {
  vi.spyOn(service.store, 'getPublic').mockRejectedValue(new Error('the disk is gone'));
  const { status, task } = await send('wait=10');
  expect([status, task.status]).toEqual([202, 'queued']);
});
