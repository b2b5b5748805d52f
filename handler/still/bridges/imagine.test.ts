import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Bucket, getJson, StorageError } from '../../../core/bucket/bucket.ts';
import { JobError } from '../../../core/job.ts';
import {
  COLOURS,
  colourOf,
  imagineOptions,
  memoryBucket,
  type Started,
  startBridge,
  TASK,
} from '../../../test/support/test-bridge.ts';
import type { BridgeName } from './bridge.ts';
import { type ImagineOptions, imagine, pictureKey } from './imagine.ts';

const INTENT = `tasks/${TASK}/imagine.json`;
let bucket: Bucket;
const started: Started[] = [];
beforeEach(() => {
  bucket = memoryBucket();
});
afterEach(async () => {
  for (const { close } of started.splice(0)) await close();
});

type Options = Parameters<typeof startBridge>[1];

/** Bridges in the order of a list. */
async function start(bridges: Partial<Record<BridgeName, Options>>, more: Partial<ImagineOptions> = {}) {
  const all: Started[] = [];
  for (const [name, options] of Object.entries(bridges)) all.push(await startBridge(name as BridgeName, options));
  started.push(...all);
  const options = imagineOptions(
    bucket,
    all.map(({ bridge }) => bridge),
    more,
  );
  return {
    all,
    options,
    paid: () => all.map(({ paid }) => paid()),
    imagineCounts: () => all.map(({ calls }) => calls.imagine),
  };
}
const record = () => getJson(bucket, INTENT);
const codeOf = (work: Promise<unknown>) => work.then(String, (error) => error.code ?? error.name);

async function expectFour() {
  const files = await Promise.all([1, 2, 3, 4].map((index) => bucket.get(pictureKey(TASK, index))));
  expect(await Promise.all(files.map((png) => colourOf(png!)))).toEqual(COLOURS);
}

/** Words that only the first bridge refuses. */
test.each<[word: string, code: string, first: BridgeName, second: BridgeName, isAccepted: boolean]>([
  ['PROXY_QUEUE_FULL', 'queue_full', 'mj-proxy', 'tnl', false],
  ['NO_CREDIT', 'no_credit', 'legnext', 'tnl', false],
  ['SLOW_DOWN', 'rate_limited', 'legnext', 'imaginepro', false],
  ['NO_ACCOUNT', 'upstream_error', 'mj-proxy', 'legnext', false],
  ['QUEUE_FULL', 'queue_full', 'tnl', 'mj-proxy', true],
  ['NO_FAST_HOURS', 'no_credit', 'tnl', 'legnext', true],
  ['MODERATION_OUTAGE', 'upstream_error', 'tnl', 'imaginepro', true],
  ['MIDJOURNEY_QUEUE_FULL', 'queue_full', 'mj-proxy', 'tnl', true],
])('%s (%s) at %s makes %s the next', async (word, code, first, second, isAccepted) => {
  const log: unknown[] = [];
  const info = (details: unknown) => void log.push(details);
  const { options, all, imagineCounts } = await start({ [first]: {}, [second]: {} }, { log: { info } });
  await imagine(`a lighthouse ${word}`, options);
  await expectFour();
  expect(all[0]!.paid() + all[1]!.paid()).toBe(1);
  expect(imagineCounts().at(-1)).toBe(1);
  const [accepted] = all[1]!.imagines.values();
  const refusal = { bridge: first, code, ...(isAccepted && { id: expect.any(String) }) };
  expect(await record()).toMatchObject({ ref: TASK, refused: [refusal], bridge: second, id: accepted!.id });
  expect(log).toEqual([{ bridge: first, code, error: expect.any(Error) }]);
});

test.each([
  ['BANNED_PROMPT', 'banned_prompt'],
  ['INVALID_PARAMETER', 'invalid_input'],
  ['INVALID_LINK', 'image_unavailable'],
])('%s is %s, and no job asks another bridge', async (word, code) => {
  const { options, imagineCounts } = await start({ tnl: {}, imaginepro: {} });
  expect(await codeOf(imagine(`a lighthouse ${word}`, options))).toBe(code);
  expect(await codeOf(imagine(`a lighthouse ${word}`, options))).toBe(code);
  expect(imagineCounts()).toEqual([1, 0]);
});

test('if all bridges refuse, the last reason counts, and each is asked once, even by a second job', async () => {
  const { options, imagineCounts, paid } = await start({ tnl: {}, legnext: {}, imaginepro: {} });
  const prompt = 'a lighthouse NO_FAST_HOURS QUEUE_FULL';
  expect(await codeOf(imagine(prompt, options))).toBe('queue_full'); // imaginepro reports that first
  expect(await codeOf(imagine(prompt, options))).toBe('queue_full');
  expect(imagineCounts()).toEqual([1, 1, 1]);
  expect(paid()).toEqual([0, 0, 0]);
  const { refused } = (await record()) as { refused: { bridge: string; code: string }[] };
  expect(refused.map(({ bridge, code }) => `${bridge} ${code}`)).toEqual([
    'tnl queue_full',
    'legnext queue_full',
    'imaginepro queue_full',
  ]);
});

test('a second job continues with the bridges that were not asked', async () => {
  const { options, imagineCounts } = await start({ tnl: {}, legnext: {} });
  const refusal = { bridge: 'tnl', code: 'queue_full', message: 'full' };
  await bucket.put(INTENT, JSON.stringify({ ref: TASK, refused: [refusal] }));
  await imagine('a lighthouse', options);
  expect(imagineCounts()).toEqual([0, 1]);
});

test('a bridge that accepted the prompt is awaited, wherever it is in the list', async () => {
  const { options, all, imagineCounts } = await start({ tnl: {}, legnext: {} });
  const id = await all[1]!.bridge.imagine('a lighthouse --ar 2:1', TASK);
  await bucket.put(INTENT, JSON.stringify({ ref: TASK, bridge: 'legnext', id }));
  await imagine('a lighthouse', options);
  await expectFour();
  expect(imagineCounts()).toEqual([0, 1]);
});

/** The first bridge has accepted the prompt, or may have: the second must not be paid. */
const mayStillDeliver: Record<string, [Options, code: string]> = {
  'does not answer': [{ intervene: (call, _, c) => (call === 'imagine' ? c.text('', 502) : undefined) }, 'lost'],
  'sends a malformed status': [
    { intervene: (call, _, c) => (call === 'status' ? c.json({ progress: [] }) : undefined) },
    'upstream_error',
  ],
  'refuses status requests': [
    { intervene: (call, _, c) => (call === 'status' ? c.json({}, 402) : undefined) },
    'no_credit',
  ],
  'does not know the imagine': [
    { intervene: (call, _, c) => (call === 'status' ? c.json({ progress: 'incomplete' }) : undefined) },
    'lost',
  ],
  'takes too long': [{ duration: Number.POSITIVE_INFINITY }, 'upstream_timeout'],
  'is done without pictures': [
    { intervene: (call, _, c) => (call === 'status' ? c.json({ progress: 100 }) : undefined) },
    'upstream_error',
  ],
  'refuses the pictures': [
    { intervene: (call, _, c) => (call === 'picture' ? c.text('', 403) : undefined) },
    'image_unavailable',
  ],
};
for (const [what, [options, code]] of Object.entries(mayStillDeliver)) {
  test(`if the first bridge ${what}, the error is ${code}, and no job asks the second`, async () => {
    const { options: all, imagineCounts } = await start({ tnl: options, legnext: {} }, { stillTimeout: 500 });
    // Without TheNextLeg's own download of pictures.
    const [{ picture: _, ...first }, second] = all.bridges as [(typeof all.bridges)[0], (typeof all.bridges)[0]];
    const bridges = [first, second];
    expect(await codeOf(imagine('a lighthouse', { ...all, bridges }))).toBe(code);
    expect(await codeOf(imagine('a lighthouse', { ...all, bridges, now: () => Date.now() + 600_000 }))).toBe(code);
    expect(imagineCounts()).toEqual([1, 0]);
  });
}

test('a timeout at the first bridge may be charged, so the second is not asked', async () => {
  const { options, imagineCounts } = await start({ imaginepro: {}, tnl: {} });
  expect(await codeOf(imagine('a lighthouse TIMED_OUT', options))).toBe('upstream_timeout');
  expect(imagineCounts()).toEqual([1, 0]);
});

test('many workers pay once if the first bridge fails an accepted prompt', async () => {
  const { options, paid, imagineCounts } = await start({ tnl: {}, imaginepro: {} });
  const work = Array.from({ length: 6 }, () => imagine('a lighthouse INTERNAL_ERROR', options));
  // imaginepro fails it with the same word: both bridges are asked, once each.
  await Promise.allSettled(work);
  expect(imagineCounts()).toEqual([1, 1]);
  expect(paid()).toEqual([0, 0]);
  await bucket.delete(`tasks/${TASK}`);
  const again = await start({ tnl: {}, legnext: {} });
  const results = await Promise.all(
    Array.from({ length: 6 }, () => codeOf(imagine('a lighthouse NO_FAST_HOURS', again.options))),
  );
  expect(results).toEqual(Array(6).fill('undefined'));
  expect(again.imagineCounts()).toEqual([1, 1]);
  expect(again.paid()).toEqual([0, 1]);
});

test('a worker waits for the id of another one that asks, until CLAIM_TIMEOUT', async () => {
  const { options, all, imagineCounts } = await start({ tnl: {} });
  const id = await all[0]!.bridge.imagine('a lighthouse --ar 2:1', TASK);
  const intent = { ref: TASK, bridge: 'tnl', asked_at: 1_000_000 };
  await bucket.put(INTENT, JSON.stringify(intent));
  let looks = 0;
  /** At the fourth read of the record the other worker has its id. */
  const get: Bucket['get'] = async (key) => {
    if (key === INTENT && ++looks === 4) await bucket.put(INTENT, JSON.stringify({ ...intent, id }));
    return bucket.get(key);
  };
  await imagine('a lighthouse', { ...options, bucket: { ...bucket, get }, now: () => 1_001_000 });
  await expectFour();
  expect(imagineCounts()).toEqual([1]);

  await bucket.delete(`tasks/${TASK}`);
  await bucket.put(INTENT, JSON.stringify(intent));
  let clock = 1_000_000;
  const now = () => (clock += 50_000);
  expect(await codeOf(imagine('a lighthouse', { ...options, now }))).toBe('lost');
  expect(clock).toBeGreaterThan(1_100_000);
});

test('a claim of a worker that died before it recorded it is lost, and not repeated', async () => {
  const { options, imagineCounts } = await start({ tnl: {}, legnext: {} });
  const refused = [{ bridge: 'tnl', code: 'queue_full', message: 'full' }];
  await bucket.put(INTENT, JSON.stringify({ ref: TASK, refused }));
  const claim = { ref: TASK, refused, bridge: 'legnext', asked_at: 5 };
  await bucket.put(`tasks/${TASK}/imagine-ask-2.json`, JSON.stringify(claim));
  expect(await codeOf(imagine('a lighthouse', options))).toBe('lost');
  expect(imagineCounts()).toEqual([0, 0]);
});

test('an abort while the bridge is asked waits for the answer, and records it', async () => {
  const controller = new AbortController();
  const { options, all } = await start(
    {
      tnl: {
        intervene: async (call, _, __, answer) => {
          if (call !== 'imagine') return undefined;
          const response = await answer();
          controller.abort(new Error('the worker had to stop'));
          await delay(20); // the abort comes before the answer
          return response;
        },
      },
    },
    { signal: controller.signal },
  );
  await expect(imagine('a lighthouse', options)).rejects.not.toBeInstanceOf(JobError);
  expect(await record()).toMatchObject({ id: [...all[0]!.imagines.keys()][0] });
});

test('a storage error when the id is recorded is rethrown, and causes no second payment', async () => {
  const { options, imagineCounts } = await start({ tnl: {}, legnext: {} });
  const failure = new StorageError('no store', 'ECONNREFUSED', 3);
  const put: Bucket['put'] = async (key, body) => {
    if (String(body).includes('"id"')) throw failure;
    await bucket.put(key, body);
  };
  await expect(imagine('a lighthouse', { ...options, bucket: { ...bucket, put } })).rejects.toBe(failure);
  expect(await codeOf(imagine('a lighthouse', { ...options, now: () => Date.now() + 600_000 }))).toBe('lost');
  expect(imagineCounts()).toEqual([1, 0]);
});

test('without a bridge the error is no_bridge, and nothing is written', async () => {
  expect(await codeOf(imagine('a lighthouse', imagineOptions(bucket, [])))).toBe('no_bridge');
  expect(await record()).toBeUndefined();
});
