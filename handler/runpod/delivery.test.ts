import { expect, test, vi } from 'vitest';
import { MINUTE, SECOND } from '../../core/time.ts';
import {
  type Answer,
  after,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  reset,
  SOON,
  scriptedQueue,
  shortenTimer,
  startWorker,
  status,
  truncated,
  withPings,
} from '../../test/support/test-worker.ts';
import type { JobContext } from './index.ts';

// Progress.

test('progress is sent one at a time, in order, only the latest value, and the outcome last', async () => {
  const first = gate();
  const queue = await scriptedQueue({
    'job-take': jobs('a'),
    'job-done': inTurn(after(first.opened), json({})),
  });
  startWorker(async (_, { progress }) => {
    for (const n of [1, 2, 3, 4]) progress(n);
    await queue.waitFor(1, 'job-done'); // 1 has come and is not answered yet
    progress(5);
    first.open();
    await queue.waitFor(2, 'job-done');
    return 'end';
  }, queue.env);
  await queue.waitFor(3, 'job-done');
  expect(queue.posted()).toEqual([
    { status: 'IN_PROGRESS', output: 1 },
    { status: 'IN_PROGRESS', output: 5 },
    { output: 'end' },
  ]);
  expect(queue.requests('job-done')[0]!.path).toBe('job-done/pod1/a?gpu=NVIDIA+L4&isStream=false');
  expect(queue.requests('job-done')[0]!.headers['x-request-id']).toBe('a');
});

test('the outcome waits for a progress request in flight, and no progress follows it', async () => {
  let answered = false;
  let late: JobContext['progress'] | undefined;
  const order: string[] = [];
  const queue = await scriptedQueue({
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
  startWorker(async ({ id }, { progress }) => {
    if (id === 'b') {
      late?.('after the outcome');
      return 'b';
    }
    late = progress;
    progress('first');
    progress('dropped');
    return 'a';
  }, queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.posted('a')).toEqual([{ status: 'IN_PROGRESS', output: 'first' }, { output: 'a' }]);
  expect(order[0]).toBe('outcome');
});

test('progress that is not accepted is retried until it is, or until there is newer progress', async () => {
  const queue = await scriptedQueue({
    'job-take': jobs('a'),
    'job-done': inTurn(status(500), reset, json({}), status(429), json({})),
  });
  startWorker(async (_, { progress }) => {
    progress(1);
    await queue.waitFor(3, 'job-done');
    progress(2);
    await queue.waitFor(4, 'job-done');
    progress(3);
    await queue.waitFor(5, 'job-done');
    return 'end';
  }, queue.env);
  await queue.waitFor(6, 'job-done');
  expect(queue.posted().map(({ output }) => output)).toEqual([1, 1, 1, 2, 3, 'end']);
});

test('an outcome does not wait for retries of progress', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), json({})) });
  vi.spyOn(Math, 'random').mockReturnValue(1000); // a retry would come after two minutes
  startWorker(async (_, { progress }) => {
    progress(1);
    await queue.waitFor(1, 'job-done');
    return 'end';
  }, queue.env);
  await queue.waitFor(2, 'job-done');
  expect(queue.posted().map(({ output }) => output)).toEqual([1, 'end']);
});

test('refused progress is dropped, and the next value is sent', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(404), json({})) });
  const { logged } = startWorker(async (_, { progress }) => {
    progress(1);
    await vi.waitFor(() => expect(logged('progress refused')).toHaveLength(1), SOON);
    progress(undefined);
    await queue.waitFor(2, 'job-done');
    return 'end';
  }, queue.env);
  await queue.waitFor(3, 'job-done');
  expect(queue.posted().map(({ output }) => output)).toEqual([1, null, 'end']);
});

// Outcomes.

test('an outcome is retried after 5xx, byte for byte, with growing pauses', async () => {
  const queue = await scriptedQueue({
    'job-take': jobs('a', 'b'),
    'job-done': inTurn(status(500), status(503), status(202)),
  });
  startWorker(() => ({ at: Math.random(), text: 'é' }), queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  const tries = queue.requests('job-done', 'a');
  expect(tries).toHaveLength(3);
  expect(new Set(tries.map(({ text }) => text)).size).toBe(1);
  expect(tries[1]!.at - tries[0]!.at).toBeGreaterThan(170); // 250 ms less a quarter
  expect(tries[2]!.at - tries[1]!.at).toBeGreaterThan(360); // 500 ms less a quarter
});

test.each([
  ['a connection reset', reset],
  ['an answer cut off', truncated],
  ['408', status(408)],
  ['425', status(425)],
  ['429', status(429)],
])('an outcome is retried after %s', async (_, fault) => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b'), 'job-done': inTurn(fault, json({})) });
  startWorker(() => Math.random(), queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  const [first, second, ...more] = queue.requests('job-done', 'a').map(({ text }) => text);
  expect(second).toBe(first);
  expect(more).toEqual([]);
});

test.each([400, 401, 404, 413])('an outcome refused with %i is not retried', async (code) => {
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b'), 'job-done': status(code) });
  const { logged } = startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.requests('job-done', 'a')).toHaveLength(1);
  expect(logged('outcome refused')[0]).toMatchObject({ jobId: 'a', error: `status ${code}` });
});

test('an outcome is retried when no answer comes', async () => {
  shortenTimer(30 * SECOND, 100);
  const queue = await scriptedQueue({ 'job-take': jobs('a', 'b'), 'job-done': inTurn(hold, json({})) });
  startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.requests('job-done', 'a').length).toBeGreaterThan(1);
});

test('after five minutes of retries an outcome is lost and the worker goes on', async () => {
  const now = performance.now.bind(performance);
  let ahead = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => now() + ahead);
  const queue = await scriptedQueue({
    'job-take': jobs('a', 'b'),
    'job-done': inTurn((response) => {
      ahead = 5 * MINUTE;
      response.writeHead(500).end();
    }, json({})),
  });
  const { logged } = startWorker(() => 1, queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.requests('job-done', 'a')).toHaveLength(1);
  expect(logged('outcome lost')).toMatchObject([{ jobId: 'a', error: 'status 500' }]);
});

test('pings name a job until its outcome has been accepted', async () => {
  const accepted = gate();
  const late: Answer = after(accepted.opened);
  const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), late) });
  const { logged } = startWorker(() => 1, withPings(queue.env));
  await queue.waitFor(2, 'job-done'); // it has failed once and is not accepted yet
  expect(await queue.pingedJobs()).toBe('a');
  accepted.open();
  await vi.waitFor(() => expect(logged('job ended')).toHaveLength(1), SOON);
  expect(await queue.pingedJobs()).toBe(null);
});
