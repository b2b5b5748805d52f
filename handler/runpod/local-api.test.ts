import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import {
  gate,
  SOON,
  scriptedQueue,
  serveUntilTestEnds,
  startWorker,
  untilAborted,
} from '../../test/support/test-worker.ts';
import { type Handler, type ServeOptions, serve } from './index.ts';

// One job.

/** @returns the JSON lines that `serve` prints, its error and its events */
async function testRun(handle: Handler, argv: string[], env: NodeJS.ProcessEnv = {}, options: ServeOptions = {}) {
  const print = vi.spyOn(console, 'log').mockImplementation(() => {});
  const events: { event: string }[] = [];
  const { signal } = new AbortController();
  const ended = serve(handle, { env, argv, signal, log: (event) => events.push(event), ...options });
  const error = await ended.then(
    () => undefined,
    (reason: Error) => reason.message,
  );
  return { printed: print.mock.calls.map(([text]) => JSON.parse(text)), error, events };
}

test.each<[string, Handler, object]>([
  ['a value', ({ id, input }) => ({ id, input }), { output: { id: 'local_test', input: { a: 1 } } }],
  ['nothing', () => undefined, { output: null }],
  ['refresh_worker', () => ({ refresh_worker: true, ok: 1 }), { output: { ok: 1 }, stopPod: true }],
  [
    'a generator',
    async function* () {
      yield 1;
      yield 2;
    },
    { output: [1, 2] },
  ],
])('--test_input runs one job and prints its outcome: %s', async (_, handle, outcome) => {
  const queue = await scriptedQueue();
  const { printed, error } = await testRun(handle, ['--test_input', '{"input":{"a":1}}'], queue.env);
  expect([printed, error]).toEqual([[outcome], undefined]);
  expect(queue.requests('job-take')).toEqual([]); // although the environment has a queue
});

test('a failed job makes serve throw', async () => {
  const returned = await testRun(() => ({ error: 'no' }), ['--test_input={"input":1}']);
  expect(returned).toMatchObject({ printed: [{ error: 'no' }], error: 'the job failed: no' });
  const thrown = await testRun(() => {
    throw new RangeError('boom');
  }, ['--test_input={"input":1}']);
  expect(thrown).toMatchObject({ error: 'boom' });
});

test('progress and chunks are logged, and the job may have an id', async () => {
  const handle: Handler = async function* (job, { progress }) {
    progress({ of: job.id });
    yield 'chunk';
  };
  const { events } = await testRun(handle, ['--test_input', '{"input":1,"id":"mine"}']);
  expect(events).toMatchObject([
    { event: 'progress', jobId: 'mine', value: { of: 'mine' } },
    { event: 'chunk', jobId: 'mine', chunk: 'chunk' },
  ]);
});

test.each([
  ['{', 'not JSON'],
  ['7', 'must be {"input": …}'],
  ['{"inputs":1}', 'must be {"input": …}'],
  ['{"input":null}', 'must be {"input": …}'],
])('--test_input %s is refused', async (text, message) => {
  const handle = vi.fn();
  expect((await testRun(handle, ['--test_input', text])).error).toContain(message);
  expect(handle).not.toHaveBeenCalled();
});

test('without a queue the job is test_input.json; without that file the error explains the flags', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'test-input-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  vi.spyOn(process, 'cwd').mockReturnValue(folder);
  const check = vi.fn(async () => {});
  expect((await testRun(() => 1, [], {}, { fitness: { check } })).error).toMatch(
    /no test_input\.json.*--test_input.*--rp_serve_api/,
  );
  expect(check).not.toHaveBeenCalled(); // it may take minutes
  await writeFile(join(folder, 'test_input.json'), '{"input":{"from":"file"}}');
  expect((await testRun(({ input }) => input, [])).printed).toEqual([{ output: { from: 'file' } }]);
});

test('fitness checks run before the job', async () => {
  const handle = vi.fn();
  const fitness = {
    async gpu() {
      throw new Error('no GPU');
    },
  };
  expect((await testRun(handle, ['--test_input', '{"input":1}'], {}, { fitness })).error).toBe('no GPU');
  expect(handle).not.toHaveBeenCalled();
});

test.each([
  [['--test_input'], '--test_input needs a value'],
  [['--rp_serve_api', '--rp_api_port', 'x'], '--rp_api_port must be a whole number'],
  [['--rp_serve_api', '--rp_api_port', '70000'], '--rp_api_port must be a whole number up to 65535'],
  [['--rp_debugger'], '--rp_debugger is not supported'],
  [['--rp_log_level', 'LOUD', '--test_input', '{"input":1}'], 'RUNPOD_LOG_LEVEL must be one of'],
])('flags %j are refused', async (argv, message) => {
  const ended = serve(() => 1, { env: {}, argv, signal: new AbortController().signal });
  await expect(ended).rejects.toThrow(message);
});

test('--rp_log_level sets the level of the log', async () => {
  const print = vi.spyOn(console, 'log').mockImplementation(() => {});
  const printed = async (level: string) => {
    print.mockClear();
    const argv = ['--rp_log_level', level, '--test_input', '{"input":1,"id":"a"}'];
    const handle: Handler = (_, { progress }) => progress(1);
    await serve(handle, { env: {}, argv, signal: new AbortController().signal });
    return print.mock.calls.map(([text]) => JSON.parse(text));
  };
  const outcome = { output: null };
  expect(await printed('info')).toEqual([{ requestId: 'a', message: 'progress', level: 'INFO', value: 1 }, outcome]);
  expect(await printed('WARN')).toEqual([outcome]);
});

test('flags of the program itself are ignored', async () => {
  expect((await testRun(() => 1, ['--mine', 'x', '--test_input', '{"input":1}', 'y'])).error).toBe(undefined);
});

// Over HTTP.

async function api(handle: Handler, flags: string[] = []) {
  const argv = ['--rp_serve_api', '--rp_api_host', '127.0.0.1', '--rp_api_port', '0', ...flags];
  const { stop, logged } = startWorker(handle, {}, { argv });
  await vi.waitFor(() => expect(logged('serving')).toHaveLength(1), SOON);
  const { url } = logged('serving')[0] as unknown as { url: string };
  const ask = async (method: string, path: string, body?: unknown) => {
    const response = await fetch(url + path, {
      method,
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    return { status: response.status, body: await response.json() };
  };
  return { ask, stop };
}

test('/runsync answers with the outcome', async () => {
  const { ask } = await api(({ input }, { progress }) => {
    const { n } = input as { n: number };
    progress('not the outcome');
    if (n < 0) throw new RangeError('negative');
    return n === 0 ? { error: 'zero' } : { square: n * n };
  });
  const run = async (n: number) => (await ask('POST', '/runsync', { input: { n } })).body;
  expect(await run(3)).toEqual({ id: expect.any(String), status: 'COMPLETED', output: { square: 9 } });
  expect(await run(0)).toEqual({ id: expect.any(String), status: 'FAILED', error: 'zero' });
  expect(JSON.parse((await run(-1)).error)).toMatchObject({ error_type: 'RangeError', error_message: 'negative' });
});

test('/run starts a job; GET /status answers at once, POST /status waits for its end', async () => {
  const door = gate();
  const { ask } = await api(async (_, { progress }) => {
    progress({ step: 1 });
    await door.opened;
    return 'end';
  });
  const { body } = await ask('POST', '/run', { input: {} });
  expect(body).toEqual({ id: expect.any(String), status: 'IN_PROGRESS' });
  expect((await ask('GET', `/status/${body.id}`)).body).toMatchObject({ status: 'IN_PROGRESS', output: { step: 1 } });
  const waited = ask('POST', `/status/${body.id}`);
  expect(await Promise.race([waited, delay(100, 'nothing yet')])).toBe('nothing yet');
  door.open();
  expect((await waited).body).toEqual({ id: body.id, status: 'COMPLETED', output: 'end' });
});

test('--rp_api_concurrency limits how many jobs run at once; the others wait', async () => {
  const doors = [gate(), gate(), gate()];
  let started = 0;
  const { ask } = await api(() => doors[started++]!.opened, ['--rp_api_concurrency', '2']);
  const ids: string[] = [];
  for (let i = 0; i < 3; i++) ids.push((await ask('POST', '/run', { input: {} })).body.id);
  const states = () => Promise.all(ids.map(async (id) => (await ask('GET', `/status/${id}`)).body.status));
  expect(await states()).toEqual(['IN_PROGRESS', 'IN_PROGRESS', 'IN_QUEUE']);
  doors[0]!.open();
  await vi.waitFor(async () => expect(await states()).toEqual(['COMPLETED', 'IN_PROGRESS', 'IN_PROGRESS']), SOON);
  for (const { open } of doors) open();
  await ask('POST', `/status/${ids[2]}`);
});

test('/stream gives a generator’s chunks', async () => {
  const { ask } = await api(async function* () {
    yield 1;
    yield { two: 2 };
  });
  const { body } = await ask('POST', '/run', { input: {} });
  expect((await ask('POST', `/stream/${body.id}`)).body).toEqual({
    id: body.id,
    status: 'COMPLETED',
    stream: [{ output: 1 }, { output: { two: 2 } }],
  });
  expect((await ask('GET', `/status/${body.id}`)).body.output).toEqual([1, { two: 2 }]);
});

test('/cancel aborts a job', async () => {
  const { ask } = await api((_, { signal }) => untilAborted(signal));
  const { body } = await ask('POST', '/run', { input: {} });
  expect((await ask('POST', `/cancel/${body.id}`)).body).toEqual({ id: body.id, status: 'CANCELLED' });
  expect((await ask('POST', `/status/${body.id}`)).body).toEqual({ id: body.id, status: 'CANCELLED' });
});

test('the webhook gets the job at its end', async () => {
  const received: unknown[] = [];
  const webhook = await serveUntilTestEnds(async (request, response) => {
    received.push(JSON.parse((await request.setEncoding('utf8').toArray()).join('')));
    response.end();
  });
  const { ask } = await api(() => 'end');
  const { body } = await ask('POST', '/runsync', { input: {}, webhook });
  expect(received).toEqual([body]);
});

test.each([
  ['POST', '/runsync', { input: 'text' }, 422],
  ['POST', '/run', {}, 422],
  ['POST', '/run', [], 422],
  ['POST', '/run', '{', 422],
  ['POST', '/run', `"${'x'.repeat(20_000_001)}"`, 413],
  ['GET', '/run', undefined, 404],
  ['POST', '/other', {}, 404],
  ['GET', '/', undefined, 404],
])('%s %s with an invalid body or path is refused', async (method, path, body, status) => {
  const handle = vi.fn();
  const { ask } = await api(handle);
  expect(await ask(method, path, body)).toMatchObject({ status, body: { detail: expect.any(String) } });
  expect(handle).not.toHaveBeenCalled();
});

test('an unknown job has failed, as with RunPod’s own server', async () => {
  const { ask } = await api(() => 1);
  for (const operation of ['status', 'stream'])
    expect((await ask('POST', `/${operation}/none`)).body).toEqual({
      id: 'none',
      status: 'FAILED',
      error: 'Job ID not found',
    });
});

test('after the signal the server ends when its jobs have ended', async () => {
  const [running, door] = [gate(), gate()];
  const { ask, stop } = await api(async () => {
    running.open();
    await door.opened;
    return 'end';
  });
  const waited = ask('POST', '/runsync', { input: {} });
  await running.opened;
  const stopped = stop();
  door.open();
  expect((await waited).body).toMatchObject({ status: 'COMPLETED', output: 'end' });
  await stopped;
});
