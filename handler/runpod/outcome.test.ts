import { expect, test, vi } from 'vitest';
import {
  environment,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  KEY,
  type RecordedRequest,
  SOON,
  scriptedQueue,
  startWorker,
  withPings,
} from '../../test/support/test-worker.ts';
import { type Handler, serve } from './index.ts';

// Requests.

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
])('the body of job-done for the return value %j', async (value, body) => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  startWorker(() => value, queue.env);
  await queue.waitFor(1, 'job-done');
  expect(queue.posted()).toEqual([body]);
});

test('the request of an outcome is that of RunPod’s Python worker', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('job-1') });
  startWorker(async () => ({ echo: 'héllo' }), queue.env);
  await queue.waitFor(1, 'job-done');
  const [{ path, headers, text }] = queue.requests('job-done') as [RecordedRequest];
  expect(path).toBe('job-done/pod1/job-1?gpu=NVIDIA+L4&isStream=false');
  expect(text).toBe('{"output":{"echo":"héllo"}}');
  expect(headers).toMatchObject({
    authorization: KEY,
    charset: 'utf-8',
    'content-type': 'application/x-www-form-urlencoded',
    'x-request-id': 'job-1',
  });
});

test('the requests for jobs are those of RunPod’s Python worker, and the handler gets all fields', async () => {
  const job = { id: 'job-1', input: [1], webhook: 'http://x', batchId: 'b', delayTime: 3 };
  const queue = await scriptedQueue({ 'job-take': inTurn(json(job), hold) });
  const handle = vi.fn<Handler>(() => null);
  startWorker(handle, queue.env);
  await queue.waitFor(2, 'job-take');
  await queue.waitFor(1, 'job-stop');
  const [take] = queue.requests('job-take') as [RecordedRequest];
  expect(take.path).toBe('job-take/pod1?gpu=NVIDIA+L4&job_in_progress=0');
  expect(take.headers).toMatchObject({ authorization: KEY, 'content-type': 'application/json' });
  const [stop] = queue.requests('job-stop') as [RecordedRequest];
  expect(stop.path).toBe('job-stop/pod1?gpu=NVIDIA+L4');
  expect(stop.headers).toMatchObject({ authorization: KEY });
  expect(handle).toHaveBeenCalledExactlyOnceWith(job, expect.anything());
});

test.each([
  ['$ID', 'pod1?job_in_progress=0'],
  ['$RUNPOD_POD_ID', 'pod1?job_in_progress=0'],
  ['$RUNPOD_POD_ID?', 'pod1?job_in_progress=0'],
  ['$RUNPOD_POD_ID?worker=$ID', 'pod1?worker=pod1&job_in_progress=0'],
])('the placeholders of RunPod’s URLs are replaced: job-take/%s', async (template, expected) => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const RUNPOD_WEBHOOK_GET_JOB = queue.env.RUNPOD_WEBHOOK_GET_JOB.replace(/job-take.*/, () => `job-take/${template}`);
  const RUNPOD_WEBHOOK_POST_OUTPUT = queue.env.RUNPOD_WEBHOOK_POST_OUTPUT.replace(/\?.*/, '?');
  const pings = withPings(queue.env);
  const RUNPOD_WEBHOOK_PING = `${pings.RUNPOD_WEBHOOK_PING}?`;
  const held = gate();
  startWorker(() => held.opened, { ...pings, RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT, RUNPOD_WEBHOOK_PING });
  await queue.waitFor(3, 'ping');
  held.open();
  await queue.waitFor(1, 'job-done');
  expect(queue.requests('job-take')[0]!.path).toBe(`job-take/${expected}`);
  expect(queue.requests('job-done')[0]!.path).toBe('job-done/pod1/a?isStream=false');
  expect(queue.requests('ping').at(-1)!.path).toBe('ping/pod1?job_id=a');
  expect(queue.requests('job-stop')[0]!.path).toBe(`job-stop/${expected.replace(/.job_in_progress=0/, '')}`);
});

test('without RUNPOD_POD_ID the worker makes an id and uses it everywhere', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const { RUNPOD_POD_ID: _, ...env } = queue.env;
  startWorker(() => 1, env);
  await queue.waitFor(1, 'job-done');
  const [{ worker }] = queue.requests('job-take') as [RecordedRequest];
  expect(worker).toMatch(/^[0-9a-f-]{36}$/);
  expect(queue.requests('job-done')[0]!.path).toBe(`job-done/${worker}/a?gpu=NVIDIA+L4&isStream=false`);
});

test('without RUNPOD_WEBHOOK_POST_OUTPUT serve throws', async () => {
  const env = { ...environment('http://127.0.0.1:1'), RUNPOD_WEBHOOK_POST_OUTPUT: undefined };
  const { signal } = new AbortController();
  await expect(serve(() => null, { env, signal })).rejects.toThrow('RUNPOD_WEBHOOK_POST_OUTPUT is not set');
});

// Errors, and values that cannot be serialized.

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
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b') });
  startWorker(({ id }) => {
    if (id === 'a') throw error;
  }, queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.posted('a')).toEqual([{ error: expect.any(String) }]);
  expect(JSON.parse(queue.posted('a')[0].error)).toEqual({
    error_type: type,
    error_message: expect.stringContaining(message),
    error_traceback: expect.stringMatching(/(job|outcome.test)\.ts:\d/),
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
    'a value whose toJSON throws',
    {
      deep: {
        toJSON() {
          throw new Error('not me');
        },
      },
    },
    'not me',
  ],
])('an outcome that cannot be serialized fails the job: %s', async (_, value, message) => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b') });
  startWorker(({ id }) => (id === 'a' ? value : 'fine'), queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.posted('a')).toEqual([{ error: expect.stringContaining(message) }]);
  expect(queue.posted('b')).toEqual([{ output: 'fine' }]);
});

test('progress that cannot be serialized is logged, and the job goes on', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const { logged } = startWorker(async (_, { progress }) => {
    progress(1n);
    await vi.waitFor(() => expect(logged('progress not sent')).toHaveLength(1), SOON);
    progress(2);
    await queue.waitFor(1, 'job-done');
    return 'end';
  }, queue.env);
  await queue.waitFor(2, 'job-done');
  expect(queue.posted()).toEqual([{ status: 'IN_PROGRESS', output: 2 }, { output: 'end' }]);
});

// Size.

test.each([
  ['job', 10],
  ['sync-job', 20],
])('an output above the maximum size of the job %s is an error with its size', async (id, megabytes) => {
  const queue = await scriptedQueue({ 'job-take': jobs(id, `${id}-2`) });
  let size = megabytes * 1e6 - 15;
  startWorker(() => {
    const output = 'x'.repeat(size);
    size += 20;
    return output;
  }, queue.env);
  await queue.waitFor(2, 'job-done');
  expect(queue.posted(id)[0].output).toHaveLength(megabytes * 1e6 - 15);
  expect(queue.posted(`${id}-2`)[0].error).toContain(`and RunPod takes at most ${megabytes}`);
});
