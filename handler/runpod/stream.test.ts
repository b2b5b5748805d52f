import { once } from 'node:events';
import { expect, test, vi } from 'vitest';
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
  startWorker,
  status,
  withStream,
} from '../../test/support/test-worker.ts';

const chunks = (queue: Awaited<ReturnType<typeof scriptedQueue>>) =>
  queue.requests('job-stream').map(({ text }) => JSON.parse(text));

test('an async generator’s values are sent as chunks in order, then the end', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  startWorker(async function* () {
    yield { part: 1 };
    yield 'two';
    yield null;
  }, withStream(queue.env));
  await queue.waitFor(1, 'job-done');
  expect(chunks(queue)).toEqual([{ output: { part: 1 } }, { output: 'two' }, { output: null }]);
  for (const { query, id } of queue.requests('job-stream')) expect([query.get('isStream'), id]).toEqual(['false', 'a']);
  expect(queue.posted('a')).toEqual([{ output: [] }]);
  expect(queue.requests('job-done')[0]!.query.get('isStream')).toBe('true');
});

test('with aggregateStream chunks are also the output', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  const handle = async function* () {
    yield 1;
    yield { two: 2 };
  };
  startWorker(handle, withStream(queue.env), { aggregateStream: true });
  await queue.waitFor(1, 'job-done');
  expect(chunks(queue)).toHaveLength(2);
  expect(queue.posted('a')).toEqual([{ output: [1, { two: 2 }] }]);
});

test('without a URL for chunks they are the output', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  startWorker(async function* () {
    yield 1;
    yield 2;
  }, queue.env);
  await queue.waitFor(1, 'job-done');
  expect(queue.posted('a')).toEqual([{ output: [1, 2] }]);
});

test('a generator continues when its chunk has been accepted, after any number of retries', async () => {
  let yielded = 0;
  const queue = await scriptedQueue({
    'job-take': jobs('a'),
    'job-stream': inTurn(
      status(500),
      reset,
      (response) => {
        expect(yielded).toBe(1); // the generator has waited
        response.end('{}');
      },
      json({}),
    ),
  });
  startWorker(async function* () {
    for (; yielded < 2; ) yield ++yielded;
  }, withStream(queue.env));
  await queue.waitFor(1, 'job-done');
  expect(chunks(queue).map(({ output }) => output)).toEqual([1, 1, 1, 2]);
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
])('a generator %s fails its job; earlier chunks stay sent', async (_, handle, body) => {
  const queue = await scriptedQueue({ 'job-take': jobs('a') });
  startWorker(handle, withStream(queue.env));
  await queue.waitFor(1, 'job-done');
  expect(chunks(queue)).toEqual([{ output: 1 }]);
  expect(queue.posted('a')).toEqual([body]);
});

test('a refused chunk fails the job', async () => {
  const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-stream': status(404) });
  startWorker(async function* () {
    yield 1;
    yield 2;
  }, withStream(queue.env));
  await queue.waitFor(1, 'job-done');
  expect(chunks(queue)).toHaveLength(1);
  expect(queue.posted('a')[0].error).toContain('could not be delivered');
});

test('stopping a job ends its generator, and nothing is posted', async () => {
  const [running, ended] = [gate(), gate()];
  const stop: Answer = after(running.opened, status(200, '{"jobsToStop":["a"]}'));
  const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-stop': inTurn(stop, hold) });
  const { logged } = startWorker(async function* (_, { signal }) {
    try {
      running.open();
      await once(signal, 'abort');
      yield 1;
    } finally {
      ended.open();
    }
  }, withStream(queue.env));
  await ended.opened;
  await vi.waitFor(() => expect(logged('job stopped')).toHaveLength(1), SOON);
  expect([queue.requests('job-stream'), queue.requests('job-done')]).toEqual([[], []]);
});
