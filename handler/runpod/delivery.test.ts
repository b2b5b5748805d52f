import { expect, test, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import {
  type Answer,
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  MINUTE,
  reset,
  SOON,
  status,
  truncated,
  withPings,
  worker,
} from '../../test/support/test-worker.ts';
import type { JobTools } from './index.ts';

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

test('progress that is not accepted is sent again until it is, or there is newer progress', async () => {
  const far = await farQueue({
    'job-take': jobs('a'),
    'job-done': inTurn(status(500), reset, json({}), status(429), json({})),
  });
  worker(async (_, { progress }) => {
    progress(1);
    await far.until(3, 'job-done');
    progress(2);
    await far.until(4, 'job-done');
    progress(3);
    await far.until(5, 'job-done');
    return 'end';
  }, far.env);
  await far.until(6, 'job-done');
  expect(far.posted().map(({ output }) => output)).toEqual([1, 1, 1, 2, 3, 'end']);
});

test('an outcome does not wait until progress has been accepted', async () => {
  const far = await farQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), json({})) });
  const start = performance.now();
  worker(async (_, { progress }) => {
    progress(1);
    await far.until(1, 'job-done');
    return 'end';
  }, far.env);
  await far.until(2, 'job-done');
  expect(far.posted().map(({ output }) => output)).toEqual([1, 'end']);
  expect(performance.now() - start).toBeLessThan(2 * SECOND);
});

test('progress that is refused is dropped, and the next is sent', async () => {
  const far = await farQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(404), json({})) });
  const { happened } = worker(async (_, { progress }) => {
    progress(1);
    await vi.waitFor(() => expect(happened('progress refused')).toHaveLength(1), SOON);
    progress(undefined);
    await far.until(2, 'job-done');
    return 'end';
  }, far.env);
  await far.until(3, 'job-done');
  expect(far.posted().map(({ output }) => output)).toEqual([1, null, 'end']);
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
  expect(happened('outcome refused')[0]).toMatchObject({ jobId: 'a', error: `status ${code}` });
});

test('an outcome that nobody answers is sent again', async () => {
  const real = setTimeout;
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((call: () => void, ms?: number, ...rest: []) =>
    real(call, ms === 30 * SECOND ? 100 : ms, ...rest)) as typeof setTimeout);
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
  expect(happened('outcome lost')).toMatchObject([{ jobId: 'a', error: 'status 500' }]);
});

test('pings name a job until its outcome has been accepted', async () => {
  const accepted = gate();
  const late: Answer = (response) => void accepted.opens.then(() => response.end('{}'));
  const far = await farQueue({ 'job-take': jobs('a'), 'job-done': inTurn(status(500), late) });
  const { happened } = worker(() => 1, withPings(far.env));
  await far.until(2, 'job-done'); // it has been refused once and is not accepted yet
  await far.until(far.of('ping').length + 2, 'ping');
  expect(far.of('ping').at(-1)!.url.searchParams.get('job_id')).toBe('a');
  accepted.open();
  await vi.waitFor(() => expect(happened('job ended')).toHaveLength(1), SOON);
  await far.until(far.of('ping').length + 2, 'ping');
  expect(far.of('ping').at(-1)!.url.search).toBe('');
});
