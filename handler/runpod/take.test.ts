import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import {
  type Answer,
  environment,
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  reset,
  status,
  truncated,
  withPings,
  worker,
} from '../../test/support/test-worker.ts';
import { type Handle, serve } from './index.ts';

// Taking.

test.each([
  ['a job without id', json({ input: {} })],
  ['a job whose id is a number', json({ id: 1, input: {} })],
  ['a list of what are no jobs', json([1, null, 'x', { input: {} }])],
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

test.each([
  ['has none', { id: 'bad' }],
  ['is null', { id: 'bad', input: null }],
])('a job whose input %s fails at once, and is named in pings until RunPod knows', async (_, bad) => {
  const accepted = gate();
  const far = await farQueue({
    'job-take': inTurn(json(bad), jobs('good')),
    'job-done': inTurn((response) => void accepted.opens.then(() => response.end()), json({})),
  });
  worker(() => 1, withPings(far.env));
  await far.until(1, 'job-done');
  await far.until(far.of('ping').length + 2, 'ping');
  expect(far.of('ping').at(-1)!.url.searchParams.get('job_id')).toBe('bad');
  accepted.open();
  await far.until(2, 'job-done');
  expect(JSON.parse(far.posted('bad')[0].error)).toMatchObject({ error_message: 'the job has no input' });
  expect(far.posted('good')).toEqual([{ output: 1 }]);
});

// Several jobs at once.

test('with several slots free as many jobs are asked for, with one a single job', async () => {
  const three = ['a', 'b', 'c'].map((id) => ({ id, input: {} }));
  const far = await farQueue({ 'job-take': inTurn(json(three), hold) });
  const doors = { a: gate(), b: gate(), c: gate() };
  worker(({ id }) => doors[id as 'a'].opens, far.env, { concurrency: 4 });
  await far.until(2, 'job-take');
  expect(far.of('job-take').map(({ url }) => url.pathname + url.search)).toEqual([
    '/v2/ep/job-take-batch/pod1?gpu=NVIDIA+L4&batch_size=4&job_in_progress=0',
    '/v2/ep/job-take/pod1?gpu=NVIDIA+L4&job_in_progress=1',
  ]);
  for (const { open } of Object.values(doors)) open();
  await far.until(3, 'job-done');
});

test('of a list each is looked at: the good run, one without input fails, one in hand already goes on once', async () => {
  const list = [{ id: 'a', input: 1 }, { id: 'bad' }, { input: 1 }, 7, { id: 'b', input: 2 }];
  const far = await farQueue({ 'job-take': inTurn(json([list[0]]), json(list), hold) });
  const done = gate();
  const handle = vi.fn<Handle>(() => done.opens);
  const { happened } = worker(handle, far.env, { concurrency: 5 });
  await far.until(3, 'job-take');
  expect(handle.mock.calls.map(([{ id }]) => id)).toEqual(['a', 'b']);
  expect(happened('job given twice')).toMatchObject([{ jobId: 'a' }]);
  expect(happened('take failed')).toHaveLength(1);
  done.open();
  await far.until(3, 'job-done');
  expect(far.of('job-done').map(({ id }) => id)).toEqual(expect.arrayContaining(['a', 'b', 'bad']));
});

test('an empty list means no job, and is no fault', async () => {
  const far = await farQueue({ 'job-take': inTurn(json([]), jobs('a')) });
  const { happened } = worker(() => 1, far.env, { concurrency: 2 });
  await far.until(1, 'job-done');
  expect(happened('take failed')).toEqual([]);
});

test.each([0, -1, 1.5, Number.NaN])('concurrency can’t be %d', async (concurrency) => {
  const env = environment('http://127.0.0.1:1');
  await expect(serve(() => null, { env, concurrency, argv: [] })).rejects.toThrow('concurrency must be a whole number');
});

// Answers without a job.

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
