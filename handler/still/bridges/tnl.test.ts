import { expect, test } from 'vitest';
import type { ErrorCode, JobInput } from '../../../core/job.ts';
import { bridgeContract } from '../../../test/contracts/bridge-contract.ts';
import {
  COLOURS,
  colourOf,
  imagineOptions,
  memoryBucket,
  startBridge,
  TASK,
} from '../../../test/support/test-bridge.ts';
import { prepareStill } from '../still.ts';
import { imagine } from './imagine.ts';

/** All failures that TheNextLeg documents as an imagine's `content`, by what they mean to a caller. */
const FAILURES: Partial<Record<ErrorCode, string[]>> = {
  banned_prompt: ['BANNED_PROMPT', 'IMAGE_BLOCKED', 'BLOCKED'],
  invalid_input: ['INVALID_PARAMETER'],
  image_unavailable: ['INVALID_LINK'],
  queue_full: ['QUEUE_FULL'],
  no_credit: ['NO_FAST_HOURS'],
  upstream_error: ['MODERATION_OUTAGE', 'INTERNAL_ERROR'],
};

bridgeContract('tnl', {
  refusals: {},
  failures: Object.fromEntries(
    Object.entries(FAILURES).flatMap(([code, contents]) => contents.map((content) => [content, code as ErrorCode])),
  ),
  statuses: [
    [400, { success: false, msg: "Invalid phrase: 'queue full'" }, 'banned_prompt', /Invalid phrase/],
    [400, {}, 'banned_prompt', /./],
    [401, { success: false, msg: 'Unauthorized' }, 'no_credit', /credit$/],
    [402, {}, 'no_credit', /credit$/],
    [403, {}, 'no_credit', /credit$/],
    [404, {}, 'upstream_error', /failed$/],
    [429, { msg: 'Too many requests' }, 'rate_limited', /slow down$/],
    [302, {}, 'upstream_error', /failed$/],
  ],
  polling: {
    progress: [0.4, 0.8],
    unknown: [{}, [], 'soon', null, { progress: null }, { progress: 100, response: { imageUrls: 'x' } }],
    empty: { progress: 100, response: { imageUrls: [] } },
  },
  onlyGrid: ({ response: { imageUrls: _, ...response }, ...rest }: { response: { imageUrls: string[] } }) => ({
    ...rest,
    response,
  }),
  keepsRef: true,
  finds: false,
  cancels: false,
});

const signal = new AbortController().signal;

test('a result or failure may be flat in the message', async () => {
  let answer: object = {};
  const { bridge, close } = await startBridge('tnl', {
    intervene: (call, _, c) => (call === 'status' ? c.json(answer) : undefined),
  });
  answer = { progress: 'incomplete', content: 'QUEUE_FULL', imageUrls: [] };
  expect(await bridge.getStatus('1', signal)).toMatchObject({ status: 'failed', error: { code: 'queue_full' } });
  answer = { progress: 100, imageUrl: 'http://127.0.0.1/grid.png', content: 'a lighthouse' };
  expect(await bridge.getStatus('1', signal)).toEqual({
    status: 'done',
    pictures: [],
    grid: 'http://127.0.0.1/grid.png',
  });
  await close();
});

test('a picture at a private address of another host is image_unavailable', async () => {
  const { bridge, close } = await startBridge('tnl', {
    intervene: (call, _, c) =>
      call === 'status' ? c.json({ progress: 100, imageUrl: 'http://127.0.0.1:1/grid.png' }) : undefined,
  });
  const { picture: _, ...without } = bridge;
  const error = await imagine('x', imagineOptions(memoryBucket(), [without])).catch((error) => error);
  expect(error).toMatchObject({
    code: 'image_unavailable',
    cause: { message: expect.stringMatching('not a public address') },
  });
  await close();
});

test('a refusal may have status 200', async () => {
  const { bridge, close } = await startBridge('tnl', {
    intervene: (call, _, c) => (call === 'imagine' ? c.json({ success: false, msg: 'no' }) : undefined),
  });
  await expect(bridge.imagine('a lighthouse', 'ref')).rejects.toMatchObject({ code: 'upstream_error' });
  await close();
});

test('pictures whose host refuses us are downloaded through the bridge', async () => {
  const { bridge, close, paths, paid } = await startBridge('tnl', {
    intervene: (call, _, c) => (call === 'picture' ? c.text('not for you', 403) : undefined),
  });
  const still = await prepareStill({ task_id: TASK, prompt: 'x', W: 128, H: 64, image_index: 3 } as JobInput, {
    ...{ bucket: memoryBucket(), bridges: [bridge], allowPrivate: false, stillTimeout: 15_000 },
    ...{ onProgress: () => {}, signal },
  });
  expect(await colourOf(still)).toBe(COLOURS[2]);
  expect(paths.filter((path) => path === 'POST /v2/getImage')).toHaveLength(4);
  expect(paid()).toBe(1);
  await close();
});
