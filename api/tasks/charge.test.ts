/** What tasks cost and budgets hold, over HTTP. */
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { StorageError } from '../../core/bucket/bucket.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

// A GPU second costs 1000 micro-units, a still 50,000. The estimate of svd's smallest clip is 10 s: 10,000.
const PRICES = { MODEL: 'svd', PRICE_PER_GPU_SECOND: '0.001', PRICE_PER_STILL: '0.05', CURRENCY: 'EUR' };
const SMALL = { H: 64, W: 64 };
const STILL = 50_000;
const GPU = 10_000;

let service: TestService;
let headers: Record<string, string>;
beforeAll(async () => {
  service = await testService({ HOST: '0.0.0.0', ...PRICES });
});
afterAll(() => service.close());
beforeEach(async () => {
  delete service.faults.bucket;
  ({ headers } = await service.key());
});

async function call(path: string, init: RequestInit = {}) {
  const response = await fetch(service.url + path, { ...init, headers: { ...headers, ...(init.headers as object) } });
  return { code: response.status, body: await response.json() };
}
const post = (body: object, more: Record<string, string> = {}, query = '') =>
  call(`/img2vid${query}`, {
    method: 'POST',
    body: JSON.stringify({ ...SMALL, ...body }),
    headers: { 'content-type': 'application/json', ...more },
  });
const send = (path: string) => call(path, { method: 'POST' });
const usage = async (query = '') => (await call(`/usage${query}`)).body;

async function until(id: string, status: string) {
  for (;;) {
    const { body } = await call(`/status?id=${id}`);
    if (body.status === status) return body;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
/** A task whose job has run so long, in milliseconds. */
async function done(body: object, timings_ms: Record<string, number>) {
  const { body: task } = await post(body);
  const job = await service.take(task.id);
  service.report(job.id, { output: { ...(await service.finish(task.id, job.id)), timings_ms } });
  return until(task.id, 'succeeded');
}
const savePictures = (id: string) => service.bucket.put(`tasks/${id}/imagine-1.png`, 'x');
/** A worker's record of the imagine: with an id once the bridge has accepted the prompt. */
const saveRecord = (id: string, record: object) =>
  service.bucket.put(`tasks/${id}/imagine.json`, JSON.stringify({ ref: id, bridge: 'tnl', ...record }));
const cost = (amount: number, gpu_seconds = 0, stills = 0) => ({ amount, currency: 'EUR', gpu_seconds, stills });

describe('a task that succeeds costs', () => {
  test('the time of its GPU stages, rounded up to a micro-unit, and its still', async () => {
    const timings = { still: 90_000, waiting: 5000, loading: 60_000, sampling: 2000, decoding: 1234, uploading: 700 };
    const task = await done({ prompt: 'x' }, timings);
    expect(task.cost).toEqual(cost(3234 + STILL, 3.234, 1));
    expect(await usage()).toMatchObject({ spent: 3234 + STILL, reserved: 0, open_tasks: 0, currency: 'EUR' });
  });

  test('at most what was reserved for the GPU', async () => {
    expect((await done({ prompt: 'x' }, { sampling: 60_000, decoding: 1 })).cost).toEqual(cost(GPU + STILL, 60.001, 1));
  });

  test('nothing for a still that existed before', async () => {
    const source = await done({ prompt: 'x' }, { sampling: 1 });
    await savePictures(source.id);
    expect((await done({ still_of: source.id }, { sampling: 1500 })).cost).toEqual(cost(1500, 1.5));
    expect((await done({ image_url: 'https://example.com/x.png' }, { sampling: 0.4 })).cost).toEqual(cost(0));
  });

  test('never less than 0, whatever the worker reports', async () => {
    expect((await done({ prompt: 'x' }, { sampling: -5000, decoding: 1e300 })).cost).toEqual(cost(GPU + STILL, 1e7, 1));
  });
});

describe('a task that does not succeed costs', () => {
  test.each([
    ['nothing before a job', false, undefined, 0],
    ['nothing before a bridge is asked', true, undefined, 0],
    ['nothing after a refusal', true, { bridge: undefined, refused: [{ bridge: 'tnl', code: 'no_credit' }] }, 0],
    ['nothing if the bridge has not answered for minutes', true, { asked_at: 0 }, 0],
    ['its still, once a bridge has accepted the prompt', true, { id: 'imagine-7' }, STILL],
  ])('%s: canceled', async (_name, hasJob, record, amount) => {
    const { body } = await post({ prompt: 'x' });
    if (hasJob) await service.take(body.id);
    if (record) await saveRecord(body.id, record);
    await send(`/cancel?id=${body.id}`);
    const task = await until(body.id, 'canceled');
    expect(task.cost).toEqual(cost(amount, 0, amount ? 1 : 0));
    expect(await usage()).toMatchObject({ spent: amount, reserved: 0, open_tasks: 0 });
  });

  test.each([
    [0, undefined],
    [300_000, 600_000],
  ])(
    'its still, if a bridge asked %d ms ago, which may take %s, accepts the prompt during the cancellation',
    async (ms, answer_timeout) => {
      const { body } = await post({ prompt: 'x' });
      await service.take(body.id);
      await saveRecord(body.id, { asked_at: Date.now() - ms, answer_timeout });
      await send(`/cancel?id=${body.id}`);
      await service.queue.waitForChange(1000); // the job is cancelled
      expect((await call(`/status?id=${body.id}`)).body.status).not.toBe('canceled');
      await saveRecord(body.id, { id: 'imagine-7' });
      service.clock.ahead += 1000;
      expect((await until(body.id, 'canceled')).cost).toEqual(cost(STILL, 0, 1));
    },
  );

  test('its still, if its job begins, and a bridge is asked, while a queued task is canceled', async () => {
    const { body } = await post({ prompt: 'x' });
    while (!(await service.store.get(body.id))!.job_id) await new Promise((resolve) => setTimeout(resolve, 5));
    service.faults.runpod = async (request) => {
      if (!request.url.includes('/cancel/')) return undefined;
      service.queue.take('worker-1', 1000);
      await saveRecord(body.id, { asked_at: Date.now() });
      delete service.faults.runpod;
      return undefined;
    };
    expect((await service.store.get(body.id))!.status).toBe('queued');
    const canceling = await send(`/cancel?id=${body.id}`);
    expect(['queued', 'running']).toContain(canceling.body.status); // the poller may have seen that the job runs
    await saveRecord(body.id, { id: 'imagine-7' });
    service.clock.ahead += 1000;
    expect((await until(body.id, 'canceled')).cost).toEqual(cost(STILL, 0, 1));
  });

  test.each([
    [false, 0],
    [true, STILL],
  ])('its still, if a bridge has accepted the prompt (%s): failed', async (isAccepted, amount) => {
    const { body } = await post({ prompt: 'x' });
    const job = await service.take(body.id);
    await saveRecord(body.id, { ...(isAccepted && { id: 'imagine-7' }) });
    service.report(job.id, { error: '{"code":"out_of_memory","message":"x","retryable":true}' });
    expect((await until(body.id, 'failed')).cost.amount).toBe(amount);
    expect(await usage()).toMatchObject({ spent: amount, reserved: 0, days: [{ failed: 1, amount }] });
  });

  test('a budget for one still buys one', async () => {
    ({ headers } = await service.key({ budget: GPU + STILL }));
    let accepted = 0;
    for (let i = 0; i < 4; i++) {
      const { code, body } = await post({ prompt: 'x' });
      if (code !== 202) continue;
      accepted++;
      await service.take(body.id);
      await saveRecord(body.id, { id: 'imagine-7' });
      await send(`/cancel?id=${body.id}`);
      await until(body.id, 'canceled');
    }
    expect(accepted).toBe(1);
  });

  test('a task does not end while its cost can’t be determined', async () => {
    const { body } = await post({ prompt: 'x' });
    const job = await service.take(body.id);
    service.faults.bucket = new StorageError('away', 'ECONNREFUSED', 1);
    const cancel = async () => expect((await send(`/cancel?id=${body.id}`)).code).toBe(503);
    await vi.waitFor(cancel); // 202 while the poller works on the task
    service.report(job.id, { error: '{"code":"internal","message":"x","retryable":false}' });
    const { id } = (await call(`/status?id=${body.id}`)).body;
    expect((await service.store.get(id))!.cost).toBeNull();
    delete service.faults.bucket;
    service.clock.ahead += 61_000;
    expect((await until(body.id, 'failed')).cost).toEqual(cost(0));
  });
});

describe('the GPU time of a task without a result is', () => {
  /** A running task whose worker has made this report. */
  async function running(report: object) {
    const { body } = await post({ image_url: 'https://example.com/x.png' });
    const job = await service.take(body.id);
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.4, ...report } });
    return { id: body.id as string, job };
  }
  const now = () => Date.now() + service.clock.ahead;

  test('what its worker reported last, if it is canceled, although nobody has watched it', async () => {
    const { id } = await running({ stage: 'encoding', usage: { gpu_ms: 1234 } });
    await send(`/cancel?id=${id}`);
    expect((await until(id, 'canceled')).cost).toEqual(cost(1234, 1.234));
    expect(await usage()).toMatchObject({ spent: 1234, days: [{ canceled: 1, gpu_seconds: 1.234 }] });
  });

  test('also that of the stage that is not finished', async () => {
    const { id } = await running({ usage: { gpu_ms: 2000, gpu_since: now() } });
    await until(id, 'running');
    service.clock.ahead += 3000;
    await send(`/cancel?id=${id}`);
    const { gpu_seconds } = (await until(id, 'canceled')).cost;
    expect(gpu_seconds).toBeGreaterThanOrEqual(5);
    expect((await usage()).spent).toBe(Math.min(GPU, 1000 * gpu_seconds));
  });

  test('never more than since its job was submitted, or than was reserved, also with a wrong clock of the worker', async () => {
    const { id } = await running({ usage: { gpu_ms: 2000, gpu_since: 0 } });
    await until(id, 'running');
    const { usage: reported, submitted_at } = (await service.store.get(id))!;
    expect(reported!.gpu_since).toBe(submitted_at);
    service.clock.ahead += 60_000;
    await send(`/cancel?id=${id}`);
    expect((await until(id, 'canceled')).cost.amount).toBe(GPU);
  });

  test('what its worker reports with its error', async () => {
    const { id, job } = await running({ usage: { gpu_ms: 100, gpu_since: now() } });
    const error = { code: 'invalid_input', message: 'x', retryable: false };
    service.report(job.id, { error: JSON.stringify({ ...error, usage: { gpu_ms: 4321 } }) });
    const task = await until(id, 'failed');
    expect([task.error, task.cost]).toEqual([error, cost(4321, 4.321)]);
  });

  test('what the API has measured, if the worker died', async () => {
    const { id, job } = await running({});
    await until(id, 'running');
    service.clock.ahead += 4000;
    service.report(job.id, { error: 'exit code 137' });
    const { gpu_seconds } = (await until(id, 'failed')).cost;
    expect(gpu_seconds).toBeGreaterThanOrEqual(4);
  });

  test('0 for a lost job', async () => {
    const { id } = await running({ usage: { gpu_ms: 5000 } });
    await until(id, 'running');
    service.faults.runpod = () => new Response('{}', { status: 404 });
    service.clock.ahead += 61_000;
    while ((await service.store.get(id))!.job_id !== null) await new Promise((resolve) => setTimeout(resolve, 5));
    await send(`/cancel?id=${id}`);
    expect((await until(id, 'canceled')).cost).toEqual(cost(0));
    delete service.faults.runpod;
  });
});

describe('a price', () => {
  test('is fixed when the task is accepted', async () => {
    const { body } = await post({ prompt: 'x' });
    const task = (await service.store.get(body.id))!;
    expect(task.quote).toEqual({ currency: 'EUR', gpu: GPU, per_gpu_second: 1_000_000_000, still: STILL });
    const quote = { ...task.quote!, per_gpu_second: 2_000_000_000, still: 7 };
    while (!(await service.store.update((await service.store.get(body.id))!, { quote }))); // its submission may change it meanwhile
    const job = await service.take(body.id);
    service.report(job.id, { output: { ...(await service.finish(body.id, job.id)), timings_ms: { sampling: 1000 } } });
    expect((await until(body.id, 'succeeded')).cost).toEqual(cost(2007, 1, 1));
  });

  test('is not charged for a lost job: only the result counts', async () => {
    const { body } = await post({ prompt: 'x' });
    const first = await service.take(body.id);
    const lost = { job_id: null, submitted_at: null, nextRunIn: 0 };
    while (!(await service.store.update((await service.store.get(body.id))!, lost))); // the poller may change it meanwhile
    const second = await service.take(body.id);
    expect(second.id).not.toBe(first.id);
    const output = await service.finish(body.id, second.id);
    service.report(second.id, { output: { ...output, timings_ms: { sampling: 1000 } } });
    expect((await until(body.id, 'succeeded')).cost).toEqual(cost(1000 + STILL, 1, 1));
    service.report(first.id, { output: { ...output, timings_ms: { sampling: 9000 } } });
    expect(await usage()).toMatchObject({ spent: 1000 + STILL, days: [{ tasks: 1 }] });
  });
});

describe('a budget', () => {
  test('refuses a task that may exceed it, names both amounts, and stores nothing of the task', async () => {
    ({ headers } = await service.key({ budget: 2 * (GPU + STILL) + 5000 }));
    const tasks = [(await post({ prompt: 'x' })).body, (await post({ prompt: 'x' })).body];
    const { code, body } = await post({ prompt: 'x' }, { 'idempotency-key': 'again' });
    expect([code, body.code]).toEqual([402, 'budget_spent']);
    expect(body.detail).toBe('this task may cost 0.06 EUR; 0.005 EUR of this month’s budget of 0.125 EUR is left');
    expect((await call('/status')).body).toHaveLength(2);
    await send(`/cancel?id=${tasks[0].id}`);
    await until(tasks[0].id, 'canceled');
    expect((await post({ prompt: 'x' }, { 'idempotency-key': 'again' })).code).toBe(202); // the key was not used up
    const repeat = await post({ prompt: 'x' }, { 'idempotency-key': 'again' });
    expect(repeat.code).toBe(202); // there is nothing left, and it needs nothing
    expect(await usage()).toMatchObject({ budget: 125_000, spent: 0, reserved: 120_000, left: 5000, open_tasks: 2 });
  });

  test('for ten tasks admits ten of fifty concurrent ones', async () => {
    ({ headers } = await service.key({ budget: 10 * (GPU + STILL) }));
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => post({ prompt: `${i}` })));
    const codes = answers.map(({ code }) => code);
    expect(
      [codes.filter((code) => code === 202), codes.filter((code) => code === 402)].map(({ length }) => length),
    ).toEqual([10, 40]);
    expect((await call('/status')).body).toHaveLength(10);
    expect(await usage()).toMatchObject({ reserved: 10 * (GPU + STILL), left: 0, open_tasks: 10 });
  });

  test('is renewed every month, UTC', async () => {
    const own = await testService({ ...PRICES });
    const at = (text: string) => {
      own.clock.ahead = Date.parse(text) - Date.now();
    };
    await own.store.updateKey('local', { budget: GPU });
    const clip = async () => (await own.post({ image_url: 'https://example.com/x.png', ...SMALL })).status;
    at('2031-01-31T23:59:50Z');
    expect([await clip(), await clip()]).toEqual([202, 402]);
    const [{ id }] = (await (await fetch(`${own.url}/status`)).json()) as [{ id: string }];
    const job = await own.take(id);
    own.report(job.id, { output: { ...(await own.finish(id, job.id)), timings_ms: { sampling: 60_000 } } });
    await own.until(id, ({ status }) => status === 'succeeded');
    expect(await clip()).toBe(402);
    at('2031-02-01T00:00:05Z');
    expect([await clip(), await clip()]).toEqual([202, 402]);
    const { month, spent, days } = await (await fetch(`${own.url}/usage`)).json();
    expect([month, spent, days]).toEqual(['2031-02', 0, []]);
    const january = await (await fetch(`${own.url}/usage?until=2031-01-31`)).json();
    expect(january.days).toMatchObject([{ day: '2031-01-31', tasks: 1, amount: GPU }]);
    await own.close();
  });

  test('stays the same after the deletion of a task’s files and prompt', async () => {
    const task = await done({ prompt: 'x' }, { sampling: 1000 });
    const before = await usage();
    const { body } = await send(`/delete?id=${task.id}`);
    expect(body.cost).toEqual(task.cost);
    expect(await usage()).toEqual(before);
  });
});

test('GET /usage lists each day, and refuses invalid days', async () => {
  await done({ prompt: 'x' }, { sampling: 1000 });
  await done({ image_url: 'https://example.com/x.png' }, { sampling: 500 });
  const { body } = await post({ prompt: 'x' });
  await send(`/cancel?id=${body.id}`);
  const today = new Date(Date.now() + service.clock.ahead).toISOString().slice(0, 10);
  const sums = { tasks: 3, succeeded: 2, failed: 0, canceled: 1, gpu_seconds: 1.5, stills: 1, amount: 1500 + STILL };
  const day = { day: today, ...sums };
  const { limits, ...told } = await usage();
  expect(told).toEqual({
    ...{ currency: 'EUR', month: today.slice(0, 7), budget: null, spent: 1500 + STILL, reserved: 0, left: null },
    ...{ open_tasks: 0, days: [day] },
  });
  expect((await usage(`?since=${today}&until=${today}`)).days).toEqual([day]);
  expect((await usage('?since=2020-01-01&until=2020-12-31')).days).toEqual([]);
  for (const [query, field] of [
    ['?since=today', 'since'],
    ['?until=2026-02-30', 'until'],
    ['?since=2026-11-29T00:00:00Z', 'since'],
    ['?from=2026-11-29', 'from'],
  ] as const) {
    const { code, body } = await call(`/usage${query}`);
    expect([code, body.errors[0].field], query).toEqual([422, field]);
  }
});
