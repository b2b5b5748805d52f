/** What callers end: cancel and delete, and what time deletes. And jobs that a task does not know, or want. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { StorageError } from '../../core/bucket/bucket.ts';
import { bucketFolder } from '../../core/environment.ts';
import { DAY, SECOND } from '../../core/time.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';

let service: TestService;
beforeEach(async () => {
  service = await testService({ TASK_DEADLINE_SECONDS: '7200', RETAIN_DAYS: '2' });
});
afterEach(() => service.close());

const create = async (body: object = { prompt: 'a secret wish' }) =>
  (await (await service.post(body)).json()).id as string;
const ended = ({ status }: { status: string }) => ['succeeded', 'failed', 'canceled'].includes(status);
const call = (path: string) => fetch(`${service.url}${path}`, { method: 'POST' });
const jobStatus = (jobId: string) => service.queue.find(jobId)?.status;

/** Waits until it is so. */
async function when(isSo: () => unknown) {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** A task whose job is in progress, and known to be. */
async function running() {
  const id = await create();
  const job = await service.take(id);
  service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.4 } });
  await service.until(id, ({ progress }) => progress === 0.4);
  return { id, job };
}

async function succeeded() {
  const id = await create();
  const job = await service.take(id);
  service.report(job.id, { output: await service.finish(id, job.id) });
  return service.until(id, ended);
}

/** The objects in the task's folder. */
const files = (id: string) =>
  readdir(join(bucketFolder(service.folder), 'objects', 'tasks', id), { recursive: true }).catch(() => []);

test.each([
  ['webgpu', 'webgpu'],
  ['tpu', undefined], // of a newer worker
  [undefined, undefined], // of an older one
])('the output’s device %j is shown as %j, also after the deletion', async (device, shown) => {
  const id = await create();
  const job = await service.take(id);
  service.report(job.id, { output: { ...(await service.finish(id, job.id)), device } });
  const task = await service.until(id, ended);
  expect([task.status, task.device]).toEqual(['succeeded', shown]);
  expect((await (await call(`/delete?id=${id}`)).json()).device).toBe(shown);
});

describe('POST /cancel', () => {
  test('a queued task is canceled at once, and its job is cancelled at RunPod', async () => {
    const id = await create();
    await when(async () => (await service.store.get(id))!.job_id);
    const { job_id } = (await service.store.get(id))!;
    const response = await call(`/cancel?id=${id}`);
    expect(response.status).toBe(202);
    expect(await response.json()).toMatchObject({ id, status: 'canceled', finished_at: expect.any(String) });
    await when(() => jobStatus(job_id!) === 'CANCELLED');
    await when(async () => (await service.store.get(id))!.jobs_to_cancel.length === 0);
    expect((await call(`/cancel?id=${id}`)).status).toBe(202); // whose first answer was lost
  });

  test('a task that RunPod has not accepted yet is never submitted', async () => {
    service.faults.runpod = () => new Response('down', { status: 503 });
    const id = await create();
    await when(async () => (await service.store.get(id))!.failures > 0);
    expect((await (await call(`/cancel?id=${id}`)).json()).status).toBe('canceled');
    delete service.faults.runpod;
    service.clock.ahead += 60 * SECOND;
    const next = await create();
    await service.take(next);
    expect(service.queue.health().jobs).toMatchObject({ inQueue: 0, inProgress: 1 });
  });

  test('the still counts in the cost of a task whose process may have died during the submission', async () => {
    await service.lifecycle.stop();
    const [fresh, taken] = [await create(), await create()];
    await service.store.claim([taken], { lease: 60 * SECOND, waiting: true }); // by who then dies
    for (const id of [fresh, taken]) await service.bucket.put(`tasks/${id}/imagine.json`, '{"bridge":"tnl","id":"1"}');
    const stills = async (id: string) => (await (await call(`/cancel?id=${id}`)).json()).cost.stills;
    expect([await stills(fresh), await stills(taken)]).toEqual([0, 1]);
  });

  test('a job that is being submitted is cancelled as soon as RunPod has it', async () => {
    let cancelled: string | undefined;
    const id = await new Promise<string>((resolve) => {
      service.faults.runpod = async (request) => {
        if (request.url.includes('/cancel/')) cancelled = request.url.split('/').at(-1);
        if (!request.url.endsWith('/run')) return undefined;
        const { input } = (await request.clone().json()) as { input: { task_id: string } };
        expect((await (await call(`/cancel?id=${input.task_id}`)).json()).status).toBe('canceled');
        resolve(input.task_id);
        return undefined; // now the queue makes the job
      };
      void create();
    });
    await when(() => cancelled && jobStatus(cancelled) === 'CANCELLED');
    await when(async () => (await service.store.get(id))!.jobs_to_cancel.length === 0);
    expect(service.queue.health().jobs).toMatchObject({ inQueue: 0, inProgress: 0 });
    expect(await service.status(id)).toMatchObject({ status: 'canceled' });
  });

  test('a running task ends when RunPod confirms the cancellation', async () => {
    const { id, job } = await running();
    const response = await call(`/cancel?id=${id}`);
    expect([response.status, (await response.json()).status]).toEqual([202, 'running']);
    expect((await call(`/cancel?id=${id}`)).status).toBe(202);
    const task = await service.until(id, ended);
    expect(task).toMatchObject({ status: 'canceled', progress: 0.4 });
    expect(task).not.toHaveProperty('stage');
    expect(jobStatus(job.id)).toBe('CANCELLED');
  });

  test('a result that comes before the confirmation wins', async () => {
    const { id, job } = await running();
    const output = await service.finish(id, job.id);
    service.faults.runpod = (request) => {
      if (!request.url.includes('/cancel/')) return undefined;
      service.report(job.id, { output }); // just now
      return undefined;
    };
    await call(`/cancel?id=${id}`);
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded', videos: [{ frames: 14 }] });
  });

  test('an unreachable RunPod is asked again', async () => {
    const { id, job } = await running();
    let asked = 0;
    service.faults.runpod = () => {
      asked++;
      return new Response('down', { status: 503 });
    };
    expect((await call(`/cancel?id=${id}`)).status).toBe(202);
    await when(() => asked > 1);
    delete service.faults.runpod;
    service.clock.ahead += 60 * SECOND;
    expect((await service.until(id, ended)).status).toBe('canceled');
    expect(jobStatus(job.id)).toBe('CANCELLED');
  });

  test('a lost job of a canceled task gets no successor', async () => {
    const { id } = await running();
    service.faults.runpod = () => new Response('{}', { status: 404 });
    await call(`/cancel?id=${id}`);
    service.clock.ahead += 61 * SECOND;
    expect((await service.until(id, ended)).status).toBe('canceled');
  });

  test('an ended task gets 409, an unknown one 404, no id 422, and GET 405', async () => {
    const { id } = await succeeded();
    const response = await call(`/cancel?id=${id}`);
    expect([response.status, (await response.json()).code]).toEqual([409, 'ended']);
    expect((await call('/cancel?id=01a206ec-8c81-72d2-88c2-373f04644e4a')).status).toBe(404);
    for (const query of ['', '?id=', '?ID=5', `?id=${id}&x=1`])
      expect((await call(`/cancel${query}`)).status).toBe(422);
    expect((await fetch(`${service.url}/cancel?id=${id}`)).status).toBe(405);
  });

  test('the event stream contains the cancellation', async () => {
    const { id } = await running();
    const stream = await fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
    await call(`/cancel?id=${id}`);
    expect(await stream.text()).toContain('"status":"canceled"');
  });
});

describe('POST /delete, and retention', () => {
  test('files, links and prompt are deleted, the task stays, and a repeat changes nothing', async () => {
    const task = await succeeded();
    expect(await files(task.id)).not.toEqual([]);
    const response = await call(`/delete?id=${task.id}`);
    expect(response.status).toBe(200);
    const left = await response.json();
    expect(left).toMatchObject({ id: task.id, status: 'succeeded', expired_at: expect.any(String) });
    for (const name of ['still', 'videos', 'grid', 'links_expire_at']) expect(left).not.toHaveProperty(name);
    expect(JSON.stringify(await service.store.get(task.id))).not.toContain('secret wish');
    expect(await files(task.id)).toEqual([]);
    expect((await fetch(task.videos![0]!.link)).status).toBe(404);
    expect(await service.status(task.id)).toEqual(left);
    expect((await call(`/delete?id=${task.id}`)).status).toBe(200);
    expect((await service.post({ still_of: task.id })).status).toBe(422);
  });

  test('the message of a failure is deleted, because it may repeat the prompt; the code stays', async () => {
    const { id, job } = await running();
    const error = {
      code: 'banned_prompt',
      message: 'the image provider refuses the prompt: a secret lighthouse',
      retryable: false,
    };
    service.report(job.id, { error: JSON.stringify(error) });
    const failed = await service.until(id, ({ status }) => status === 'failed');
    expect(failed.error).toEqual(error);
    const left = await (await call(`/delete?id=${id}`)).json();
    expect(left.error).toEqual({ ...error, message: 'deleted with the files and the prompt' });
    expect(JSON.stringify(await service.store.get(id))).not.toContain('secret lighthouse');
  });

  test('files that a late job writes are deleted once no job can run any more', async () => {
    const { id } = await running();
    await call(`/cancel?id=${id}`);
    await service.until(id, ended);
    await call(`/delete?id=${id}`);
    await service.finish(id, 'late');
    service.clock.ahead += 7200 * SECOND;
    service.lifecycle.dispatch();
    await new Promise((resolve) => setImmediate(resolve));
    expect(await files(id)).not.toEqual([]); // the job's ttl has a minute's grace
    service.clock.ahead += 120 * SECOND;
    service.lifecycle.dispatch();
    await when(async () => (await files(id)).length === 0);
    await when(async () => (await service.store.nextDue()).due === undefined);
  });

  test('an active task gets a 409 that says what to do', async () => {
    const id = await create();
    const response = await call(`/delete?id=${id}`);
    expect([response.status, (await response.json()).detail]).toEqual([
      409,
      expect.stringContaining('cancel it first'),
    ]);
    expect((await service.status(id)).input.prompt).toBe('a secret wish');
  });

  test('with an unreachable bucket it is 503; links disappear at once and the files later', async () => {
    const { id } = await succeeded();
    service.faults.bucket = new StorageError('away', 'ECONNREFUSED', 1);
    expect((await call(`/delete?id=${id}`)).status).toBe(503);
    expect(await service.status(id)).not.toHaveProperty('videos');
    delete service.faults.bucket;
    service.clock.ahead += 60 * SECOND;
    service.lifecycle.dispatch();
    await when(async () => (await files(id)).length === 0);
  });

  test('after RETAIN_DAYS a task expires by itself', async () => {
    const { id } = await succeeded();
    service.clock.ahead = 2 * DAY - 60 * SECOND;
    service.lifecycle.dispatch();
    expect(await service.status(id)).toHaveProperty('videos');
    service.clock.ahead = 2 * DAY + 60 * SECOND;
    service.lifecycle.dispatch();
    await when(async () => (await files(id)).length === 0);
    const left = await service.status(id);
    expect(left.expired_at).toBeDefined();
    expect(left.input).not.toHaveProperty('prompt');
    await when(async () => (await service.store.nextDue()).due === undefined);
  });
});

test('a job that RunPod refuses to cancel delays no deletion, and is given up when its time is over', async () => {
  await service.close();
  service = await testService({ TASK_DEADLINE_SECONDS: '604800', RETAIN_DAYS: '1' });
  const id = await create();
  await when(async () => (await service.store.get(id))!.job_id);
  await service.bucket.put(`tasks/${id}/still.png`, 'not really a picture');
  service.faults.runpod = (request) =>
    request.url.includes('/cancel/') ? new Response('no', { status: 403 }) : undefined;
  await call(`/cancel?id=${id}`);
  const stored = async () => (await service.store.get(id))!;
  await when(async () => (await stored()).failures > 0);

  service.clock.ahead += DAY + SECOND;
  service.lifecycle.dispatch();
  await when(async () => (await files(id)).length === 0);
  expect((await stored()).jobs_to_cancel).toHaveLength(1);
  expect(JSON.stringify(await stored())).not.toContain('secret wish');

  service.clock.ahead += 6 * DAY + 61 * SECOND;
  service.lifecycle.dispatch();
  await when(async () => (await stored()).jobs_to_cancel.length === 0);
  await when(async () => (await service.store.nextDue()).due === undefined);
});

describe('a job that the task does not know', () => {
  /** Tells the API of a job, as RunPod does. */
  async function announce(id: string, job: string) {
    const { callback_token } = (await service.store.get(id))!;
    service.clock.ahead += 2 * SECOND; // one callback a second is heard
    const body = JSON.stringify({ id: job, status: 'COMPLETED', output: { surprise: true } });
    expect((await fetch(`${service.url}/runpod/callback/${callback_token}`, { method: 'POST', body })).status).toBe(
      200,
    );
  }
  const submit = (id: string) => service.queue.submit({ input: { task_id: id } });
  /** A RunPod that shows the input of its jobs. */
  function showInput() {
    service.faults.runpod = async (request) => {
      const job = service.queue.find(request.url.split('/').at(-1)!);
      return request.method === 'GET' && job ? Response.json({ ...job, id: job.id }) : undefined;
    };
  }

  test('ends the task if its result comes first, and the other job is cancelled', async () => {
    const id = await create();
    await when(async () => (await service.store.get(id))!.job_id);
    const { job_id } = (await service.store.get(id))!;
    const unknown = submit(id);
    service.queue.take('worker-1', 2);
    service.report(unknown.id, { output: await service.finish(id, unknown.id) });
    await announce(id, unknown.id);
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded', videos: [{ frames: 14 }] });
    await when(() => jobStatus(job_id!) === 'CANCELLED');
    await when(async () => (await service.store.get(id))!.jobs_to_cancel.length === 0);
  });

  test('is found by its callback if the response to its submission was lost, and is not submitted again', async () => {
    let lost: string | undefined;
    service.faults.runpod = async (request) => {
      if (!request.url.endsWith('/run') || lost) return undefined;
      const { input } = (await request.json()) as { input: { task_id: string } };
      lost = submit(input.task_id).id;
      return new Response('no JSON');
    };
    const id = await create();
    await when(async () => (await service.store.get(id))!.failures > 0);
    service.clock.ahead += 30 * SECOND;
    const next = await create();
    await when(async () => (await service.store.get(next))!.job_id);
    expect(service.queue.health().jobs.inQueue).toBe(2); // no second submission of the first
    service.queue.take('worker-1', 1);
    service.report(lost!, { output: await service.finish(id, lost!) });
    await announce(id, lost!);
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
    expect(service.queue.health().jobs).toMatchObject({ inQueue: 1, completed: 1 });
  });

  test('is cancelled if it is unfinished and the task has another job or has ended', async () => {
    const id = await create();
    await when(async () => (await service.store.get(id))!.job_id);
    const second = submit(id);
    await announce(id, second.id);
    await when(() => jobStatus(second.id) === 'CANCELLED');
    expect((await service.store.get(id))!.job_id).not.toBe(second.id);

    await call(`/cancel?id=${id}`);
    const third = submit(id);
    await announce(id, third.id);
    await when(() => jobStatus(third.id) === 'CANCELLED');
  });

  test('becomes the task’s if that has none', async () => {
    service.faults.runpod = (request) =>
      request.url.endsWith('/run') ? new Response('down', { status: 503 }) : undefined;
    const id = await create();
    await when(async () => (await service.store.get(id))!.failures > 0);
    const job = submit(id);
    await announce(id, job.id);
    await when(async () => (await service.store.get(id))!.job_id === job.id);
    delete service.faults.runpod;
    service.queue.take('worker-1', 1);
    service.report(job.id, { output: await service.finish(id, job.id) });
    expect(await service.until(id, ended)).toMatchObject({ status: 'succeeded' });
  });

  test('changes nothing if it belongs to another task or to none', async () => {
    showInput();
    const [id, other] = [await create(), await create()];
    const jobs = [submit(other), service.queue.submit({ input: 'text' })];
    service.queue.take('worker-1', 10);
    for (const job of jobs) {
      service.report(job.id, { output: await service.finish(id, job.id) });
      await announce(id, job.id);
    }
    await service.bucket.delete(`tasks/${id}/result.json`); // it would count
    await announce(id, 'no-such-job');
    await announce(id, '../health');
    await when(async () => (await service.store.get(id))!.job_id);
    const { job_id } = (await service.store.get(id))!;
    service.queue.take('worker-1', 10); // unless it took the job above
    service.report(job_id!, { error: JSON.stringify({ code: 'no_credit', message: 'x', retryable: false }) });
    expect(await service.until(id, ended)).toMatchObject({ status: 'failed', error: { code: 'no_credit' } });
  });
});

test('one key gets 90 of 100 places at RunPod, another key’s task one of the others; waiting tasks follow, or expire', async () => {
  const ids = await Promise.all(Array.from({ length: 103 }, () => create()));
  await when(() => service.queue.health().jobs.inQueue === 90);
  const waiting = async () => (await service.store.getMany(ids)).filter((task) => !task.job_id);
  await when(async () => (await waiting()).length === 13);
  const heldBack = (await waiting()).map(({ id }) => id);
  const others = newTask({ owner: 'another key' });
  await insertTask(service.store, others);
  service.lifecycle.dispatch();
  await when(async () => (await service.store.get(others.id))!.job_id);
  const out = ids.find((id) => !heldBack.includes(id))!;
  await service.lifecycle.cancel((await service.store.get(out))!); // a request would need a key now
  await when(async () => (await waiting()).length === 12);
  ids.push(others.id);
  service.clock.ahead += 7201 * SECOND;
  service.lifecycle.dispatch();
  await when(async () => (await service.store.getMany(ids)).every(ended));
  for (const { id, error } of await service.store.getMany(ids)) if (id !== out) expect(error!.code).toBe('expired');
  await when(() => service.queue.health().jobs.inQueue === 0);
});
