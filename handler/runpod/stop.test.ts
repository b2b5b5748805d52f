import { setTimeout as delay } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import {
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
  untilAborted,
} from '../../test/support/test-worker.ts';

test('a stopped job is aborted, nothing is posted for it, and the next is taken', async () => {
  const running = gate();
  const queue = await scriptedQueue({
    'job-take': jobs('a', 'b'),
    'job-stop': inTurn(after(running.opened, status(200, '{"jobsToStop":["other",7,"a"]}')), hold),
  });
  const reasons: unknown[] = [];
  const { logged } = startWorker(async ({ id }, { signal, progress }) => {
    if (id === 'b') return 'b';
    running.open();
    await untilAborted(signal).catch((reason) => reasons.push(reason));
    progress('late');
    return 'ignored the signal';
  }, queue.env);
  await queue.waitFor(1, 'job-done', 'b');
  expect(reasons).toMatchObject([{ name: 'AbortError', message: 'RunPod stopped the job' }]);
  expect(queue.posted('a').filter((body) => body.status !== 'IN_PROGRESS')).toEqual([]);
  expect(logged('job stopped')).toMatchObject([{ jobId: 'a' }]);
});

test('of two jobs only the stopped one is aborted', async () => {
  const stop = gate();
  const queue = await scriptedQueue({
    'job-take': jobs('a', 'b'),
    'job-stop': inTurn(after(stop.opened, status(200, '{"jobsToStop":["a"]}')), hold),
  });
  const done = gate();
  const { logged } = startWorker(
    async ({ id }, { signal }) => {
      if (id === 'b') stop.open();
      await Promise.race([untilAborted(signal), done.opened]);
      return signal.aborted;
    },
    queue.env,
    { concurrency: 2 },
  );
  await vi.waitFor(() => expect(logged('job stopped')).toMatchObject([{ jobId: 'a' }]), SOON);
  done.open();
  await queue.waitFor(1, 'job-done', 'b');
  expect(queue.posted()).toEqual([{ output: false }]);
});

test('a server that answers stop polls at once is not overloaded by any answer', async () => {
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
  const runs = Object.entries(answers).map(async ([name, answer]) => {
    const queue = await scriptedQueue({ 'job-take': jobs('a'), 'job-stop': answer });
    startWorker(() => done.opened, queue.env); // ignores its signal
    await queue.waitFor(2, 'job-stop'); // the job is active by then
    await delay(500);
    return { name, overloaded: queue.requests('job-stop').length >= 5 };
  });
  const seen = await Promise.all(runs);
  done.open();
  expect(seen).toEqual(Object.keys(answers).map((name) => ({ name, overloaded: false })));
});

test('a URL without job-take has no stop poll', async () => {
  const queue = await scriptedQueue({ ping: hold });
  const RUNPOD_WEBHOOK_GET_JOB = queue.env.RUNPOD_WEBHOOK_GET_JOB.replace('job-take', 'ping'); // any other operation
  startWorker(() => 1, { ...queue.env, RUNPOD_WEBHOOK_GET_JOB });
  await queue.waitFor(1, 'ping');
  await delay(50);
  expect(queue.requests('job-stop')).toEqual([]);
  expect(queue.requests('ping')).toHaveLength(1); // the held poll for a job
});
