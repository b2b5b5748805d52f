import { expect, test, vi } from 'vitest';
import {
  type Asked,
  environment,
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  KEY,
  SOON,
  withPings,
  worker,
} from '../../test/support/test-worker.ts';
import { type Handle, serve } from './index.ts';

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

test('no worker without RUNPOD_WEBHOOK_POST_OUTPUT', async () => {
  const env = { ...environment('http://127.0.0.1:1'), RUNPOD_WEBHOOK_POST_OUTPUT: undefined };
  const { signal } = new AbortController();
  await expect(serve(() => null, { env, signal })).rejects.toThrow('RUNPOD_WEBHOOK_POST_OUTPUT is not set');
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
