import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { DAY, MINUTE, SECOND } from '../../core/time.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { openStore } from '../store/store.ts';

let service: TestService;
beforeEach(async () => {
  service = await testService({ TASK_DEADLINE_SECONDS: '7200' });
});
afterEach(() => service.close());

const create = async (body: object = { prompt: 'x' }) => (await (await service.post(body)).json()).id as string;
const ended = ({ status }: { status: string }) => ['succeeded', 'failed', 'canceled'].includes(status);
const jobs = () => {
  const { inQueue, inProgress, completed, failed } = service.queue.health().jobs;
  return inQueue + inProgress + completed + failed;
};

describe('a task ends as its job ends', () => {
  test.each([
    [
      { error: JSON.stringify({ code: 'banned_prompt', message: 'no', retryable: false }) },
      'failed',
      { code: 'banned_prompt', message: 'no', retryable: false },
    ],
    [
      { error: 'Traceback: …/secret/path' },
      'failed',
      { code: 'internal', message: 'the worker failed', retryable: true },
    ],
    [{ output: { surprise: true } }, 'failed', expect.objectContaining({ code: 'internal' })],
    [{ output: null }, 'failed', expect.objectContaining({ code: 'internal' })],
  ])('%j', async (message, status, error) => {
    const id = await create();
    const job = await service.take(id);
    service.report(job.id, message);
    const task = await service.until(id, ended);
    expect(task).toMatchObject({ status, error });
    expect(task.finished_at).toBeDefined();
  });

  test('a result with files outside the task’s folder fails the task', async () => {
    const id = await create();
    const job = await service.take(id);
    const output = await service.finish(id, job.id);
    output.videos[0]!.key = 'tasks/another/video-1.mp4';
    await service.bucket.put(`tasks/${id}/result.json`, JSON.stringify({ output }));
    service.report(job.id, { output });
    expect(await service.until(id, ended)).toMatchObject({ status: 'failed', error: { code: 'internal' } });
  });

  test('a job that was canceled at RunPod cancels the task', async () => {
    const id = await create();
    const job = await service.take(id);
    service.queue.cancel(service.queue.find(job.id)!);
    expect(await service.until(id, ended)).toMatchObject({ status: 'canceled' });
  });

  test('a job that exceeds its execution timeout fails the task', async () => {
    await service.close();
    service = await testService({ TASK_DEADLINE_SECONDS: '7200' }, {}, { isQueueLocal: false });
    const id = await create();
    await service.take(id);
    service.clock.ahead += 40 * MINUTE;
    expect(await service.until(id, ended)).toMatchObject({ status: 'failed', error: { code: 'timeout' } });
  });
});

describe('a task whose result is in the bucket succeeds although', () => {
  /** What RunPod says about the job, instead of its output. */
  const shown = (job: object) => {
    service.faults.runpod = (request) => (request.url.includes('/status/') ? Response.json(job) : undefined);
  };

  test.each([
    ['its job is COMPLETED without output', { status: 'COMPLETED' }],
    ['its job is COMPLETED with another output', { status: 'COMPLETED', output: 'ok' }],
    ['its job FAILED', { status: 'FAILED', error: 'exit code 137' }],
    ['its job FAILED with an error of the worker', { status: 'FAILED', error: '{"code":"internal","message":"x"}' }],
    ['its job TIMED_OUT', { status: 'TIMED_OUT' }],
    ['its job was CANCELLED', { status: 'CANCELLED' }],
  ])('%s', async (_name, job) => {
    const id = await create();
    const { id: jobId } = await service.take(id);
    const output = await service.finish(id, jobId);
    shown({ id: jobId, ...job });
    service.report(jobId, { output }); // RunPod calls back
    const task = await service.until(id, ended);
    expect(task).toMatchObject({ status: 'succeeded', videos: [{ frames: 14 }] });
    expect(task).not.toHaveProperty('error');
  });

  test('its deadline has passed', async () => {
    const id = await create();
    const job = await service.take(id);
    await service.finish(id, job.id);
    service.clock.ahead += 7201 * SECOND;
    service.lifecycle.dispatch();
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
  });
});

describe('a task that nobody watched', () => {
  /** A task that ended half a minute after its creation; its job began after `begun` seconds, by its worker's clock. */
  async function endedUnwatched(begun: number, messageOf: (usage: object, output: object) => object) {
    service.faults.runpod = (request) =>
      request.url.includes('/status/') ? new Response('down', { status: 503 }) : undefined; // or the API may see the job begin
    const id = await create();
    const job = await service.take(id);
    const output = await service.finish(id, job.id);
    const { created_at } = (await service.store.get(id))!;
    service.clock.ahead += 30 * SECOND;
    delete service.faults.runpod;
    service.report(job.id, messageOf({ started_at: created_at + begun * SECOND, gpu_ms: 1 }, output));
    const { started_at, finished_at } = await service.until(id, ended);
    return [started_at, finished_at].map((time) => (Date.parse(time!) - created_at) / SECOND) as [number, number];
  }

  test('started when its worker says, if it succeeds', async () => {
    const [started, finished] = await endedUnwatched(7, (usage, output) => ({ output: { ...output, usage } }));
    expect(started).toBe(7);
    expect(finished).toBeGreaterThanOrEqual(30);
  });

  test('started when its worker says, if it fails', async () => {
    const error = { code: 'out_of_memory', message: 'x', retryable: false };
    vi.spyOn(service.bucket, 'create').mockResolvedValue(true); // there is no result
    const [started] = await endedUnwatched(7, (usage) => ({ error: JSON.stringify({ ...error, usage }) }));
    expect(started).toBe(7);
  });

  test('did not start before its creation or after its end, also with a wrong clock of its worker', async () => {
    const [early] = await endedUnwatched(-3600, (usage, output) => ({ output: { ...output, usage } }));
    const [late, finished] = await endedUnwatched(3600, (usage, output) => ({ output: { ...output, usage } }));
    expect([early, late]).toEqual([0, finished]);
  });
});

test('a failed job’s error in the bucket counts where RunPod has none, but not against a cancellation', async () => {
  const error = { code: 'invalid_input', message: 'too large', retryable: false };
  for (const [status, expected] of [
    ['FAILED', { status: 'failed', error }],
    ['CANCELLED', { status: 'canceled' }],
  ] as const) {
    const id = await create();
    const job = await service.take(id);
    await service.bucket.create(`tasks/${id}/result.json`, JSON.stringify({ error }));
    service.faults.runpod = (request) =>
      request.url.includes('/status/') ? Response.json({ id: job.id, status }) : undefined;
    service.report(job.id, { error: 'x' });
    expect(await service.until(id, ended)).toMatchObject(expected);
    delete service.faults.runpod;
  }
});

test('the largest task gets a job that may run for a week, the most that RunPod allows', async () => {
  await service.close();
  service = await testService({ MODEL: 'svd' }, {}, { isQueueLocal: false });
  const id = await create({ prompt: 'x', H: 2048, W: 2048, T: 100, num_cols: 10, steps: 1000 });
  const job = await service.take(id); // the simulator refuses longer times
  expect(service.queue.find(job.id)!.executionTimeout).toBe(7 * DAY);
});

describe('while RunPod is unreachable', () => {
  test('a task is accepted, and is submitted when RunPod is back', async () => {
    service.faults.runpod = () => new Response('down', { status: 503 });
    const id = await create();
    await service.until(id, () => service.clock.ahead++ > 20);
    expect(jobs()).toBe(0);
    delete service.faults.runpod;
    service.clock.ahead += 2 * MINUTE;
    const job = await service.take(id);
    expect(job.input.task_id).toBe(id);
    service.report(job.id, { output: await service.finish(id, job.id) });
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
    expect(jobs()).toBe(1);
  });

  test('one task at a time is submitted, also while the bucket is read first', async () => {
    service.faults.runpod = () => new Response('down', { status: 503 });
    const ids = await Promise.all(Array.from({ length: 4 }, () => create()));
    const failures = async () => (await service.store.getMany(ids)).map((task) => task.failures);
    while ((await failures()).includes(0)) {
      service.clock.ahead += SECOND; // no more, or leases run out before what came of a step is stored
      for (const id of ids) await service.status(id);
    }
    const asking: ((found: undefined) => void)[] = []; // for results that jobs without an answer may have left
    const get = vi.spyOn(service.bucket, 'get');
    get.mockImplementation(() => new Promise((answer) => asking.push(answer)));
    service.clock.ahead += 2 * MINUTE;
    while (asking.length === 0) for (const id of ids) await service.status(id);
    for (let i = 0; i < 40; i++) await service.status(ids[i % 4]!); // time enough for further turns
    get.mockRestore();
    for (const answer of asking) answer(undefined);
    expect(asking).toHaveLength(1);
  });

  test('invalid responses change nothing', async () => {
    const id = await create();
    const job = await service.take(id);
    for (const answer of [
      new Response('{"status":"WHAT"}'),
      new Response('nonsense'),
      new Response('', { status: 202 }),
      new Response('{}', { status: 401 }),
    ]) {
      service.faults.runpod = () => answer.clone();
      service.clock.ahead += MINUTE;
      expect((await service.status(id)).status).not.toBe('failed');
    }
    delete service.faults.runpod;
    service.report(job.id, { output: await service.finish(id, job.id) });
    service.clock.ahead += 2 * MINUTE;
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
  });
});

describe('a job that RunPod does not know any more', () => {
  const forget = () => {
    service.faults.runpod = (request) => (request.method === 'GET' ? new Response('{}', { status: 404 }) : undefined);
  };

  test('is not lost within a minute of its submission', async () => {
    const id = await create();
    const job = await service.take(id);
    forget();
    service.clock.ahead += 50_000;
    await service.status(id);
    await service.until(id, () => true);
    expect(jobs()).toBe(1);
    delete service.faults.runpod;
    service.report(job.id, { output: await service.finish(id, job.id) });
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
  });

  test('ends the task with its result in the bucket', async () => {
    const id = await create();
    const job = await service.take(id);
    await service.finish(id, job.id);
    forget();
    service.clock.ahead += 2 * MINUTE;
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded', videos: [{ frames: 14 }] });
    expect(jobs()).toBe(1);
  });

  test('gets a successor with the progress kept, and the third loss fails the task', async () => {
    const id = await create();
    const first = await service.take(id);
    service.report(first.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.4 } });
    await service.until(id, ({ progress }) => progress === 0.4);
    forget();
    for (const count of [2, 3]) {
      service.clock.ahead += 2 * MINUTE;
      while (jobs() < count) await service.status(id);
      expect(await service.status(id)).toMatchObject({ status: 'running', progress: 0.4 });
    }
    service.clock.ahead += 2 * MINUTE;
    expect(await service.until(id, ended)).toMatchObject({
      status: 'failed',
      error: { code: 'lost', retryable: true },
    });
    expect(jobs()).toBe(3);
  });
});

test('a task fails with `expired` at its deadline', async () => {
  const id = await create();
  service.clock.ahead += 7_201_000;
  expect(await service.until(id, ended)).toMatchObject({ status: 'failed', error: { code: 'expired' } });
});

test('a callback leads to a poll, but its content is not trusted; an unknown token gets 404', async () => {
  const id = await create();
  const { callback_token } = (await service.store.get(id))!;
  const call = (token: string) =>
    fetch(`${service.url}/runpod/callback/${token}`, {
      method: 'POST',
      body: '{"status":"COMPLETED","output":{"videos":[]}}',
    });
  expect((await call('guess')).status).toBe(404);
  expect((await call(callback_token)).status).toBe(200);
  expect((await service.status(id)).status).toBe('queued');

  // Nobody watches this one: only the callback that the queue sends can bring its end so soon.
  const job = await service.take(id);
  const unwatched = await create();
  const second = await service.take(unwatched);
  service.report(second.id, { output: await service.finish(unwatched, second.id) });
  while ((await service.store.get(unwatched))!.status !== 'succeeded')
    await new Promise((resolve) => setImmediate(resolve));
  service.report(job.id, { output: await service.finish(id, job.id) });
  await service.until(id, ended);
});

test('two services can’t share one folder', async () => {
  await expect(openStore(`file:${service.folder}/tasks.db`)).rejects.toThrow(/in use by another process/);
});
