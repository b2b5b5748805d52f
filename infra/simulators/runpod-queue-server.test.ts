import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import createSdk from 'runpod-sdk';
import { afterEach, expect, test, vi } from 'vitest';
import { MINUTE, SECOND } from '../../core/time.ts';
import { steppedClock } from './clock.ts';
import { type QueueServerOptions, queueServer } from './runpod-queue-server.ts';

const MB = 1e6;
const KEY = 'test-key';

const opened: Server[] = [];
afterEach(() => {
  for (const server of opened.splice(0)) server.close().closeAllConnections();
  vi.restoreAllMocks();
});

/** Waits until the check passes; generous, for busy machines. */
const soon = (check: () => void) => vi.waitFor(check, { interval: 5 });

/** The queue over HTTP at /v2/ep, with the SDK's client, on a stepped clock. */
async function httpQueue(options: Partial<QueueServerOptions> = {}) {
  const clock = steppedClock(5000);
  const { app, queue } = queueServer({ apiKey: KEY, clock, ...options });
  const server = serve({ fetch: new Hono().route('/v2', app).fetch, hostname: '127.0.0.1', port: 0 }) as Server;
  opened.push(server);
  if (!server.listening) await once(server, 'listening');
  const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v2`;
  const request = (authorization: string | undefined, path: string, body?: unknown, signal?: AbortSignal) =>
    fetch(`${baseUrl}/ep/${path}`, {
      ...(body !== undefined && { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }),
      ...(authorization !== undefined && { headers: { authorization } }),
      ...(signal && { signal }),
    });
  return {
    server,
    queue,
    clock,
    request,
    endpoint: createSdk(KEY, { baseUrl }).endpoint('ep')!,
    /** as a worker: the key alone; a body makes it a POST */
    worker: (path: string, body?: unknown, signal?: AbortSignal) => request(KEY, path, body, signal),
    /** as a client: Bearer */
    client: (path: string, body?: unknown) => request(`Bearer ${KEY}`, path, body),
  };
}

/** The same without a network, so that the stepped clock controls everything. */
function memoryQueue(options: Partial<QueueServerOptions> = {}) {
  const clock = steppedClock(5000);
  const { app, queue, close } = queueServer({ apiKey: KEY, clock, ...options });
  const request = async (authorization: string, path: string, body?: unknown) =>
    app.request(`/ep/${path}`, {
      headers: { authorization },
      ...(body !== undefined && { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
  return {
    clock,
    queue,
    close,
    worker: (path: string, body?: unknown) => request(KEY, path, body),
    client: (path: string, body?: unknown) => request(`Bearer ${KEY}`, path, body),
    /** A submitted job's id. */
    run: async (submission: object) =>
      (await (await request(`Bearer ${KEY}`, 'run', { input: {}, ...submission })).json()).id as string,
  };
}

/** A request's answer: its status and body, or undefined while there is none. */
function watched(request: Promise<Response>) {
  const watch: { answer?: [status: number, body: unknown] } = {};
  void request.then(async (response) => {
    watch.answer = [response.status, await response.json().catch(() => undefined)];
  });
  return watch;
}

/** Replaces fetch, which sends callbacks. @returns what was sent, and when */
function fakeReceiver(clock: { now(): number }, answer: (call: number, signal: AbortSignal) => Promise<Response>) {
  const calls: { at: number; body: Record<string, unknown> }[] = [];
  vi.spyOn(globalThis, 'fetch').mockImplementation((_, init) => {
    calls.push({ at: clock.now(), body: JSON.parse(String(init!.body)) });
    return answer(calls.length, init!.signal!);
  });
  return calls;
}

/** A receiver of webhooks. @param answer gets the number of the call, from 1 */
async function webhookServer(answer: (call: number, response: ServerResponse) => void) {
  const calls: { headers: IncomingMessage['headers']; text: string; body: unknown }[] = [];
  const server = createServer(async (request, response) => {
    const text = (await request.setEncoding('utf8').toArray()).join('');
    calls.push({ headers: request.headers, text, body: JSON.parse(text) });
    answer(calls.length, response);
  });
  opened.push(server);
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, calls };
}

test('the npm client’s run and status see a job through', async () => {
  const { endpoint, worker, clock } = await httpQueue();
  const { id, status } = await endpoint.run({ input: { n: 1 } });
  expect(status).toBe('IN_QUEUE');
  expect(await endpoint.status(id)).toEqual({
    id,
    status: 'IN_QUEUE',
    started: true,
    completed: false,
    succeeded: false,
  });

  await clock.step(70);
  expect(await (await worker('job-take/w1?gpu=none&job_in_progress=0')).json()).toEqual({ id, input: { n: 1 } });
  const running = { id, status: 'IN_PROGRESS', delayTime: 70, workerId: 'w1' };
  expect(await endpoint.status(id)).toMatchObject({ ...running, completed: false });

  const progress = await worker(`job-done/w1/${id}?gpu=none&isStream=false`, {
    status: 'IN_PROGRESS',
    output: { step: 3 },
  });
  expect(progress.status).toBe(200);
  expect(await endpoint.status(id)).toMatchObject({ ...running, output: { step: 3 }, completed: false });

  await clock.step(300);
  await worker(`job-done/w1/${id}?gpu=none&isStream=false`, { output: { file: 'é.mp4' } });
  expect(await endpoint.status(id)).toEqual({
    ...{ id, status: 'COMPLETED', delayTime: 70, executionTime: 300, output: { file: 'é.mp4' }, workerId: 'w1' },
    ...{ started: true, completed: true, succeeded: true },
  });
});

test('a failed job shows its error and can be retried; a completed one cannot', async () => {
  const { endpoint, worker, client } = await httpQueue();
  const { id } = await endpoint.run({ input: {} });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { error: 'boom' });
  const failed = await endpoint.status(id);
  expect(failed).toMatchObject({ status: 'FAILED', error: 'boom', completed: true, succeeded: false });
  expect(failed).not.toHaveProperty('output');

  expect(await (await client(`retry/${id}`, {})).json()).toEqual({ id, status: 'IN_QUEUE' });
  expect(await endpoint.status(id)).toMatchObject({ status: 'IN_QUEUE', retries: 1 });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 'fine' });
  expect(await endpoint.status(id)).toMatchObject({ status: 'COMPLETED', output: 'fine', retries: 1 });
  expect((await client(`retry/${id}`, {})).status).toBe(400);
});

test('the npm client’s runSync waits for the outcome', async () => {
  vi.spyOn(console, 'log').mockImplementation(() => {}); // the SDK is talkative
  const { endpoint, worker } = await httpQueue();
  const outcome = endpoint.runSync({ input: { n: 1 } });
  const { id } = await (await worker('job-take/w1')).json();
  await worker(`job-done/w1/${id}`, { output: 2 });
  expect(await outcome).toMatchObject({ id, status: 'COMPLETED', output: 2, completed: true, succeeded: true });
});

test.each([
  ['', 90 * SECOND],
  ['?wait=2500', 2500],
  ['?wait=0', SECOND],
  ['?wait=x', 90 * SECOND],
  ['?wait=999999', 300 * SECOND],
])(
  'status-sync and runsync answer with the outcome, or with the status when the wait is over: %s',
  async (query, ms) => {
    const { client, worker, run, clock } = memoryQueue();
    const id = await run({});
    const [late, never] = [
      watched(client(`status-sync/${id}${query}`)),
      watched(client(`runsync${query}`, { input: 2 })),
    ];
    await clock.step(ms - 1);
    expect([late, never]).toEqual([{}, {}]);
    await clock.step(1);
    expect(late.answer).toEqual([200, { id, status: 'IN_QUEUE' }]);
    expect(never.answer).toEqual([200, { id: expect.stringMatching(/^sync-.+-u1$/), status: 'IN_QUEUE' }]);

    const inTime = watched(client(`status-sync/${id}${query}`));
    await worker('job-take/w1');
    await worker(`job-done/w1/${id}`, { output: 2 });
    await clock.step(0);
    expect(inTime.answer).toMatchObject([200, { status: 'COMPLETED', output: 2 }]);
  },
);

test('the npm client’s cancel and purgeQueue cancel jobs', async () => {
  const { endpoint, worker } = await httpQueue();
  const ids = [];
  for (const n of [1, 2, 3, 4]) ids.push((await endpoint.run({ input: n })).id);
  await worker('job-take/w1');
  expect(await endpoint.cancel(ids[1]!)).toEqual({ id: ids[1], status: 'CANCELLED' });
  expect(await endpoint.purgeQueue()).toEqual({ removed: 2, status: 'completed' });
  const states = await Promise.all(ids.map(async (id) => (await endpoint.status(id)).status));
  expect(states).toEqual(['IN_PROGRESS', 'CANCELLED', 'CANCELLED', 'CANCELLED']);
});

test('the npm client’s health counts jobs and workers', async () => {
  const { endpoint, worker } = await httpQueue();
  await endpoint.run({ input: 1 });
  await endpoint.run({ input: 2 });
  await worker('ping/idle-one');
  await worker('job-take/w1');
  expect(await endpoint.health()).toEqual({
    jobs: { completed: 0, failed: 0, inProgress: 1, inQueue: 1, retried: 0 },
    workers: { idle: 1, initializing: 0, ready: 2, running: 1, throttled: 0 },
  });
});

test('the npm client’s stream yields each chunk once, until the job has ended', async () => {
  const { endpoint, worker } = await httpQueue();
  const { id } = await endpoint.run({ input: {} });
  await worker('job-take/w1');
  await worker(`job-stream/w1/${id}?isStream=false`, { output: 'a' });
  const chunks = endpoint.stream(id);
  expect((await chunks.next()).value).toEqual({ output: 'a' });
  await worker(`job-stream/w1/${id}?isStream=false`, { output: { b: 2 } });
  expect((await chunks.next()).value).toEqual({ output: { b: 2 } });
  await worker(`job-stream/w1/${id}?isStream=false`, { output: 'c' });
  await worker(`job-done/w1/${id}?isStream=true`, { output: [] });
  expect((await chunks.next()).value).toEqual({ output: 'c' });
  expect(await chunks.next()).toEqual({ done: true, value: undefined });
});

test.each([
  ['run', { input: {} }],
  ['runsync', { input: {} }],
  ['status/x', undefined],
  ['status-sync/x', undefined],
  ['stream/x', undefined],
  ['cancel/x', {}],
  ['retry/x', {}],
  ['purge-queue', {}],
  ['health', undefined],
])('the public API requires Bearer and the key: %s', async (path, body) => {
  const { request, queue } = await httpQueue();
  for (const wrong of [undefined, 'Bearer other', 'Bearer ', KEY]) {
    expect((await request(wrong, path, body)).status).toBe(401);
  }
  expect(queue.health().jobs.inQueue).toBe(0);
});

test.each([
  ['job-take/w1', undefined],
  ['job-take-batch/w1', undefined],
  ['job-stop/w1', undefined],
  ['job-done/w1/x', {}],
  ['job-stream/w1/x', {}],
  ['ping/w1', undefined],
])('the workers’ API requires the key alone: %s', async (path, body) => {
  const { request, queue } = await httpQueue();
  for (const wrong of [undefined, 'other', `Bearer ${KEY}`]) {
    expect((await request(wrong, path, body)).status).toBe(401);
  }
  expect(queue.health().workers.ready).toBe(0);
});

test('a wrong key reaches the npm client as an error with its status', async () => {
  const { request } = await httpQueue();
  const { url } = await request(undefined, 'health');
  const endpoint = createSdk('other', { baseUrl: url.replace('/ep/health', '') }).endpoint('ep')!;
  await expect(endpoint.run({ input: {} })).rejects.toMatchObject({ response: { status: 401 } });
});

test.each(['{}', '{"input":null}', 'null', '[]', '"text"', 'not JSON', ''])(
  'a submission without input is refused: %s',
  async (body) => {
    const { client, queue } = await httpQueue();
    expect((await client('run', body)).status).toBe(400);
    expect((await client('runsync', body)).status).toBe(400);
    expect(queue.health().jobs.inQueue).toBe(0);
  },
);

test('every operation answers 404 for an unknown job', async () => {
  const { client, worker, endpoint } = await httpQueue();
  for (const path of ['status/x', 'status-sync/x', 'stream/x']) expect((await client(path)).status).toBe(404);
  for (const path of ['cancel/x', 'retry/x']) expect((await client(path, {})).status).toBe(404);
  for (const path of ['job-done/w1/x', 'job-stream/w1/x']) expect((await worker(path, {})).status).toBe(404);
  await expect(endpoint.status('x')).rejects.toMatchObject({ response: { status: 404 } });
});

test('a job that exceeds its executionTimeout ends: its worker’s stop poll and the callback report it', async () => {
  const { run, worker, client, clock } = memoryQueue({ pollTimeout: MINUTE });
  const calls = fakeReceiver(clock, async () => new Response());
  const id = await run({ webhook: 'http://receiver/', policy: { executionTimeout: 6 * SECOND } });
  await worker('job-take/w1');
  const stop = watched(worker('job-stop/w1'));
  await clock.step(6 * SECOND - 1);
  expect([stop.answer, calls]).toEqual([undefined, []]);
  await clock.step(1);
  expect(stop.answer).toEqual([200, { jobsToStop: [id] }]);
  expect(calls).toMatchObject([
    { at: 11_000, body: { id, status: 'TIMED_OUT', executionTime: 6 * SECOND, input: {} } },
  ]);
  expect(await (await client(`status/${id}`)).json()).toMatchObject({ status: 'TIMED_OUT', workerId: 'w1' });
  expect(await (await client(`retry/${id}`, {})).json()).toEqual({ id, status: 'IN_QUEUE' });
});

test('an expired job is 404; if it was running, its worker has to stop it', async () => {
  const { run, worker, client, clock } = memoryQueue({ pollTimeout: MINUTE });
  const id = await run({ policy: { ttl: 10 * SECOND } });
  await worker('job-take/w1');
  const [stop, waiting] = [watched(worker('job-stop/w1')), watched(client(`status-sync/${id}`))];
  await clock.step(10 * SECOND);
  expect(stop.answer).toEqual([200, { jobsToStop: [id] }]);
  expect(waiting.answer).toEqual([404, { error: 'job not found' }]);
  for (const path of [`status/${id}`, `stream/${id}`]) expect((await client(path)).status).toBe(404);
  for (const path of [`retry/${id}`, `cancel/${id}`]) expect((await client(path, {})).status).toBe(404);
  expect((await worker(`job-done/w1/${id}`, {})).status).toBe(404);
});

test.each([
  ['run', 30 * MINUTE],
  ['runsync', MINUTE],
  ['runsync?wait=5000', MINUTE],
  ['runsync?wait=120000', 2 * MINUTE],
])('the result of %s is kept for its retention time', async (path, ms) => {
  const { client, worker, clock } = memoryQueue();
  const submitted = client(path, { input: {} });
  await clock.step(0);
  const { id } = await (await worker('job-take/w1')).json();
  await worker(`job-done/w1/${id}`, { output: 1 });
  expect(await (await submitted).json()).toMatchObject({ id });
  await clock.step(ms - 1);
  expect((await client(`status/${id}`)).status).toBe(200);
  await clock.step(1);
  expect((await client(`status/${id}`)).status).toBe(404);
});

test('the job of a worker that died silently goes to another worker’s held poll', async () => {
  const { run, worker, client, clock } = memoryQueue({ pollTimeout: 90 * SECOND });
  const id = await run({ webhook: null });
  await worker('job-take/w1');
  await clock.step(20 * SECOND);
  await worker('ping/w1?job_id=x');
  const second = watched(worker('job-take/w2'));
  await clock.step(30 * SECOND - 1);
  expect(second.answer).toBeUndefined();
  await clock.step(1);
  expect(second.answer).toEqual([200, { id, input: {} }]);
  expect((await worker(`job-done/w1/${id}`, { output: 'late' })).status).toBe(200);
  expect(await (await client(`status/${id}`)).json()).toEqual({
    ...{ id, status: 'IN_PROGRESS', delayTime: 50 * SECOND, workerId: 'w2' },
  });
});

test.each([
  ['ping/w1', undefined],
  ['job-take/w1', undefined],
  ['job-stop/w1', undefined],
  ['job-done/w1/ID', { status: 'IN_PROGRESS', output: 1 }],
  ['job-stream/w1/ID', { output: 1 }],
])('%s shows that the worker is alive', async (path, body) => {
  const { run, worker, client, clock } = memoryQueue();
  const id = await run({});
  await worker('job-take/w1');
  for (let n = 0; n < 4; n++) {
    await clock.step(20 * SECOND);
    void worker(path.replace('ID', id), body);
  }
  await clock.step(0);
  expect(await (await client(`status/${id}`)).json()).toMatchObject({ status: 'IN_PROGRESS' });
  expect((await (await client('health')).json()).workers).toMatchObject({ ready: 1, running: 1 });
});

test('a repeated report and one from a worker that has lost the job are accepted without effect', async () => {
  const { run, worker, client, queue, clock } = memoryQueue();
  const calls = fakeReceiver(clock, async () => new Response());
  const id = await run({ webhook: 'http://receiver/' });
  await worker('job-take/w1');
  queue.workerLost('w1');
  await worker('job-take/w2');
  const late = await worker(`job-done/w1/${id}`, { output: 'late' });
  expect([late.status, queue.find(id)!.status]).toEqual([200, 'IN_PROGRESS']);
  await worker(`job-done/w2/${id}`, { output: 'good' });
  const before = await (await client(`status/${id}`)).json();
  expect(before).toMatchObject({ status: 'COMPLETED', output: 'good' });
  await clock.step(SECOND);
  expect(clock.sleeping()).toBe(1); // the queue itself: the callback was accepted
  for (const again of [{ output: 'good' }, { output: 'other' }, { error: 'no' }, { status: 'IN_PROGRESS', output: 1 }])
    expect((await worker(`job-done/w2/${id}`, again)).status).toBe(200);
  expect(await (await client(`status/${id}`)).json()).toEqual(before);
  expect(calls).toHaveLength(1);
});

test.each([
  ['executionTimeout', 5000],
  ['executionTimeout', '6000'],
  ['executionTimeout', 7 * 24 * 60 * MINUTE + 1],
  ['ttl', 9999],
  ['ttl', 7 * 24 * 60 * MINUTE + 1],
  ['ttl', null],
])('a policy outside RunPod’s limits is refused: %s %j', async (name, value) => {
  const { client, queue } = memoryQueue();
  for (const path of ['run', 'runsync'])
    expect((await client(path, { input: {}, policy: { [name]: value } })).status).toBe(400);
  expect(queue.health().jobs.inQueue).toBe(0);
});

test('bodies above RunPod’s maximum sizes are refused', async () => {
  const { client, worker, run, queue } = memoryQueue();
  /** @param bytes of the whole; é has two */
  const sized = (bytes: number, field: string, more: object = {}) => {
    const text = bytes > MB + 1 ? '' : 'é';
    const rest = bytes - Buffer.byteLength(JSON.stringify({ ...more, [field]: text }));
    return JSON.stringify({ ...more, [field]: text + 'x'.repeat(rest) });
  };
  expect((await client('run', sized(10 * MB + 1, 'input'))).status).toBe(400);
  expect((await client('runsync', sized(20 * MB + 1, 'input'))).status).toBe(400);
  expect(queue.health().jobs.inQueue).toBe(0);
  const id = await run({});
  void client('runsync', sized(20 * MB, 'input'));
  await soon(() => expect(queue.health().jobs.inQueue).toBe(2));
  const [, { id: syncId }] = await (await worker('job-take-batch/w1?batch_size=2')).json();

  expect((await worker(`job-stream/w1/${id}`, sized(MB + 1, 'output'))).status).toBe(400);
  expect((await worker(`job-stream/w1/${id}`, sized(MB, 'output'))).status).toBe(200);
  expect(queue.find(id)!.stream).toHaveLength(1);

  const progress = sized(10 * MB + 1, 'output', { status: 'IN_PROGRESS' });
  expect((await worker(`job-done/w1/${id}`, progress)).status).toBe(400);
  expect(queue.find(id)!.status).toBe('IN_PROGRESS');
  expect((await worker(`job-done/w1/${id}`, sized(10 * MB + 1, 'output'))).status).toBe(400);
  expect(queue.find(id)).toMatchObject({ status: 'COMPLETED', output: null });
  expect((await worker(`job-done/w1/${syncId}`, sized(10 * MB + 1, 'output'))).status).toBe(200);
  expect(String(queue.find(syncId)!.output).length).toBeGreaterThan(9 * MB);
});

test('closing the queue ends held requests and callbacks', async () => {
  const { run, client, worker, queue, clock, close } = memoryQueue({ pollTimeout: MINUTE });
  const calls = fakeReceiver(clock, async (call, signal) => {
    if (call === 1) return new Response(null, { status: 500 });
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  });
  for (let n = 0; n < 2; n++) {
    const id = await run({ webhook: 'http://receiver/' });
    await worker('job-take/w1');
    await worker(`job-done/w1/${id}`, {}); // one callback will wait for its second try, the other for its answer
  }
  const held = ['job-take/w1', 'job-take-batch/w1', 'job-stop/w1'].map((path) => watched(worker(path)));
  const running = await run({});
  const waiting = watched(client(`status-sync/${running}`));
  await clock.step(0);
  expect(held.splice(0, 1)[0]!.answer).toMatchObject([200, { id: running }]);
  close();
  await clock.step(0);
  expect(held.map(({ answer }) => answer)).toEqual([
    [204, undefined],
    [204, undefined],
  ]);
  expect(waiting.answer).toMatchObject([200, { status: 'IN_PROGRESS' }]);
  expect(clock.sleeping()).toBe(0);
  await clock.step(60 * MINUTE);
  expect(calls).toHaveLength(2);
  expect(queue.find(running)!.status).toBe('IN_PROGRESS');
});

test('a held job-take-batch answers as soon as a job is submitted', async () => {
  const { run, worker, clock } = memoryQueue();
  const taking = watched(worker('job-take-batch/w1?batch_size=3'));
  await clock.step(SECOND);
  const id = await run({});
  await clock.step(0);
  expect(taking.answer).toEqual([200, [{ id, input: {} }]]);
});

test('a held job-take answers as soon as a job is submitted', async () => {
  const { endpoint, worker, queue } = await httpQueue({ pollTimeout: 60 * SECOND });
  const change = vi.spyOn(queue, 'waitForChange'); // called when there is nothing to take
  const taking = worker('job-take/w1');
  await soon(() => expect(change).toHaveBeenCalled());
  const { id } = await endpoint.run({ input: { n: 1 }, webhook: 'http://127.0.0.1:9/hook' });
  expect(await (await taking).json()).toEqual({ id, input: { n: 1 }, webhook: 'http://127.0.0.1:9/hook' });
});

test.each(['job-take/w1', 'job-take-batch/w1?batch_size=2', 'job-stop/w1'])(
  '%s answers 204 after the poll timeout',
  async (path) => {
    const { worker, clock, queue } = memoryQueue({ pollTimeout: 8 * SECOND });
    const poll = watched(worker(path));
    await clock.step(5 * SECOND);
    queue.cancel(queue.submit({ input: {} })); // a change without effect on this poll: its timeout goes on
    await clock.step(3 * SECOND - 1);
    expect(poll.answer).toBeUndefined();
    await clock.step(1);
    expect(poll.answer).toEqual([204, undefined]);
  },
);

test('job-take-batch gives a list of at most batch_size, oldest first', async () => {
  const { worker, queue } = await httpQueue();
  const jobs = [1, 2, 3, 4].map((input) => queue.submit({ input }));
  const inputs = async (path: string) => {
    const taken = await (await worker(path)).json();
    return taken.map(({ input }: { input: unknown }) => input);
  };
  expect(await inputs('job-take-batch/w1?gpu=none&batch_size=2&job_in_progress=0')).toEqual([1, 2]);
  expect(await inputs('job-take-batch/w2')).toEqual([3]);
  expect(await inputs('job-take-batch/w3?batch_size=9')).toEqual([4]);
  expect(jobs.map(({ workerId }) => workerId)).toEqual(['w1', 'w1', 'w2', 'w3']);
});

test('a held job-stop answers when a job of this worker is cancelled, and to no other worker', async () => {
  const { endpoint, worker, queue } = await httpQueue({ pollTimeout: 60 * SECOND });
  const { id } = await endpoint.run({ input: {} });
  await worker('job-take/w1');
  const change = vi.spyOn(queue, 'waitForChange');
  const gone = new AbortController();
  const other = worker('job-stop/w2', undefined, gone.signal).catch(() => 'still held');
  const stop = worker('job-stop/w1');
  await soon(() => expect(change).toHaveBeenCalledTimes(2));
  await endpoint.cancel(id);
  expect(await (await stop).json()).toEqual({ jobsToStop: [id] });
  gone.abort();
  expect(await other).toBe('still held');
});

test('a worker that has disconnected receives no job', async () => {
  const { endpoint, worker, server, queue } = await httpQueue({ pollTimeout: 60 * SECOND });
  const change = vi.spyOn(queue, 'waitForChange');
  const connected = once(server, 'connection') as Promise<[Socket]>;
  const gone = new AbortController();
  const taking = worker('job-take/w1', undefined, gone.signal);
  const [socket] = await connected;
  await soon(() => expect(change).toHaveBeenCalled());
  const closed = once(socket, 'close');
  gone.abort();
  await expect(taking).rejects.toThrow('aborted');
  await closed;

  const { id } = await endpoint.run({ input: {} });
  expect(await endpoint.status(id)).toMatchObject({ status: 'IN_QUEUE' });
  expect(await (await worker('job-take/w2')).json()).toMatchObject({ id });
  expect(await endpoint.status(id)).toMatchObject({ status: 'IN_PROGRESS', workerId: 'w2' });
});

test('of two held polls one gets the job and the other stays held', async () => {
  const { endpoint, worker, queue } = await httpQueue({ pollTimeout: 60 * SECOND });
  const change = vi.spyOn(queue, 'waitForChange');
  const polls = [worker('job-take/w1'), worker('job-take/w2')];
  await soon(() => expect(change).toHaveBeenCalledTimes(2));
  const first = await endpoint.run({ input: 1 });
  const [winner, loser] = await Promise.race(polls.map((poll, index) => poll.then(() => [poll, polls[1 - index]!])));
  expect(await (await winner!).json()).toEqual({ id: first.id, input: 1 });
  const second = await endpoint.run({ input: 2 });
  expect(await (await loser!).json()).toEqual({ id: second.id, input: 2 });
});

test('the callback of a completed job has RunPod’s fields', async () => {
  const { url, calls } = await webhookServer((_, response) => response.end());
  const { endpoint, worker, clock } = await httpQueue();
  const { id } = await endpoint.run({ input: { task: 7 }, webhook: url });
  await clock.step(40);
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { status: 'IN_PROGRESS', output: 1 });
  await clock.step(60);
  await worker(`job-done/w1/${id}`, { output: { file: 'a.mp4' } });
  await soon(() => expect(calls).toHaveLength(1));
  expect(calls[0]!.headers['content-type']).toBe('application/json');
  expect(calls[0]!.body).toEqual({
    ...{ id, status: 'COMPLETED', output: { file: 'a.mp4' }, input: { task: 7 }, webhook: url },
    ...{ delayTime: 40, executionTime: 60, workerId: 'w1' },
  });
});

test('a failed job has a callback', async () => {
  const { url, calls } = await webhookServer((_, response) => response.end());
  const { endpoint, worker } = await httpQueue();
  const { id } = await endpoint.run({ input: {}, webhook: url });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { error: 'boom' });
  await soon(() => expect(calls).toHaveLength(1));
  expect(calls[0]!.body).toMatchObject({ id, status: 'FAILED', error: 'boom' });
});

test('a callback is sent again, byte for byte, until it is answered 200', async () => {
  const lines: string[] = [];
  const { url, calls } = await webhookServer((call, response) => {
    if (call === 1)
      response.writeHead(204).end(); // only 200 will do
    else if (call === 2) response.destroy();
    else response.end();
  });
  const { endpoint, worker, clock } = await httpQueue({ log: (line) => lines.push(line) });
  const { id } = await endpoint.run({ input: {}, webhook: url });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 1 });
  for (const attempt of [1, 2]) {
    await soon(() => expect(lines).toHaveLength(attempt));
    await clock.step(10 * SECOND);
  }
  await soon(() => expect(calls).toHaveLength(3));
  expect(new Set(calls.map(({ text }) => text)).size).toBe(1);
  expect(lines).toHaveLength(2);
});

test.each([
  ['accepted at once', [200], [0]],
  ['accepted at the third attempt', [500, 204, 200], [0, 10, 20]],
  ['never accepted', [500], [0, 10, 20]],
  ['never answered', ['nothing'], [0, 40, 80]],
])('a callback that is %s is sent at RunPod’s intervals', async (_, answers, seconds) => {
  const lines: string[] = [];
  const { run, worker, clock } = memoryQueue({ log: (line) => lines.push(line) });
  const calls = fakeReceiver(clock, async (call, signal) => {
    const answer = answers[Math.min(call, answers.length) - 1]!;
    if (typeof answer === 'number') return new Response(null, { status: answer });
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  });
  const id = await run({ webhook: 'http://receiver/' });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 1 });
  await clock.step(10 * MINUTE);
  expect(calls.map(({ at }) => (at - 5000) / SECOND)).toEqual(seconds);
  const rejected = answers.at(-1) === 200 ? answers.length - 1 : 3;
  expect(lines).toEqual(
    Array.from({ length: rejected }, (_, n) => `callback for job ${id} was not accepted (attempt ${n + 1} of 3)`),
  );
});

test('a cancelled job has no callback', async () => {
  const { run, worker, client, clock } = memoryQueue();
  const calls = fakeReceiver(clock, async () => new Response());
  const running = await run({ webhook: 'http://receiver/' });
  await worker('job-take/w1');
  const waiting = await run({ webhook: 'http://receiver/' });
  await run({ webhook: 'http://receiver/' });
  for (const id of [running, waiting]) await client(`cancel/${id}`, {});
  expect(await (await client('purge-queue', {})).json()).toEqual({ removed: 1, status: 'completed' });
  await clock.step(MINUTE);
  expect(calls).toEqual([]);
});

test('a report that is not a JSON object is refused, and the job goes on', async () => {
  const { app, queue } = queueServer({ apiKey: KEY });
  const job = queue.submit({ input: {} });
  queue.take('w1', 1);
  for (const body of ['{"output":', '5', 'null', '']) {
    for (const operation of ['job-done', 'job-stream']) {
      const response = await app.request(`/ep/${operation}/w1/${job.id}`, {
        method: 'POST',
        headers: { authorization: KEY },
        body,
      });
      expect([response.status, job.status]).toEqual([400, 'IN_PROGRESS']);
    }
  }
  const body = JSON.stringify({ input: {}, policy: null });
  const accepted = await app.request('/ep/run', { method: 'POST', headers: { authorization: `Bearer ${KEY}` }, body });
  expect(accepted.status).toBe(200);
});
