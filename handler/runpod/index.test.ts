import { EventEmitter, getEventListeners, once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { serve as listen } from '@hono/node-server';
import { Hono } from 'hono';
import { afterEach, expect, test, vi } from 'vitest';
import { queueServer } from '../../infra/local/queue-server.ts';
import { type Handle, type JobTools, type ServeOptions, serve } from './index.ts';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const KEY = 'test-key';
/** For what happens soon, however busy the machine. */
const SOON = { timeout: 4 * SECOND, interval: 5 };

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup(); // workers first, then their servers
  vi.restoreAllMocks();
});

type Operation = 'job-take' | 'job-done' | 'job-stop' | 'job-stream' | 'ping';

interface Asked {
  operation: Operation;
  url: URL;
  /** the last part of the path: a job's id for job-done, else the worker's */
  id: string;
  headers: IncomingHttpHeaders;
  text: string;
  /** milliseconds */
  at: number;
}

type Answer = (response: ServerResponse, asked: Asked) => void;

/** What a poll gets while there is nothing to say. */
const hold: Answer = () => {};
const status =
  (code: number, text = ''): Answer =>
  (response) =>
    response.writeHead(code).end(text);
const json = (value: unknown) => status(200, JSON.stringify(value));
const reset: Answer = (response) => response.destroy();

/** Each answer once, then the last for good. */
function inTurn(...answers: Answer[]): Answer {
  let next = 0;
  return (response, asked) => answers[Math.min(next++, answers.length - 1)]!(response, asked);
}

/** Gives these jobs, then holds. */
const jobs = (...ids: string[]) => inTurn(...ids.map((id) => json({ id, input: { of: id } })), hold);

/** RunPod's queue, written by hand for its faults; unless said otherwise it holds polls and accepts the rest. */
async function farQueue(answers: Partial<Record<Operation, Answer>>) {
  const all: Record<Operation, Answer> = {
    'job-take': hold,
    'job-done': json({}),
    'job-stop': hold,
    'job-stream': json({}),
    ping: json({}),
    ...answers,
  };
  const asked: Asked[] = [];
  const news = new EventEmitter();
  const server = createServer(async (request, response) => {
    response.on('error', () => {});
    const text = (await request.setEncoding('utf8').toArray()).join('');
    const url = new URL(request.url!, 'http://far');
    const [, operation, ...rest] = url.pathname.split('/').slice(2) as [string, Operation, ...string[]];
    const one = { operation, url, id: rest.at(-1)!, headers: request.headers, text, at: performance.now() };
    asked.push(one);
    all[operation](response, one);
    news.emit('asked');
  });
  const base = await opened(server);
  const of = (operation: Operation, id?: string) =>
    asked.filter((one) => one.operation === operation && (id === undefined || one.id === id));
  return {
    env: environment(base),
    of,
    /** What was posted for a job, parsed. */
    posted: (id?: string) => of('job-done', id).map(({ text }) => JSON.parse(text)),
    /** Resolves when so many requests of this kind have come. */
    async until(count: number, operation: Operation, id?: string) {
      while (of(operation, id).length < count) await once(news, 'asked');
    },
  };
}

async function opened(server: Server): Promise<string> {
  cleanups.push(() => server.close().closeAllConnections());
  if (!server.listening) await once(server.listen(0, '127.0.0.1'), 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** As RunPod sets it; no pings unless a test wants them. */
const environment = (base: string) => ({
  RUNPOD_WEBHOOK_GET_JOB: `${base}/v2/ep/job-take/$ID?gpu=NVIDIA+L4`,
  RUNPOD_WEBHOOK_POST_OUTPUT: `${base}/v2/ep/job-done/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+L4`,
  RUNPOD_AI_API_KEY: KEY,
  RUNPOD_POD_ID: 'pod1',
});
const withStream = (env: ReturnType<typeof environment>) => ({
  ...env,
  RUNPOD_WEBHOOK_POST_STREAM: env.RUNPOD_WEBHOOK_POST_OUTPUT.replace('job-done', 'job-stream'),
});
const withPings = (env: ReturnType<typeof environment>, interval = 20) => ({
  ...env,
  RUNPOD_WEBHOOK_PING: env.RUNPOD_WEBHOOK_GET_JOB.replace(/job-take.*/, 'ping/$RUNPOD_POD_ID'),
  RUNPOD_PING_INTERVAL: String(interval),
});

/** Starts a worker that ends with the test. */
function worker(handle: Handle, env: NodeJS.ProcessEnv, options: ServeOptions = {}) {
  const controller = new AbortController();
  const events: { event: string; jobId?: string }[] = [];
  const ended = serve(handle, {
    env,
    signal: controller.signal,
    grace: SECOND,
    log: (event) => events.push(event),
    ...options,
  });
  const stop = () => {
    controller.abort();
    return ended;
  };
  cleanups.push(stop);
  return {
    ended,
    stop,
    signal: controller.signal,
    happened: (event: string) => events.filter((e) => e.event === event),
  };
}

/** Something to wait for that a test opens. */
function gate() {
  let open!: () => void;
  const opens = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opens, open };
}

const untilAborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));

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
  while (bad.ended === undefined || submitted.some((job) => job.ended === undefined)) await queue.change(SECOND);
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
  while (job.output === undefined) await queue.change(SECOND);
  expect(job).toMatchObject({ status: 'IN_PROGRESS', output: { step: 3 } });
  looked.open();
  while (job.ended === undefined) await queue.change(SECOND);
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
  while (next.ended === undefined) await queue.change(SECOND);
  expect(next).toMatchObject({ status: 'COMPLETED', output: 'short' });
  expect(report.mock.calls.map(([reported]) => reported)).toEqual([next]);
});

test('a worker that ended leaves later jobs in the queue', async () => {
  const { queue, env, left } = await localQueue();
  const change = vi.spyOn(queue, 'change'); // called when a poll is held
  const { stop } = worker(() => 'never', env);
  await vi.waitFor(() => expect(change).toHaveBeenCalled(), SOON);
  await stop();
  await left();
  const job = queue.submit({ input: {} });
  await delay(50);
  expect(job.status).toBe('IN_QUEUE');
});

// What is sent.

test.each([
  [null, { output: null }],
  [undefined, { output: null }],
  ['text', { output: 'text' }],
  ['', { output: '' }],
  [5, { output: 5 }],
  [0, { output: 0 }],
  [true, { output: true }],
  [false, { output: false }],
  [[1, { error: 'in a list' }], { output: [1, { error: 'in a list' }] }],
  [{ a: { error: 'deeper' } }, { output: { a: { error: 'deeper' } } }],
  [{ output: 1 }, { output: { output: 1 } }],
  [{}, {}],
  [{ error: '' }, {}],
  [{ error: null, a: 1 }, { output: { a: 1 } }],
  [{ error: 'm' }, { error: 'm' }],
  [
    { error: 'm', detail: 1 },
    { output: { detail: 1 }, error: 'm' },
  ],
  [{ error: { code: 1 } }, { error: '{"code":1}' }],
  [{ error: 7 }, { error: '7' }],
  [
    { refresh_worker: true, ok: 1 },
    { output: { ok: 1 }, stopPod: true },
  ],
  [
    { refresh_worker: true, error: 'm' },
    { error: 'm', stopPod: true },
  ],
  [{ refresh_worker: false, ok: 1 }, { output: { ok: 1 } }],
])('a handler that returns %j', async (value, body) => {
  const far = await farQueue({ 'job-take': jobs('a') });
  worker(() => value, far.env);
  await far.until(1, 'job-done');
  expect(far.posted()).toEqual([body]);
});

test('an outcome is posted as RunPod’s own worker posts it', async () => {
  const far = await farQueue({ 'job-take': jobs('job-1') });
  worker(async () => ({ echo: 'héllo' }), far.env);
  await far.until(1, 'job-done');
  const [{ url, headers, text }] = far.of('job-done') as [Asked];
  expect(url.pathname + url.search).toBe('/v2/ep/job-done/pod1/job-1?gpu=NVIDIA+L4&isStream=false');
  expect(text).toBe('{"output":{"echo":"héllo"}}');
  expect(headers).toMatchObject({
    authorization: KEY,
    charset: 'utf-8',
    'content-type': 'application/x-www-form-urlencoded',
    'x-request-id': 'job-1',
  });
});

test('jobs are asked for as RunPod’s own worker asks, and reach the handler whole', async () => {
  const job = { id: 'job-1', input: [1], webhook: 'http://x', batchId: 'b', delayTime: 3 };
  const far = await farQueue({ 'job-take': inTurn(json(job), hold) });
  const handle = vi.fn<Handle>(() => null);
  worker(handle, far.env);
  await far.until(2, 'job-take');
  await far.until(1, 'job-stop');
  const [take] = far.of('job-take') as [Asked];
  expect(take.url.pathname + take.url.search).toBe('/v2/ep/job-take/pod1?gpu=NVIDIA+L4&job_in_progress=0');
  expect(take.headers).toMatchObject({ authorization: KEY, 'content-type': 'application/json' });
  const [stop] = far.of('job-stop') as [Asked];
  expect(stop.url.pathname + stop.url.search).toBe('/v2/ep/job-stop/pod1?gpu=NVIDIA+L4');
  expect(stop.headers).toMatchObject({ authorization: KEY });
  expect(handle).toHaveBeenCalledExactlyOnceWith(job, expect.anything());
});

test.each([
  ['$ID', 'pod1?job_in_progress=0'],
  ['$RUNPOD_POD_ID', 'pod1?job_in_progress=0'],
  ['$RUNPOD_POD_ID?', 'pod1?job_in_progress=0'],
  ['$RUNPOD_POD_ID?worker=$ID', 'pod1?worker=pod1&job_in_progress=0'],
])('the addresses that RunPod gives are filled in: job-take/%s', async (template, expected) => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const RUNPOD_WEBHOOK_GET_JOB = far.env.RUNPOD_WEBHOOK_GET_JOB.replace(/job-take.*/, () => `job-take/${template}`);
  const RUNPOD_WEBHOOK_POST_OUTPUT = far.env.RUNPOD_WEBHOOK_POST_OUTPUT.replace(/\?.*/, '?');
  const pings = withPings(far.env);
  const RUNPOD_WEBHOOK_PING = `${pings.RUNPOD_WEBHOOK_PING}?`;
  const held = gate();
  worker(() => held.opens, { ...pings, RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT, RUNPOD_WEBHOOK_PING });
  await far.until(3, 'ping');
  held.open();
  await far.until(1, 'job-done');
  const path = ({ url }: Asked) => url.pathname + url.search;
  expect(path(far.of('job-take')[0]!)).toBe(`/v2/ep/job-take/${expected}`);
  expect(path(far.of('job-done')[0]!)).toBe('/v2/ep/job-done/pod1/a?isStream=false');
  expect(path(far.of('ping').at(-1)!)).toBe('/v2/ep/ping/pod1?job_id=a');
  expect(path(far.of('job-stop')[0]!)).toBe(`/v2/ep/job-stop/${expected.replace(/.job_in_progress=0/, '')}`);
});

test('without RUNPOD_POD_ID a worker has an id of its own, the same everywhere', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const { RUNPOD_POD_ID: _, ...env } = far.env;
  worker(() => 1, env);
  await far.until(1, 'job-done');
  const [{ id }] = far.of('job-take') as [Asked];
  expect(id).toMatch(/^[0-9a-f-]{36}$/);
  expect(far.of('job-done')[0]!.url.pathname).toBe(`/v2/ep/job-done/${id}/a`);
});

test.each(['RUNPOD_WEBHOOK_GET_JOB', 'RUNPOD_WEBHOOK_POST_OUTPUT'])('no worker without %s', async (name) => {
  const env = { ...environment('http://127.0.0.1:1'), [name]: undefined };
  const { signal } = new AbortController();
  await expect(serve(() => null, { env, signal })).rejects.toThrow(
    'RUNPOD_WEBHOOK_GET_JOB and RUNPOD_WEBHOOK_POST_OUTPUT are not set',
  );
});

// What handlers throw, and what can't be sent.

class Custom extends Error {
  override name = 'Custom';
}

test.each([
  [new TypeError('boom'), 'TypeError', 'boom'],
  [new Custom('mine'), 'Custom', 'mine'],
  ['just text', 'Error', 'just text'],
  [undefined, 'Error', 'undefined'],
  [{ code: 42 }, 'Error', 'code: 42'],
  [Object.create(null, { code: { value: 43, enumerable: true } }), 'Error', 'code: 43'],
])('a handler that throws %o fails the job', async (error, type, message) => {
  const far = await farQueue({ 'job-take': jobs('a', 'b') });
  worker(({ id }) => {
    if (id === 'a') throw error;
  }, far.env);
  await far.until(1, 'job-done', 'b');
  expect(far.posted('a')).toEqual([{ error: expect.any(String) }]);
  expect(JSON.parse(far.posted('a')[0].error)).toEqual({
    error_type: type,
    error_message: expect.stringContaining(message),
    error_traceback: expect.stringContaining('index.'),
    worker_id: 'pod1',
  });
});

const cycle: Record<string, unknown> = {};
cycle.self = cycle;

test.each([
  ['a BigInt', 1n, 'BigInt'],
  ['a cycle', cycle, 'circular'],
  ['a cycle as error', { error: cycle }, 'circular'],
  [
    'what throws when written',
    {
      deep: {
        toJSON() {
          throw new Error('not me');
        },
      },
    },
    'not me',
  ],
])('an outcome that can’t be sent fails the job: %s', async (_, value, message) => {
  const far = await farQueue({ 'job-take': jobs('a', 'b') });
  worker(({ id }) => (id === 'a' ? value : 'fine'), far.env);
  await far.until(1, 'job-done', 'b');
  expect(far.posted('a')).toEqual([{ error: expect.stringContaining(message) }]);
  expect(far.posted('b')).toEqual([{ output: 'fine' }]);
});

test('progress that can’t be sent is logged, and the job goes on', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const { happened } = worker(async (_, { progress }) => {
    progress(1n);
    await vi.waitFor(() => expect(happened('progress not sent')).toHaveLength(1), SOON);
    progress(2);
    await far.until(1, 'job-done');
    return 'end';
  }, far.env);
  await far.until(2, 'job-done');
  expect(far.posted()).toEqual([{ status: 'IN_PROGRESS', output: 2 }, { output: 'end' }]);
});

// Progress.

test('progress is sent one at a time, in order, the latest only, and the outcome last', async () => {
  const first = gate();
  const far = await farQueue({
    'job-take': jobs('a'),
    'job-done': inTurn((response) => void first.opens.then(() => response.end()), json({})),
  });
  worker(async (_, { progress }) => {
    for (const n of [1, 2, 3, 4]) progress(n);
    await far.until(1, 'job-done'); // 1 has come and is not answered yet
    progress(5);
    first.open();
    await far.until(2, 'job-done');
    return 'end';
  }, far.env);
  await far.until(3, 'job-done');
  expect(far.posted()).toEqual([
    { status: 'IN_PROGRESS', output: 1 },
    { status: 'IN_PROGRESS', output: 5 },
    { output: 'end' },
  ]);
  expect(far.of('job-done')[0]!.url.search).toBe('?gpu=NVIDIA+L4&isStream=false');
  expect(far.of('job-done')[0]!.headers['x-request-id']).toBe('a');
});

test('the outcome waits for the progress on its way, and no progress follows it', async () => {
  let answered = false;
  let late: JobTools['progress'] | undefined;
  const order: string[] = [];
  const far = await farQueue({
    'job-take': jobs('a', 'b'),
    'job-done': (response, { text }) => {
      const { status } = JSON.parse(text);
      if (status !== 'IN_PROGRESS') order.push(answered ? 'outcome' : 'outcome too early');
      setTimeout(() => {
        answered = true;
        response.end();
      }, 50);
    },
  });
  worker(async ({ id }, { progress }) => {
    if (id === 'b') {
      late?.('after the outcome');
      return 'b';
    }
    late = progress;
    progress('first');
    progress('dropped');
    return 'a';
  }, far.env);
  await far.until(1, 'job-done', 'b');
  expect(far.posted('a')).toEqual([{ status: 'IN_PROGRESS', output: 'first' }, { output: 'a' }]);
  expect(order[0]).toBe('outcome');
});

test('progress that is not accepted is not sent again, and the job goes on', async () => {
  const far = await farQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), reset, json({})) });
  worker(async (_, { progress }) => {
    progress(1);
    await far.until(1, 'job-done');
    progress(2);
    await far.until(2, 'job-done');
    return 'end';
  }, far.env);
  await far.until(3, 'job-done');
  expect(far.posted()).toEqual([
    { status: 'IN_PROGRESS', output: 1 },
    { status: 'IN_PROGRESS', output: 2 },
    { output: 'end' },
  ]);
});

// Outcomes that are not accepted.

test('an outcome that met 500 twice is sent until it is accepted, byte for byte, ever less often', async () => {
  const far = await farQueue({ 'job-take': jobs('a', 'b'), 'job-done': inTurn(status(500), status(503), status(202)) });
  worker(() => ({ at: Math.random(), text: 'é' }), far.env);
  await far.until(1, 'job-done', 'b');
  const tries = far.of('job-done', 'a');
  expect(tries).toHaveLength(3);
  expect(new Set(tries.map(({ text }) => text)).size).toBe(1);
  expect(tries[1]!.at - tries[0]!.at).toBeGreaterThan(170); // 250 ms less a quarter
  expect(tries[2]!.at - tries[1]!.at).toBeGreaterThan(360); // 500 ms less a quarter
});

const truncated: Answer = (response) => {
  response.writeHead(200, { 'content-length': 10 }).write('{');
  setTimeout(() => response.destroy(), 10);
};

test.each([
  ['a connection reset', reset],
  ['an answer cut off', truncated],
  ['408', status(408)],
  ['425', status(425)],
  ['429', status(429)],
])('an outcome that met %s is sent again', async (_, fault) => {
  const far = await farQueue({ 'job-take': jobs('a', 'b'), 'job-done': inTurn(fault, json({})) });
  worker(() => Math.random(), far.env);
  await far.until(1, 'job-done', 'b');
  const [first, second, ...more] = far.of('job-done', 'a').map(({ text }) => text);
  expect(second).toBe(first);
  expect(more).toEqual([]);
});

test.each([400, 401, 404, 413])('an outcome refused with %i is not sent again', async (code) => {
  const far = await farQueue({ 'job-take': jobs('a', 'b'), 'job-done': status(code) });
  const { happened } = worker(() => 1, far.env);
  await far.until(1, 'job-done', 'b');
  expect(far.of('job-done', 'a')).toHaveLength(1);
  expect(happened('outcome refused')[0]).toMatchObject({ jobId: 'a', status: code });
});

test('an outcome that nobody answers is sent again', async () => {
  const real = AbortSignal.timeout.bind(AbortSignal);
  vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => real(ms === 30 * SECOND ? 100 : ms));
  const far = await farQueue({ 'job-take': jobs('a', 'b'), 'job-done': inTurn(hold, json({})) });
  worker(() => 1, far.env);
  await far.until(1, 'job-done', 'b');
  expect(far.of('job-done', 'a').length).toBeGreaterThan(1);
});

test('after five minutes an outcome is given up and the worker goes on', async () => {
  const now = performance.now.bind(performance);
  let ahead = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => now() + ahead);
  const far = await farQueue({
    'job-take': jobs('a', 'b'),
    'job-done': inTurn((response) => {
      ahead = 5 * MINUTE;
      response.writeHead(500).end();
    }, json({})),
  });
  const { happened } = worker(() => 1, far.env);
  await far.until(1, 'job-done', 'b');
  expect(far.of('job-done', 'a')).toHaveLength(1);
  expect(happened('outcome lost')).toMatchObject([{ jobId: 'a', answer: 500 }]);
});

test('pings name a job until its outcome has been accepted', async () => {
  const far = await farQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), json({})) });
  const { happened } = worker(() => 1, withPings(far.env));
  await far.until(1, 'job-done');
  const before = far.of('ping').length;
  await far.until(before + 2, 'ping');
  expect(far.of('job-done')).toHaveLength(1); // it is still to be sent again
  expect(far.of('ping').at(-1)!.url.searchParams.get('job_id')).toBe('a');
  await vi.waitFor(() => expect(happened('job ended')).toHaveLength(1), SOON);
  await far.until(far.of('ping').length + 2, 'ping');
  expect(far.of('ping').at(-1)!.url.search).toBe('');
});

// Taking.

test.each([
  ['a job without id', json({ input: {} })],
  ['a job whose id is a number', json({ id: 1, input: {} })],
  ['a job without input', json({ id: 'bad' })],
  ['a job whose input is null', json({ id: 'bad', input: null })],
  ['a list', json([{ id: 'bad', input: {} }])],
  ['{}', json({})],
  ['null', json(null)],
  ['no JSON', status(200, '<html>')],
  ['401', status(401)],
  ['500', status(500)],
  ['a connection reset', reset],
  ['an answer cut off', truncated],
])('%s for a job: the worker waits a little and goes on', async (_, fault) => {
  const far = await farQueue({ 'job-take': inTurn(fault, jobs('good')) });
  const { happened } = worker(() => 1, far.env);
  await far.until(1, 'job-done');
  expect(far.of('job-done').map(({ id }) => id)).toEqual(['good']);
  const [first, second] = far.of('job-take');
  expect(second!.at - first!.at).toBeGreaterThan(170);
  expect(happened('take failed')).toHaveLength(1);
});

test.each([204, 400, 200])('%i without a text means no job, and is no fault', async (code) => {
  const far = await farQueue({ 'job-take': inTurn(status(code), jobs('a')) });
  const { happened } = worker(() => 1, far.env);
  await far.until(1, 'job-done');
  expect(happened('take failed')).toEqual([]);
});

test('the worker waits longer after each fault, and is quick again after a job', async () => {
  const far = await farQueue({ 'job-take': inTurn(status(500), status(500), jobs('a'), status(500), hold) });
  worker(() => 1, far.env);
  await far.until(5, 'job-take');
  const at = far.of('job-take').map((asked) => asked.at);
  expect(at[1]! - at[0]!).toBeGreaterThan(170);
  expect(at[2]! - at[1]!).toBeGreaterThan(360);
  expect(at[4]! - at[3]!).toBeLessThan(700); // the fourth fault in a row would be at least 1500
});

test('a server that always answers at once is not hammered, whatever it says', async () => {
  const answers = {
    204: status(204),
    400: status(400),
    'an empty answer': status(200),
    'a job without id': json({ input: {} }),
    'no JSON': status(200, '<html>'),
    500: status(500),
  };
  const asked = Object.entries(answers).map(async ([name, answer]) => {
    const far = await farQueue({ 'job-take': answer });
    worker(() => 1, far.env);
    await far.until(1, 'job-take');
    await delay(500);
    const count = far.of('job-take').length;
    await far.until(2, 'job-take'); // it is asked again
    return { name, hammered: count >= 10 };
  });
  expect(await Promise.all(asked)).toEqual(Object.keys(answers).map((name) => ({ name, hammered: false })));
});

test('a server that gives the same job again and again is not hammered', async () => {
  const far = await farQueue({ 'job-take': json({ id: 'a', input: {} }) });
  const held = gate();
  const handle = vi.fn<Handle>(() => held.opens);
  worker(handle, far.env, { concurrency: 2 });
  await far.until(1, 'job-take');
  await delay(500);
  expect(far.of('job-take').length).toBeLessThan(10);
  expect(handle).toHaveBeenCalledOnce();
  held.open();
});

test('a server that answers when it was held is asked again at once', async () => {
  const late: Answer = (response) => void setTimeout(() => response.writeHead(204).end(), 120);
  const far = await farQueue({ 'job-take': inTurn(late, hold) });
  worker(() => 1, far.env);
  await far.until(2, 'job-take');
  const [first, second] = far.of('job-take');
  expect(second!.at - first!.at).toBeLessThan(120 + 180); // less than the wait after a quick answer
});

test('429 quiets the worker for seconds; it ends promptly all the same', async () => {
  const far = await farQueue({ 'job-take': status(429) });
  const { stop } = worker(() => 1, far.env);
  await far.until(1, 'job-take');
  await delay(500);
  expect(far.of('job-take')).toHaveLength(1);
  const start = performance.now();
  await stop();
  expect(performance.now() - start).toBeLessThan(SECOND);
});

test('a poll that nobody answers is asked again after its time, garbage collected or not', async () => {
  const real = setTimeout;
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((call: () => void, ms?: number, ...rest: []) =>
    real(call, ms === 90 * SECOND ? 200 : ms, ...rest)) as typeof setTimeout);
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const far = await farQueue({ 'job-take': inTurn(hold, jobs('a')) });
  const { happened } = worker(() => 1, far.env);
  await far.until(1, 'job-take');
  for (let i = 0; i < 3; i++) {
    collect();
    await delay(20);
  }
  await far.until(1, 'job-done', 'a');
  expect(happened('take failed')).toEqual([]);
});

// Stopping jobs.

test('a stopped job is aborted, nothing is posted for it, and the next is taken', async () => {
  const running = gate();
  const far = await farQueue({
    'job-take': jobs('a', 'b'),
    'job-stop': inTurn((response) => {
      void running.opens.then(() => response.end('{"jobsToStop":["other",7,"a"]}'));
    }, hold),
  });
  const reasons: unknown[] = [];
  const { happened } = worker(async ({ id }, { signal, progress }) => {
    if (id === 'b') return 'b';
    running.open();
    await untilAborted(signal).catch((reason) => reasons.push(reason));
    progress('late');
    return 'ignored the signal';
  }, far.env);
  await far.until(1, 'job-done', 'b');
  expect(reasons).toMatchObject([{ name: 'AbortError', message: 'RunPod stopped the job' }]);
  expect(far.posted('a').filter((body) => body.status !== 'IN_PROGRESS')).toEqual([]);
  expect(happened('job stopped')).toMatchObject([{ jobId: 'a' }]);
});

test('of two jobs only the one to stop is aborted', async () => {
  const stop = gate();
  const far = await farQueue({
    'job-take': jobs('a', 'b'),
    'job-stop': inTurn((response) => void stop.opens.then(() => response.end('{"jobsToStop":["a"]}')), hold),
  });
  const done = gate();
  const { happened } = worker(
    async ({ id }, { signal }) => {
      if (id === 'b') stop.open();
      await Promise.race([untilAborted(signal), done.opens]);
      return signal.aborted;
    },
    far.env,
    { concurrency: 2 },
  );
  await vi.waitFor(() => expect(happened('job stopped')).toMatchObject([{ jobId: 'a' }]), SOON);
  done.open();
  await far.until(1, 'job-done', 'b');
  expect(far.posted()).toEqual([{ output: false }]);
});

test('a server that always answers a stop poll at once is not hammered, whatever it says', async () => {
  const answers = {
    204: status(204),
    500: status(500),
    'no JSON': status(200, '<html>'),
    null: json(null),
    'no list': json({ jobsToStop: 'a' }),
    'a reset': reset,
    'the same job again and again': json({ jobsToStop: ['a'] }),
  };
  const done = gate();
  const asked = Object.entries(answers).map(async ([name, answer]) => {
    const far = await farQueue({ 'job-take': jobs('a'), 'job-stop': answer });
    worker(() => done.opens, far.env); // deaf to its signal
    await far.until(2, 'job-stop'); // the job is in hand by then
    await delay(500);
    return { name, hammered: far.of('job-stop').length >= 5 };
  });
  const seen = await Promise.all(asked);
  done.open();
  expect(seen).toEqual(Object.keys(answers).map((name) => ({ name, hammered: false })));
});

test('an address without job-take has no stop poll', async () => {
  const far = await farQueue({ ping: hold });
  const RUNPOD_WEBHOOK_GET_JOB = far.env.RUNPOD_WEBHOOK_GET_JOB.replace('job-take', 'ping'); // any other word
  worker(() => 1, { ...far.env, RUNPOD_WEBHOOK_GET_JOB });
  await far.until(1, 'ping');
  await delay(50);
  expect(far.of('job-stop')).toEqual([]);
  expect(far.of('ping')).toHaveLength(1); // the held poll for a job
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
  const ended = serve(() => 1, { env: far.env });
  await far.until(1, 'job-take');
  listeners.get(name)!();
  await ended;
  expect(exit).not.toHaveBeenCalled();
  listeners.get(name)!();
  expect(exit).toHaveBeenCalledExactlyOnceWith(1);
});

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
  cleanups.push(async () => void (await far.terminate()));
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

// Streams.

const chunks = (far: Awaited<ReturnType<typeof farQueue>>) => far.of('job-stream').map(({ text }) => JSON.parse(text));

test('an async generator’s values are sent as chunks in order, then the end', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  worker(async function* () {
    yield { part: 1 };
    yield 'two';
    yield null;
  }, withStream(far.env));
  await far.until(1, 'job-done');
  expect(chunks(far)).toEqual([{ output: { part: 1 } }, { output: 'two' }, { output: null }]);
  for (const { url, id } of far.of('job-stream'))
    expect([url.searchParams.get('isStream'), id]).toEqual(['false', 'a']);
  expect(far.posted('a')).toEqual([{ output: [] }]);
  expect(far.of('job-done')[0]!.url.searchParams.get('isStream')).toBe('true');
});

test('chunks are also the output if they are to be gathered', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  const handle = async function* () {
    yield 1;
    yield { two: 2 };
  };
  worker(handle, withStream(far.env), { aggregateStream: true });
  await far.until(1, 'job-done');
  expect(chunks(far)).toHaveLength(2);
  expect(far.posted('a')).toEqual([{ output: [1, { two: 2 }] }]);
});

test('where the queue takes no chunks they are the output', async () => {
  const far = await farQueue({ 'job-take': jobs('a') });
  worker(async function* () {
    yield 1;
    yield 2;
  }, far.env);
  await far.until(1, 'job-done');
  expect(far.posted('a')).toEqual([{ output: [1, 2] }]);
});

test('a generator goes on when its chunk has been accepted, however often that takes', async () => {
  let asked = 0;
  const far = await farQueue({
    'job-take': jobs('a'),
    'job-stream': inTurn(
      status(500),
      reset,
      (response) => {
        expect(asked).toBe(1); // nothing more was asked of the generator meanwhile
        response.end('{}');
      },
      json({}),
    ),
  });
  worker(async function* () {
    for (; asked < 2; ) yield ++asked;
  }, withStream(far.env));
  await far.until(1, 'job-done');
  expect(chunks(far).map(({ output }) => output)).toEqual([1, 1, 1, 2]);
});

test.each<[string, () => AsyncGenerator<unknown>, object]>([
  [
    'that throws',
    async function* () {
      yield 1;
      throw new RangeError('no more');
    },
    { error: expect.stringContaining('"error_message":"no more"') },
  ],
  [
    'with a chunk that is an error',
    async function* () {
      yield 1;
      yield { error: { code: 'bad' } };
      yield 2;
    },
    { error: '{"code":"bad"}' },
  ],
  [
    'with a chunk that is too large',
    async function* () {
      yield 1;
      yield 'x'.repeat(1_000_001);
    },
    { error: expect.stringContaining('a chunk has 1.0 MB, and RunPod takes at most 1') },
  ],
])('a generator %s fails its job, and what came before stays sent', async (_, handle, body) => {
  const far = await farQueue({ 'job-take': jobs('a') });
  worker(handle, withStream(far.env));
  await far.until(1, 'job-done');
  expect(chunks(far)).toEqual([{ output: 1 }]);
  expect(far.posted('a')).toEqual([body]);
});

test('a chunk that is refused for good fails the job', async () => {
  const far = await farQueue({ 'job-take': jobs('a'), 'job-stream': status(404) });
  worker(async function* () {
    yield 1;
    yield 2;
  }, withStream(far.env));
  await far.until(1, 'job-done');
  expect(chunks(far)).toHaveLength(1);
  expect(far.posted('a')[0].error).toContain('could not be delivered');
});

test('a job that is stopped ends its generator, and nothing is posted', async () => {
  const [running, ended] = [gate(), gate()];
  const stop: Answer = (response) => void running.opens.then(() => response.end('{"jobsToStop":["a"]}'));
  const far = await farQueue({ 'job-take': jobs('a'), 'job-stop': inTurn(stop, hold) });
  const { happened } = worker(async function* (_, { signal }) {
    try {
      running.open();
      await once(signal, 'abort');
      yield 1;
    } finally {
      ended.open();
    }
  }, withStream(far.env));
  await ended.opens;
  await vi.waitFor(() => expect(happened('job stopped')).toHaveLength(1), SOON);
  expect([far.of('job-stream'), far.of('job-done')]).toEqual([[], []]);
});

// Size.

test.each([
  ['job', 10],
  ['sync-job', 20],
])('an output that is too large for the job %s is an error that says so', async (id, megabytes) => {
  const far = await farQueue({ 'job-take': jobs(id, `${id}-2`) });
  let size = megabytes * 1e6 - 15;
  worker(() => {
    const output = 'x'.repeat(size);
    size += 20;
    return output;
  }, far.env);
  await far.until(2, 'job-done');
  expect(far.posted(id)[0].output).toHaveLength(megabytes * 1e6 - 15);
  expect(far.posted(`${id}-2`)[0].error).toContain(`and RunPod takes at most ${megabytes}`);
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
