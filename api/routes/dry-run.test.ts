/** POST /img2vid?dry_run=1. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
beforeAll(async () => {
  const prices = { MODEL: 'svd', PRICE_PER_GPU_SECOND: '0.0003', PRICE_PER_STILL: '0.05', CURRENCY: 'EUR' };
  service = await testService(prices);
});
afterAll(() => service.close());

const post = (query: string, body: object | FormData, headers: Record<string, string> = {}) =>
  fetch(`${service.url}/img2vid${query}`, {
    method: 'POST',
    ...(body instanceof FormData
      ? { body, headers }
      : { body: JSON.stringify(body), headers: { 'content-type': 'application/json', ...headers } }),
  });
const upload = (bytes: Uint8Array) => {
  const data = new FormData();
  for (const side of ['W', 'H']) data.append(side, '64');
  data.append('image', new Blob([bytes as BlobPart]));
  return data;
};
const picture = () =>
  sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
const left = async () => [
  await service.store.list({ owner: 'local', limit: 10 }),
  await readdir(join(service.folder, 'bucket/objects')).catch(() => []),
];

const resolved = async (body: object) => await (await post('?dry_run=1', { prompt: 'x', seed: 1, ...body })).json();

test('a speed is exactly its set of parameters; those of the request override it', async () => {
  const { input, warnings } = await resolved({ speed: 'fast' });
  const levels = { steps: 10, sampler: 'DPMPP2MSampler', discretization: 'AlignYourStepsDiscretization' };
  const set = { ...levels, cache_interval: 2, cache_depth: 2 };
  expect(warnings).toEqual([]);
  expect(input).toEqual({ ...(await resolved(set)).input, speed: 'fast' });
  expect(input).toMatchObject(set);
  expect(await resolved(input)).toMatchObject({ input, warnings: [] }); // it can be sent again

  const own = { steps: 15, discretization: 'EDMDiscretization', rho: 5, cache_interval: 3 };
  const changed = await resolved({ speed: 'fast', ...own });
  expect(changed.input).toEqual({ ...(await resolved({ ...own, sampler: set.sampler })).input, speed: 'fast' });
  expect(changed.warnings).toEqual([]);
  const whole = await resolved({ speed: 'fast', cache_interval: 1 });
  expect(whole.input).toMatchObject({ cache_interval: 1 });
  expect((await resolved(whole.input)).input).toEqual(whole.input);
  const { warnings: ignored } = await resolved({ speed: 'fast', rho: 5 });
  expect(ignored).toEqual([{ field: 'rho', message: 'ignored: only for discretization EDMDiscretization' }]);
  expect((await resolved({ speed: 'exact' })).input).toEqual((await resolved({})).input);
});

test('a dry run returns the task’s input and highest cost, and stores nothing', async () => {
  const headers = { 'idempotency-key': 'k', prefer: 'wait=10' };
  const body = { prompt: 'x', H: 576, W: 1024, T: 25, steps: 25, num_cols: 2, seed: 3, fps: 60 };
  const response = await post('?dry_run=1', body, headers);
  expect([response.status, response.headers.get('location')]).toEqual([200, null]);
  expect(response.headers.get('preference-applied')).toBeNull();
  const { input, warnings, cost_estimate, ...rest } = await response.json();
  expect(rest).toEqual({});
  expect(input).toMatchObject({ ...body, guider: 'LinearPredictionGuider', cond_aug: 0.02 });
  expect(warnings).toEqual([{ field: 'fps', message: expect.any(String) }]);
  // Two videos of the size that counts as one, each 30 s and 4 s a step: 260 s, and a still.
  expect(cost_estimate).toEqual({ amount: 260 * 300 + 50_000, currency: 'EUR', gpu_seconds: 260 });

  const withPicture = await (await post('?dry_run=true', upload(await picture()))).json();
  expect(withPicture.cost_estimate).toEqual({ amount: 10 * 300, currency: 'EUR', gpu_seconds: 10 }); // no still, and never less
  expect((await post('?dry_run=1', { prompt: 'y' }, { 'idempotency-key': 'two words' })).status).toBe(200);
  expect(await left()).toEqual([[], []]);

  const key = { 'idempotency-key': headers['idempotency-key'] };
  const { input: same } = await (await post('?dry_run=0', input, key)).json(); // it is free
  expect(same).toEqual(input);
  expect((await post('?dry_run=1', { prompt: 'other' }, headers)).status).toBe(200);
});

test('a dry run refuses what a real request would', async () => {
  const still_of = '01a206ec-8c81-72d2-88c2-373f04644e4a';
  for (const [body, status, field] of [
    [{ prompt: 'x', T: 0 }, 422, 'T'],
    [{}, 422, 'prompt'],
    [{ still_of }, 422, 'still_of'],
    [{ image_url: 'http://127.0.0.1/' }, 422, 'image_url'],
    [upload(Buffer.from('no picture')), 422, 'image'],
    [[], 400, undefined],
  ] as const) {
    const response = await post('?dry_run=1', body);
    expect([response.status, (await response.json()).errors?.[0].field]).toEqual([status, field]);
  }
});

test('0 and false create a task; other values are refused, unknown names with the nearest one', async () => {
  for (const value of ['0', 'false']) expect((await post(`?dry_run=${value}`, { prompt: 'x' })).status).toBe(202);
  for (const value of ['', '2', 'yes', 'TRUE']) {
    const response = await post(`?dry_run=${value}`, { prompt: 'x' });
    const error = { field: 'dry_run', message: 'must be one of 1, true, 0, false' };
    expect([response.status, (await response.json()).errors]).toEqual([422, [error]]);
  }
  const { errors } = await (await post('?dryrun=1&T=5', { prompt: 'x' })).json();
  expect(errors).toEqual([
    { field: 'dryrun', message: 'unknown; did you mean dry_run?' },
    { field: 'T', message: 'unknown in the query: parameters belong in the body' },
  ]);
});
