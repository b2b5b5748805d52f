import { expect, onTestFinished, test } from 'vitest';
import { bridgeContract } from '../../../test/contracts/bridge-contract.ts';
import { startBridge } from '../../../test/support/test-bridge.ts';
import { mjProxy } from './mj-proxy.ts';

bridgeContract('mj-proxy', {
  refusals: {
    NO_ACCOUNT: 'upstream_error',
    EMPTY: 'invalid_input',
    SUBMIT_FAILED: 'upstream_error',
    PROXY_QUEUE_FULL: 'queue_full',
    BANNED_PROMPT: 'banned_prompt',
  },
  failures: {
    BANNED: 'banned_prompt',
    INVALID_PARAMETER: 'invalid_input',
    INVALID_LINK: 'image_unavailable',
    MIDJOURNEY_QUEUE_FULL: 'queue_full',
    NO_FAST_HOURS: 'no_credit',
    MODERATION_OUTAGE: 'upstream_error',
    INTERNAL_ERROR: 'upstream_error',
    TIMED_OUT: 'upstream_timeout',
  },
  statuses: [
    [400, {}, 'invalid_input', /./],
    [401, {}, 'no_credit', /credit$/],
    [403, {}, 'no_credit', /credit$/],
    [404, {}, 'upstream_error', /failed$/],
    [429, {}, 'rate_limited', /slow down$/],
    [302, {}, 'upstream_error', /failed$/],
  ],
  polling: {
    progress: [0.4, 0.8],
    unknown: [[], 'soon', { status: 'NEW' }, { status: 'SUCCESS', imageUrl: 5 }],
    empty: { id: '1', status: 'SUCCESS', progress: '100%', imageUrl: null },
  },
  onlyGrid: ({ imageUrls: _, ...rest }: { imageUrls: unknown }) => rest,
  keepsRef: true,
  finds: true,
  cancels: true,
});

const signal = new AbortController().signal;

async function start(...options: Parameters<typeof startBridge>) {
  const started = await startBridge(...options);
  onTestFinished(started.close);
  return started;
}

test('a queued prompt is accepted; an undocumented code is a refusal', async () => {
  const { bridge } = await start('mj-proxy', { duration: 60_000 });
  const ids = [await bridge.imagine('one', 'a'), await bridge.imagine('two', 'b')]; // the second waits: code 22
  expect(new Set(ids).size).toBe(2);
  expect(await bridge.find!('b', signal)).toBe(ids[1]);
  expect(await bridge.find!('c', signal)).toBeUndefined();
  const { bridge: odd } = await start('mj-proxy', {
    intervene: (_, __, c) => c.json({ code: 77, description: 'new' }),
  });
  await expect(odd.imagine('one', 'a')).rejects.toMatchObject({ code: 'upstream_error' });
});

test('the error names the banned word', async () => {
  const { bridge } = await start('mj-proxy');
  await expect(bridge.imagine('x BANNED_PROMPT', 'a')).rejects.toThrow('the image provider refuses the prompt: “nude”');
});

test('the original has only a grid, no cancel, and an empty answer for an unknown task', async () => {
  const { bridge } = await start('mj-proxy', { fork: false });
  const id = String(await bridge.imagine('one', 'a'));
  expect(await bridge.getStatus(id, signal)).toMatchObject({
    status: 'done',
    pictures: [],
    grid: expect.stringContaining('grid'),
  });
  await expect(bridge.cancel!(id)).rejects.toThrow();
  await expect(bridge.getStatus('unknown', signal)).rejects.toMatchObject({ code: 'lost' });
});

test('paths of pictures are resolved against the bridge, which may store them itself', async () => {
  const { bridge, baseUrl } = await start('mj-proxy', {
    intervene: (_, __, c) => c.json({ id: '1', status: 'SUCCESS', imageUrl: '/attachments/a b.png', imageUrls: [] }),
  });
  expect(await bridge.getStatus('1', signal)).toMatchObject({ grid: new URL('/attachments/a%20b.png', baseUrl).href });
});

test('without a secret it sends none', async () => {
  let headers: Headers | undefined;
  const { baseUrl } = await start('mj-proxy', {
    intervene: (_, __, c) => {
      headers = c.req.raw.headers;
      return undefined;
    },
  });
  await expect(mjProxy({ baseUrl }).imagine('one', 'a')).rejects.toMatchObject({ code: 'no_credit' });
  expect(headers!.has('mj-api-secret')).toBe(false);
});
