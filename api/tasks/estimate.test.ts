/** Estimates of GPU time, over HTTP: what a dry run says after the tasks of some keys. */
import { afterEach, describe, expect, test } from 'vitest';
import type { CostEstimate } from '../../core/responses.ts';
import { MINUTE } from '../../core/time.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

const DEFAULT_CLIP = { image_url: 'https://example.com/x.png', H: 576, W: 1024 }; // svd_xt: 25 frames, 30 steps
/** By the parameters alone: 30 s and 4 s a step. */
const EXPECTED = 150;
const SMALL = { H: 64, W: 64, T: 1 };

let service: TestService;
afterEach(() => service.close());
const start = async (model: string) => {
  service = await testService({ HOST: '0.0.0.0', MODEL: model, PRICE_PER_GPU_SECOND: '1' });
};

type Client = { headers: Record<string, string> };
const post = ({ headers }: Client, body: object, query = '') =>
  fetch(`${service.url}/img2vid${query}`, {
    method: 'POST',
    body: JSON.stringify({ ...DEFAULT_CLIP, ...body }),
    headers: { 'content-type': 'application/json', ...headers },
  });

/** The estimate of the default clip. */
async function dryRun(client: Client, body: object = {}): Promise<CostEstimate> {
  service.clock.ahead += 61_000; // an estimate is cached for a minute
  return (await (await post(client, body, '?dry_run=1')).json()).cost_estimate;
}
/** The most seconds that the default clip is charged for. */
const estimate = async (client: Client, body: object = {}) => (await dryRun(client, body)).gpu_seconds;

/** A task that has taken so many seconds. */
async function finish(client: Client, seconds: number, body: object): Promise<void> {
  service.clock.ahead += MINUTE;
  const { id } = await (await post(client, body)).json();
  const job = await service.take(id);
  const output = { ...(await service.finish(id, job.id)), timings_ms: { sampling: 1000 * seconds } };
  service.report(job.id, { output });
  while ((await service.store.get(id))!.status !== 'succeeded') await new Promise((resolve) => setTimeout(resolve, 5));
}

/** A key whose tasks have taken so many seconds each. */
async function keyWith(count: number, seconds: number, body: object = {}): Promise<Client> {
  const client = await service.key();
  for (let i = 0; i < count; i++) await finish(client, seconds, body);
  return client;
}

test('the estimate of svd_xt grows faster than the pixels of a frame, because of attention', async () => {
  await start('svd_xt');
  expect(await estimate(await service.key(), { H: 1152, W: 2048 })).toBe(4 * (30 + 4 * 30 * 1.75));
});

test('an estimate counts the largest size that can follow from one side', async () => {
  await start('svd_xt');
  const largest = await estimate(await service.key(), { H: 2048, W: 2048 });
  for (const side of ['H', 'W']) {
    const other = side === 'H' ? 'W' : 'H';
    expect(await estimate(await service.key(), { [side]: 2048, [other]: undefined })).toBe(largest);
  }
});

describe('the estimate of svd_xt’s default clip', () => {
  test('is that of the parameters before there are ten results', async () => {
    await start('svd_xt');
    expect(await estimate(await service.key())).toBe(EXPECTED);
    expect(await estimate(await keyWith(9, 75))).toBe(EXPECTED);
    expect(await estimate(await keyWith(1, 75))).toBe(1.25 * 75);
  });

  test('does not follow clips that are too short to say anything', async () => {
    await start('svd_xt');
    expect(await estimate(await keyWith(12, 0.04, SMALL))).toBe(EXPECTED);
  });

  test('is not lowered by a minority of keys, however many results they have', async () => {
    await start('svd_xt');
    const victim = await keyWith(2, 150);
    await keyWith(25, 1);
    expect(await estimate(victim)).toBe(1.25 * 150);
    await keyWith(1, 150);
    await keyWith(3, 5000);
    expect(await estimate(victim)).toBe(1.25 * 150);
  });

  test('changes at most by a factor of 8', async () => {
    await start('svd_xt');
    const client = await keyWith(10, 0.01);
    expect(await estimate(client)).toBe(EXPECTED / 8);
    await keyWith(10, 100_000);
    expect(await estimate(client)).toBe(EXPECTED * 8);
  });

  test('follows long results more than short ones', async () => {
    await start('svd_xt');
    const client = await keyWith(10, 36, { T: 3 }); // twice of 18 s
    expect(await estimate(client)).toBe(2 * 1.25 * EXPECTED);
    for (let i = 0; i < 2; i++) await finish(client, 750, { num_cols: 10 }); // half of 1500 s
    expect(await estimate(client)).toBe(0.5 * 1.25 * EXPECTED);
  });

  test('counts evaluations of the network: two a step for second-order samplers, one branch without guidance', async () => {
    await start('svd_xt');
    const client = await service.key();
    expect(await estimate(client, { sampler: 'HeunEDMSampler' })).toBe(30 + 8 * 30);
    expect(await estimate(client, { sampler: 'DPMPP2SAncestralSampler' })).toBe(30 + 8 * 30);
    expect(await estimate(client, { sampler: 'DPMPP2MSampler', guider: 'IdentityGuider' })).toBe(30 + 2 * 30);
    expect(await estimate(client, { guider: 'VanillaCFG', cfg_scale: 1 })).toBe(30 + 2 * 30);
  });
});

test('the estimate knows the speeds', async () => {
  await start('svd_xt');
  expect(await estimate(await service.key(), { speed: 'fast' })).toBeCloseTo(30 + 4 * (5 + 5 * 0.247), 6);
  expect(await estimate(await service.key(), { speed: 'draft' })).toBe(30 + (4 * 4) / 2);
});

test('the estimate counts one branch outside of the guidance interval', async () => {
  await start('svd_xt');
  const client = await service.key();
  const levels = { discretization: 'AlignYourStepsDiscretization', steps: 10, guidance_sigma_min: 0.403 };
  const single = (steps: number) => 30 + 4 * (10 - steps / 2);
  expect(await estimate(client, { ...levels, guidance_sigma_max: 4.248 })).toBe(single(7));
  // Heun’s second evaluation is at the next level: the step before the interval may need both branches.
  const heun = { sampler: 'HeunEDMSampler', ...levels, guidance_sigma_max: 4.248 };
  expect(await estimate(client, heun)).toBe(30 + 8 * (10 - 6 / 2));
  expect(await estimate(client, { ...levels, s_churn: 5, guidance_sigma_max: 4.248 })).toBe(single(6));
});

test('the estimate counts the part of the network that runs with cached features', async () => {
  await start('svd_xt');
  const client = await service.key();
  expect(await estimate(client, { cache_interval: 2 })).toBeCloseTo(30 + 4 * (15 + 15 * 0.247), 6);
  const levels = { discretization: 'AlignYourStepsDiscretization', steps: 10, cache_interval: 3 };
  const interval = { guidance_sigma_min: 0.403, guidance_sigma_max: 4.248 };
  // Steps 0, 3, 6 and 9 are whole. The unconditional branch runs in 4 and 6, whole, and in 5.
  expect(await estimate(client, { ...levels, ...interval })).toBeCloseTo(30 + 2 * (6 + 7 * 0.247), 6);
});

test('the expected time is the median of the latest results; of SVD nothing is known before', async () => {
  await start('svd_xt');
  const client = await service.key();
  expect(await dryRun(client)).not.toHaveProperty('expected_seconds');
  for (const seconds of [20, 60, 30]) await finish(client, seconds, {});
  expect(await dryRun(client)).toMatchObject({ expected_seconds: 30, gpu_seconds: EXPECTED });
  await service.close();
  await start('camera');
  const { expected_seconds } = await dryRun(await service.key(), { H: undefined, W: undefined });
  expect(expected_seconds).toBeGreaterThan(1); // what it takes on two cores
  expect(expected_seconds).toBeLessThan(1.6);
});

test('the estimate of the camera’s clips is right before there is any result', async () => {
  await start('camera');
  const client = await service.key();
  const seconds = await estimate(client, { H: undefined, W: undefined });
  expect(seconds).toBeGreaterThan(1.2); // what it takes on two cores
  expect(seconds).toBeLessThan(3);
  expect(await estimate(client, { H: 64, W: 64, T: 4 })).toBe(1);
});
