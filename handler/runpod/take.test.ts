import { setTimeout as delay } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import {
  type Answer,
  after,
  environment,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  reset,
  scriptedQueue,
  shortenTimer,
  startWorker,
  status,
  truncated,
  withPings,
} from '../../test/support/test-worker.ts';
import { type Handler, serve } from './index.ts';

// Invalid answers.

test.each([
  ['a job without id', json({ input: {} })],
  ['a job whose id is a number', json({ id: 1, input: {} })],
  ['a list without valid jobs', json([1, null, 'x', { input: {} }])],
  ['{}', json({})],
  ['null', json(null)],
  ['invalid JSON', status(200, '<html>')],
  ['401', status(401)],
  ['500', status(500)],
  ['a connection reset', reset],
  ['an answer cut off', truncated],
])('after a take with %s the worker pauses and goes on', async (_, fault) => {
  const queue = await scriptedQueue({ 'job-take': inTurn(fault, jobs('good')) });
  const { logged } = startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-done');
  expect(queue.requests('job-done').map(({ id }) => id)).toEqual(['good']);
  const [first, second] = queue.requests('job-take');
  expect(second!.at - first!.at).toBeGreaterThan(170);
  expect(logged('take failed')).toHaveLength(1);
});

test.each([
  ['has none', { id: 'bad' }],
  ['is null', { id: 'bad', input: null }],
])('a job whose input %s fails at once, and pings name it until the failure has been accepted', async (_, bad) => {
  const accepted = gate();
  const queue = await scriptedQueue({
    'job-take': inTurn(json(bad), jobs('good')),
    'job-done': inTurn(after(accepted.opened), json({})),
  });
  startWorker(() => 1, withPings(queue.env));
  await queue.waitFor(1, 'job-done');
  expect(await queue.pingedJobs()).toBe('bad');
  accepted.open();
  await queue.waitFor(2, 'job-done');
  expect(JSON.parse(queue.posted('bad')[0].error)).toMatchObject({ error_message: 'the job has no input' });
  expect(queue.posted('good')).toEqual([{ output: 1 }]);
});

// Several jobs at once.

test('the worker asks for as many jobs as slots are free', async () => {
  const three = ['a', 'b', 'c'].map((id) => ({ id, input: {} }));
  const queue = await scriptedQueue({ 'job-take': inTurn(json(three), hold) });
  const doors = { a: gate(), b: gate(), c: gate() };
  startWorker(({ id }) => doors[id as 'a'].opened, queue.env, { concurrency: 4 });
  await queue.waitFor(2, 'job-take');
  expect(queue.requests('job-take').map(({ path }) => path)).toEqual([
    'job-take-batch/pod1?gpu=NVIDIA+L4&batch_size=4&job_in_progress=0',
    'job-take/pod1?gpu=NVIDIA+L4&job_in_progress=1',
  ]);
  for (const { open } of Object.values(doors)) open();
  await queue.waitFor(3, 'job-done');
});

test('of a list, valid jobs run, one without input fails, and an active one is not run again', async () => {
  const list = [{ id: 'a', input: 1 }, { id: 'bad' }, { input: 1 }, 7, { id: 'b', input: 2 }];
  const queue = await scriptedQueue({ 'job-take': inTurn(json([list[0]]), json(list), hold) });
  const done = gate();
  const handle = vi.fn<Handler>(() => done.opened);
  const { logged } = startWorker(handle, queue.env, { concurrency: 5 });
  await queue.waitFor(3, 'job-take');
  expect(handle.mock.calls.map(([{ id }]) => id)).toEqual(['a', 'b']);
  expect(logged('job given twice')).toMatchObject([{ jobId: 'a' }]);
  expect(logged('take failed')).toHaveLength(1);
  done.open();
  await queue.waitFor(3, 'job-done');
  expect(queue.requests('job-done').map(({ id }) => id)).toEqual(expect.arrayContaining(['a', 'b', 'bad']));
});

test('an empty list means no job, and is not an error', async () => {
  const queue = await scriptedQueue({ 'job-take': inTurn(json([]), jobs('a')) });
  const { logged } = startWorker(() => 1, queue.env, { concurrency: 2 });
  await queue.waitFor(1, 'job-done');
  expect(logged('take failed')).toEqual([]);
});

test.each([0, -1, 1.5, Number.NaN])('concurrency %d is refused', async (concurrency) => {
  const env = environment('http://127.0.0.1:1');
  await expect(serve(() => null, { env, concurrency, argv: [] })).rejects.toThrow('concurrency must be a whole number');
});

// Answers without a job, and pauses.

test.each([204, 400, 200])('%i without a body means no job, and is not an error', async (code) => {
  const queue = await scriptedQueue({ 'job-take': inTurn(status(code), jobs('a')) });
  const { logged } = startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-done');
  expect(logged('take failed')).toEqual([]);
});

test('pauses grow with each failed take, and are short again after a job', async () => {
  const queue = await scriptedQueue({ 'job-take': inTurn(status(500), status(500), jobs('a'), status(500), hold) });
  startWorker(() => 1, queue.env);
  await queue.waitFor(5, 'job-take');
  const at = queue.requests('job-take').map((request) => request.at);
  expect(at[1]! - at[0]!).toBeGreaterThan(170);
  expect(at[2]! - at[1]!).toBeGreaterThan(360);
  expect(at[4]! - at[3]!).toBeLessThan(700); // a fourth failure in a row would be at least 1500
});

test('a server that answers takes at once is not overloaded by any answer', async () => {
  const answers = {
    204: status(204),
    400: status(400),
    'an empty answer': status(200),
    'a job without id': json({ input: {} }),
    'invalid JSON': status(200, '<html>'),
    500: status(500),
  };
  const runs = Object.entries(answers).map(async ([name, answer]) => {
    const queue = await scriptedQueue({ 'job-take': answer });
    startWorker(() => 1, queue.env);
    await queue.waitFor(1, 'job-take');
    await delay(500);
    const count = queue.requests('job-take').length;
    await queue.waitFor(2, 'job-take'); // it asks again
    return { name, overloaded: count >= 10 };
  });
  expect(await Promise.all(runs)).toEqual(Object.keys(answers).map((name) => ({ name, overloaded: false })));
});

test('a server that always gives the same job is not overloaded', async () => {
  const queue = await scriptedQueue({ 'job-take': json({ id: 'a', input: {} }) });
  const held = gate();
  const handle = vi.fn<Handler>(() => held.opened);
  startWorker(handle, queue.env, { concurrency: 2 });
  await queue.waitFor(1, 'job-take');
  await delay(500);
  expect(queue.requests('job-take').length).toBeLessThan(10);
  expect(handle).toHaveBeenCalledOnce();
  held.open();
});

test('after a held poll without a job the worker asks again at once', async () => {
  vi.spyOn(Math, 'random').mockReturnValue(1000); // the pause after a quick answer would be two minutes
  const late: Answer = (response) => void setTimeout(() => response.writeHead(204).end(), 120);
  const queue = await scriptedQueue({ 'job-take': inTurn(late, hold) });
  startWorker(() => 1, queue.env);
  await queue.waitFor(2, 'job-take');
});

test('after 429 the worker pauses for seconds, but still ends promptly', async () => {
  const queue = await scriptedQueue({ 'job-take': status(429) });
  const { stop } = startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-take');
  await delay(500);
  expect(queue.requests('job-take')).toHaveLength(1);
  const start = performance.now();
  await stop();
  expect(performance.now() - start).toBeLessThan(4 * SECOND); // of the pause of 5 s
});

test('a poll without an answer is repeated after its timeout, also after garbage collection', async () => {
  shortenTimer(90 * SECOND, 200);
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const queue = await scriptedQueue({ 'job-take': inTurn(hold, jobs('a')) });
  const { logged } = startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-take');
  for (let i = 0; i < 3; i++) {
    collect();
    await delay(20);
  }
  await queue.waitFor(1, 'job-done', 'a');
  expect(logged('take failed')).toEqual([]);
});
