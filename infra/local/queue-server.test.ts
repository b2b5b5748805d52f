import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import createSdk from 'runpod-sdk';
import { afterEach, expect, test, vi } from 'vitest';
import { type QueueServerOptions, queueServer } from './queue-server.ts';

const SECOND = 1000;
const KEY = 'test-key';

const opened: Server[] = [];
afterEach(() => {
  for (const server of opened.splice(0)) server.close().closeAllConnections();
  vi.restoreAllMocks();
});

/** Waits for what happens soon, however busy the machine. */
const soon = (check: () => void) => vi.waitFor(check, { timeout: 4 * SECOND, interval: 5 });

/** The queue behind HTTP at /v2/ep, with the SDK's client before it. */
async function farQueue(options: Partial<QueueServerOptions> = {}) {
  const { app, queue } = queueServer({ apiKey: KEY, hold: 10 * SECOND, ...options });
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
    request,
    endpoint: createSdk(KEY, { baseUrl }).endpoint('ep')!,
    /** as a worker: the bare key; a body makes it a POST */
    worker: (path: string, body?: unknown, signal?: AbortSignal) => request(KEY, path, body, signal),
    /** as a client: Bearer */
    client: (path: string, body?: unknown) => request(`Bearer ${KEY}`, path, body),
  };
}

/** A far end for webhooks; `answer` has the number of the call. */
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
  let time = 5000;
  const { endpoint, worker } = await farQueue({ now: () => time });
  const { id, status } = await endpoint.run({ input: { n: 1 } });
  expect(status).toBe('IN_QUEUE');
  expect(await endpoint.status(id)).toEqual({
    id,
    status: 'IN_QUEUE',
    started: true,
    completed: false,
    succeeded: false,
  });

  time += 70;
  expect(await (await worker('job-take/w1?gpu=none&job_in_progress=0')).json()).toEqual({ id, input: { n: 1 } });
  const running = { id, status: 'IN_PROGRESS', delayTime: 70, workerId: 'w1' };
  expect(await endpoint.status(id)).toMatchObject({ ...running, completed: false });

  const progress = await worker(`job-done/w1/${id}?gpu=none&isStream=false`, {
    status: 'IN_PROGRESS',
    output: { step: 3 },
  });
  expect(progress.status).toBe(200);
  expect(await endpoint.status(id)).toMatchObject({ ...running, output: { step: 3 }, completed: false });

  time += 300;
  await worker(`job-done/w1/${id}?gpu=none&isStream=false`, { output: { file: 'é.mp4' } });
  expect(await endpoint.status(id)).toEqual({
    ...{ id, status: 'COMPLETED', delayTime: 70, executionTime: 300, output: { file: 'é.mp4' }, workerId: 'w1' },
    ...{ started: true, completed: true, succeeded: true },
  });
});

test('a failed job shows its error; it can be tried again, a completed one cannot', async () => {
  const { endpoint, worker, client } = await farQueue();
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

test('runSync waits for the outcome', async () => {
  vi.spyOn(console, 'log').mockImplementation(() => {}); // the SDK is talkative
  const { endpoint, worker } = await farQueue();
  const outcome = endpoint.runSync({ input: { n: 1 } });
  const { id } = await (await worker('job-take/w1')).json();
  await worker(`job-done/w1/${id}`, { output: 2 });
  expect(await outcome).toMatchObject({ id, status: 'COMPLETED', output: 2, completed: true, succeeded: true });
});

test('status-sync waits for the outcome, at most as long as said', async () => {
  const { endpoint, worker, client } = await farQueue();
  const { id } = await endpoint.run({ input: {} });
  const start = performance.now();
  expect(await (await client(`status-sync/${id}?wait=1000`)).json()).toEqual({ id, status: 'IN_QUEUE' });
  expect(performance.now() - start).toBeGreaterThan(900);

  const waiting = client(`status-sync/${id}?wait=60000`);
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 2 });
  expect(await (await waiting).json()).toMatchObject({ status: 'COMPLETED', output: 2 });
});

test('cancel and purgeQueue through the npm client', async () => {
  const { endpoint, worker } = await farQueue();
  const ids = [];
  for (const n of [1, 2, 3, 4]) ids.push((await endpoint.run({ input: n })).id);
  await worker('job-take/w1');
  expect(await endpoint.cancel(ids[1]!)).toEqual({ id: ids[1], status: 'CANCELLED' });
  expect(await endpoint.purgeQueue()).toEqual({ removed: 2, status: 'completed' });
  const states = await Promise.all(ids.map(async (id) => (await endpoint.status(id)).status));
  expect(states).toEqual(['IN_PROGRESS', 'CANCELLED', 'CANCELLED', 'CANCELLED']);
});

test('health through the npm client', async () => {
  const { endpoint, worker } = await farQueue();
  await endpoint.run({ input: 1 });
  await endpoint.run({ input: 2 });
  await worker('ping/idle-one');
  await worker('job-take/w1');
  expect(await endpoint.health()).toEqual({
    jobs: { completed: 0, failed: 0, inProgress: 1, inQueue: 1, retried: 0 },
    workers: { idle: 1, initializing: 0, ready: 2, running: 1, throttled: 0 },
  });
});

test('stream through the npm client: each chunk once, until the job has ended', async () => {
  const { endpoint, worker } = await farQueue();
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
])('the public side wants Bearer and the key: %s', async (path, body) => {
  const { request, queue } = await farQueue();
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
])('the workers’ side wants the bare key: %s', async (path, body) => {
  const { request, queue } = await farQueue();
  for (const wrong of [undefined, 'other', `Bearer ${KEY}`]) {
    expect((await request(wrong, path, body)).status).toBe(401);
  }
  expect(queue.health().workers.ready).toBe(0);
});

test('a wrong key reaches the npm client as an error with its status', async () => {
  const { request } = await farQueue();
  const { url } = await request(undefined, 'health');
  const endpoint = createSdk('other', { baseUrl: url.replace('/ep/health', '') }).endpoint('ep')!;
  await expect(endpoint.run({ input: {} })).rejects.toMatchObject({ response: { status: 401 } });
});

test.each(['{}', '{"input":null}', 'null', '[]', '"text"', 'not JSON', ''])(
  'no job without input: %s',
  async (body) => {
    const { client, queue } = await farQueue();
    expect((await client('run', body)).status).toBe(400);
    expect((await client('runsync', body)).status).toBe(400);
    expect(queue.health().jobs.inQueue).toBe(0);
  },
);

test('an unknown job is 404 everywhere', async () => {
  const { client, worker, endpoint } = await farQueue();
  for (const path of ['status/x', 'status-sync/x', 'stream/x']) expect((await client(path)).status).toBe(404);
  for (const path of ['cancel/x', 'retry/x']) expect((await client(path, {})).status).toBe(404);
  for (const path of ['job-done/w1/x', 'job-stream/w1/x']) expect((await worker(path, {})).status).toBe(404);
  await expect(endpoint.status('x')).rejects.toMatchObject({ response: { status: 404 } });
});

test('time passes with each request: an expired job is 404, a late one has timed out', async () => {
  let time = 0;
  const { endpoint, worker } = await farQueue({ now: () => time });
  const policy = { executionTimeout: 2 * SECOND, ttl: 5 * SECOND };
  const { id } = await endpoint.run({ input: {}, policy });
  await worker('job-take/w1');
  time = 3 * SECOND;
  expect(await endpoint.status(id)).toMatchObject({ status: 'TIMED_OUT', executionTime: 3 * SECOND });
  time = 6 * SECOND;
  await expect(endpoint.status(id)).rejects.toMatchObject({ response: { status: 404 } });
});

test('a held job-take answers as soon as a job comes', async () => {
  const { endpoint, worker, queue } = await farQueue({ hold: 60 * SECOND });
  const change = vi.spyOn(queue, 'change'); // called when there is nothing to take
  const taking = worker('job-take/w1');
  await soon(() => expect(change).toHaveBeenCalled());
  const { id } = await endpoint.run({ input: { n: 1 }, webhook: 'http://127.0.0.1:9/hook' });
  expect(await (await taking).json()).toEqual({ id, input: { n: 1 }, webhook: 'http://127.0.0.1:9/hook' });
});

test.each(['job-take/w1', 'job-take-batch/w1?batch_size=2', 'job-stop/w1'])(
  '%s answers 204 after the hold',
  async (path) => {
    const { worker } = await farQueue({ hold: 100 });
    const start = performance.now();
    const answer = await worker(path);
    expect(answer.status).toBe(204);
    expect(await answer.text()).toBe('');
    expect(performance.now() - start).toBeGreaterThan(90);
  },
);

test('job-take-batch gives a list of at most batch_size, oldest first', async () => {
  const { worker, queue } = await farQueue();
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
  const { endpoint, worker, queue } = await farQueue({ hold: 60 * SECOND });
  const { id } = await endpoint.run({ input: {} });
  await worker('job-take/w1');
  const change = vi.spyOn(queue, 'change');
  const gone = new AbortController();
  const other = worker('job-stop/w2', undefined, gone.signal).catch(() => 'still held');
  const stop = worker('job-stop/w1');
  await soon(() => expect(change).toHaveBeenCalledTimes(2));
  await endpoint.cancel(id);
  expect(await (await stop).json()).toEqual({ jobsToStop: [id] });
  gone.abort();
  expect(await other).toBe('still held');
});

test('a worker whose connection is gone does not swallow a job', async () => {
  const { endpoint, worker, server, queue } = await farQueue({ hold: 60 * SECOND });
  const change = vi.spyOn(queue, 'change');
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

test('of two held polls one gets the job, the other stays', async () => {
  const { endpoint, worker, queue } = await farQueue({ hold: 60 * SECOND });
  const change = vi.spyOn(queue, 'change');
  const polls = [worker('job-take/w1'), worker('job-take/w2')];
  await soon(() => expect(change).toHaveBeenCalledTimes(2));
  const first = await endpoint.run({ input: 1 });
  const [winner, loser] = await Promise.race(polls.map((poll, index) => poll.then(() => [poll, polls[1 - index]!])));
  expect(await (await winner!).json()).toEqual({ id: first.id, input: 1 });
  const second = await endpoint.run({ input: 2 });
  expect(await (await loser!).json()).toEqual({ id: second.id, input: 2 });
});

test('the webhook hears of a completed job, with what RunPod sends', async () => {
  let time = 0;
  const { url, calls } = await webhookServer((_, response) => response.end());
  const { endpoint, worker } = await farQueue({ now: () => time });
  const { id } = await endpoint.run({ input: { task: 7 }, webhook: url });
  time = 40;
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { status: 'IN_PROGRESS', output: 1 });
  time = 100;
  await worker(`job-done/w1/${id}`, { output: { file: 'a.mp4' } });
  await soon(() => expect(calls).toHaveLength(1));
  expect(calls[0]!.headers['content-type']).toBe('application/json');
  expect(calls[0]!.body).toEqual({
    ...{ id, status: 'COMPLETED', output: { file: 'a.mp4' }, input: { task: 7 }, webhook: url },
    ...{ delayTime: 40, executionTime: 60, workerId: 'w1' },
  });
});

test('the webhook hears of a failed job', async () => {
  const { url, calls } = await webhookServer((_, response) => response.end());
  const { endpoint, worker } = await farQueue();
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
  const { endpoint, worker } = await farQueue({ callbackRetry: 10, log: (line) => lines.push(line) });
  const { id } = await endpoint.run({ input: {}, webhook: url });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 1 });
  await soon(() => expect(calls).toHaveLength(3));
  expect(new Set(calls.map(({ text }) => text)).size).toBe(1);
  expect(lines).toHaveLength(2);
});

test('a callback heard at once is sent once', async () => {
  const { url, calls } = await webhookServer((_, response) => response.end());
  const { endpoint, worker } = await farQueue({ callbackRetry: 1 });
  const { id } = await endpoint.run({ input: {}, webhook: url });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 1 });
  await soon(() => expect(calls).toHaveLength(1));
  await delay(100); // time for a hundred more
  expect(calls).toHaveLength(1);
});

test('a callback nobody hears is sent three times', async () => {
  const lines: string[] = [];
  const { url, calls } = await webhookServer((_, response) => response.writeHead(500).end());
  const { endpoint, worker } = await farQueue({ callbackRetry: 1, log: (line) => lines.push(line) });
  const { id } = await endpoint.run({ input: {}, webhook: url });
  await worker('job-take/w1');
  await worker(`job-done/w1/${id}`, { output: 1 });
  await soon(() => expect(lines).toHaveLength(3));
  await delay(100);
  expect(calls).toHaveLength(3);
  expect(lines[2]).toBe(`callback for job ${id} was not heard (attempt 3 of 3)`);
});

test('a report that is no JSON object is refused for good, and the job goes on', async () => {
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
