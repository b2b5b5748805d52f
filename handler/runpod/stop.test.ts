import { setTimeout as delay } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import {
  farQueue,
  gate,
  hold,
  inTurn,
  jobs,
  json,
  reset,
  SOON,
  status,
  untilAborted,
  worker,
} from '../../test/support/test-worker.ts';

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
