/** What tasks cost and budgets hold, over HTTP. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { StorageError } from '../../core/bucket/bucket.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

// A GPU second costs 1000 micro-units, a still 50,000. The smallest clip is reckoned with 10 s: 10,000.
const PRICES = { PRICE_PER_GPU_SECOND: '0.001', PRICE_PER_STILL: '0.05', CURRENCY: 'EUR' };
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
    ['nothing before a job', false, false, 0],
    ['nothing before its pictures are there', true, false, 0],
    ['its pictures, once they are saved', true, true, STILL],
  ])('%s: canceled', async (_name, hasJob, hasPictures, amount) => {
    const { body } = await post({ prompt: 'x' });
    if (hasJob) await service.take(body.id);
    if (hasPictures) await savePictures(body.id);
    await send(`/cancel?id=${body.id}`);
    const task = await until(body.id, 'canceled');
    expect(task.cost).toEqual(cost(amount, 0, hasPictures ? 1 : 0));
    expect(await usage()).toMatchObject({ spent: amount, reserved: 0, open_tasks: 0 });
  });

  test.each([
    [false, 0],
    [true, STILL],
  ])('its pictures, if they are saved (%s), and no GPU: failed', async (hasPictures, amount) => {
    const { body } = await post({ prompt: 'x' });
    const job = await service.take(body.id);
    if (hasPictures) await savePictures(body.id);
    service.report(job.id, { error: '{"code":"out_of_memory","message":"x","retryable":true}' });
    expect((await until(body.id, 'failed')).cost.amount).toBe(amount);
    expect(await usage()).toMatchObject({ spent: amount, reserved: 0, days: [{ failed: 1, amount }] });
  });

  test('a task does not end while its cost can’t be determined', async () => {
    const { body } = await post({ prompt: 'x' });
    const job = await service.take(body.id);
    service.faults.bucket = new StorageError('away', 'ECONNREFUSED', 1);
    const { code } = await send(`/cancel?id=${body.id}`);
    expect(code).toBe(503);
    service.report(job.id, { error: '{"code":"internal","message":"x","retryable":false}' });
    const { id } = (await call(`/status?id=${body.id}`)).body;
    expect((await service.store.get(id))!.cost).toBeNull();
    delete service.faults.bucket;
    service.clock.ahead += 61_000;
    expect((await until(body.id, 'failed')).cost).toEqual(cost(0));
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
    const task = (await service.store.get(body.id))!;
    await service.store.update(task, { job_id: null, submitted_at: null, nextRunIn: 0 }); // as after a loss
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
    expect(body.detail).toBe('this task may cost 0.06 EUR; 0.005 EUR of this month’s budget of 0.125 EUR are left');
    expect((await call('/status')).body).toHaveLength(2);
    await send(`/cancel?id=${tasks[0].id}`);
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

test('reservations follow the GPU times of the model’s latest tasks', async () => {
  const own = await testService({ ...PRICES });
  const estimate = async () => {
    own.clock.ahead += 61_000; // what is known of the past is good for a minute
    const response = await fetch(`${own.url}/img2vid?dry_run=1`, {
      method: 'POST',
      body: JSON.stringify({ image_url: 'https://example.com/x.png', ...SMALL }),
      headers: { 'content-type': 'application/json' },
    });
    return (await response.json()).cost_estimate;
  };
  expect(await estimate()).toEqual({ amount: GPU, currency: 'EUR', gpu_seconds: 10 });
  for (let i = 1; i <= 10; i++) {
    const { id } = await (await own.post({ image_url: 'https://example.com/x.png', ...SMALL })).json();
    const job = await own.take(id);
    own.report(job.id, { output: { ...(await own.finish(id, job.id)), timings_ms: { sampling: 100 * i } } });
    await own.until(id, ({ status }) => status === 'succeeded');
    if (i === 9) expect((await estimate()).gpu_seconds).toBe(10); // too few to say anything
  }
  expect(await estimate()).toEqual({ amount: 1125, currency: 'EUR', gpu_seconds: 1.125 }); // nine of ten took at most 0.9 s, and a quarter more
  await own.close();
});
