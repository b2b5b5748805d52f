import { once } from 'node:events';
import { expect, test, vi } from 'vitest';
import {
  type Answer,
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  reset,
  SOON,
  status,
  withStream,
  worker,
} from '../../test/support/test-worker.ts';

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
