import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ServerType, serve } from '@hono/node-server';
import { type Context, Hono } from 'hono';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type BridgeServerOptions, bridgeServer } from '../../../infra/local/bridge.ts';
import { type Bucket, getJson } from '../../bucket/bucket.ts';
import { diskBucket } from '../../bucket/disk.ts';
import { JobError } from '../../job.ts';
import { fetchPicture } from '../fetch.ts';
import { type ImagineOptions, imagine, pictureKey, withAspect } from './imagine.ts';
import { tnl } from './tnl.ts';

const TASK = '01890000-0000-7000-8000-000000000001';
const INTENT = `tasks/${TASK}/imagine.json`;
const KEY = 'a key';
const COLOURS = ['#d02020', '#20c020', '#2020d0', '#c0c020'] as const;

const plain = (colour: string, width: number, height: number) =>
  sharp({ create: { width, height, channels: 3, background: colour } })
    .png()
    .toBuffer();

/** The colour in the middle of a picture. */
async function colourOf(png: Buffer): Promise<string> {
  const [r, g, b] = await sharp(png).resize(1, 1).raw().toBuffer();
  return `#${[r!, g!, b!].map((value) => value.toString(16).padStart(2, '0')).join('')}`;
}

let folder: string;
let bucket: Bucket;
let server: ServerType | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tnl-test-'));
  bucket = await diskBucket(folder, { publicUrl: 'http://127.0.0.1:5000' });
});
afterEach(async () => {
  if (server) await new Promise((resolve) => server!.close(resolve));
  server = undefined;
  await rm(folder, { recursive: true });
});

/** What the bridge answers instead of its own, or nothing. */
type Intervene = (c: Context, call: number) => Response | Promise<Response> | undefined;

/** The stand-in bridge, its log of calls (`POST /v2/imagine`), and options for `imagine` that lead to it. */
async function start({
  intervene,
  apiKey = KEY,
  ...options
}: Partial<BridgeServerOptions> & { intervene?: Intervene } = {}) {
  const { app, imagines } = bridgeServer({
    apiKey: KEY,
    duration: 0,
    draw: (_words, index, width, height) => plain(COLOURS[index - 1]!, width, height),
    ...options,
  });
  const calls: string[] = [];
  const root = new Hono();
  root.use(async (c, next) => {
    calls.push(`${c.req.method} ${c.req.path}`);
    const answer = await intervene?.(c, calls.length);
    if (answer) return answer;
    return next();
  });
  root.route('/v2', app);
  const port = await new Promise<number>((resolve) => {
    server = serve({ fetch: root.fetch, hostname: '127.0.0.1', port: 0 }, (info: AddressInfo) => resolve(info.port));
  });
  const bridge = { ...tnl({ apiKey, baseUrl: `http://127.0.0.1:${port}/v2` }), pollInterval: 1 };
  const progress: number[] = [];
  const signal = new AbortController().signal;
  const imagineOptions: ImagineOptions = {
    bridge,
    bucket,
    taskId: TASK,
    W: 128,
    H: 64,
    timeout: 20_000,
    fetchPicture: (url) => fetchPicture(url, { allowPrivate: bridge.trusts(new URL(url)), signal }),
    onProgress: (part) => progress.push(part),
    signal,
  };
  const posts = () => calls.filter((call) => call.startsWith('POST')).length;
  return { imagines, calls, posts, progress, bridge, options: imagineOptions };
}

const saved = () => Promise.all([1, 2, 3, 4].map((index) => bucket.get(pictureKey(TASK, index))));

async function expectFailure(work: Promise<void>, code: string, message = /./): Promise<JobError> {
  const error = await work.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(JobError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
  expect((await saved()).some(Boolean)).toBe(false);
  return error;
}

test('four pictures come into the task’s folder, in order', async () => {
  const { options, imagines } = await start();
  await imagine('a lighthouse', options);
  const pictures = await saved();
  expect(await Promise.all(pictures.map((png) => colourOf(png!)))).toEqual(COLOURS);
  expect(await sharp(pictures[0]).metadata()).toMatchObject({ format: 'png', width: 1024, height: 512 });
  const [asked] = imagines.values();
  expect(asked).toMatchObject({ prompt: 'a lighthouse --ar 2:1', ref: TASK });
  expect(await getJson(bucket, INTENT)).toEqual({ bridge: 'tnl', ref: TASK, id: asked!.id });
});

test('asked again, it neither pays nor looks', async () => {
  const { options, imagines, calls } = await start();
  await imagine('a lighthouse', options);
  const before = calls.length;
  await imagine('a lighthouse', options);
  expect(imagines.size).toBe(1);
  expect(calls).toHaveLength(before);
});

test('two workers at once pay once', async () => {
  const { options, imagines } = await start();
  await Promise.allSettled([imagine('a lighthouse', options), imagine('a lighthouse', options)]);
  expect(imagines.size).toBe(1);
});

test('progress is reported until it is done', async () => {
  let clock = 0;
  const { options, progress } = await start({
    duration: 100,
    now: () => clock,
    intervene: (c) => {
      if (c.req.path.startsWith('/v2/message/')) clock += 40;
      return undefined;
    },
  });
  await imagine('a lighthouse', options);
  expect(progress).toEqual([0.4, 0.8]);
});

const failures = {
  BANNED_PROMPT: 'banned_prompt',
  IMAGE_BLOCKED: 'banned_prompt',
  BLOCKED: 'banned_prompt',
  INVALID_PARAMETER: 'invalid_input',
  INVALID_LINK: 'image_unavailable',
  QUEUE_FULL: 'queue_full',
  NO_FAST_HOURS: 'no_credit',
  MODERATION_OUTAGE: 'upstream_error',
  INTERNAL_ERROR: 'upstream_error',
};
for (const [word, code] of Object.entries(failures)) {
  test(`${word}: ${code}`, async () => {
    const { options } = await start();
    await expectFailure(imagine(`a lighthouse ${word}`, options), code, new RegExp(word));
  });
}

test('a failure that stands flat in the message counts too', async () => {
  const { options } = await start({
    intervene: (c) =>
      c.req.method === 'GET' ? c.json({ progress: 'incomplete', content: 'QUEUE_FULL', imageUrls: [] }) : undefined,
  });
  await expectFailure(imagine('a lighthouse', options), 'queue_full');
});

/** The bridge answers the POST with a status of its own; how that is called, and whether the task may ask again. */
const refusals = [
  { status: 400, body: { success: false, msg: "Invalid phrase: 'x'" }, code: 'banned_prompt', said: /Invalid phrase/ },
  { status: 401, body: { success: false, msg: 'Unauthorized' }, code: 'no_credit', said: /Unauthorized/ },
  { status: 402, body: {}, code: 'no_credit', said: /credit$/ },
  { status: 403, body: {}, code: 'no_credit', said: /credit$/ },
  { status: 404, body: {}, code: 'upstream_error', said: /status 404/ },
  { status: 429, body: { msg: 'Too many requests' }, code: 'rate_limited', said: /Too many requests/ },
  { status: 200, body: { success: false, msg: 'no' }, code: 'upstream_error', said: /did not take/ },
] as const;
for (const { status, body, code, said } of refusals) {
  test(`POST answered with ${status} ${JSON.stringify(body)}: ${code}, and the task may ask again`, async () => {
    const { options, posts, imagines } = await start({
      intervene: (c, call) => (call === 1 ? c.json(body, status) : undefined),
    });
    await expectFailure(imagine('a lighthouse', options), code, said);
    expect(await bucket.has(INTENT)).toBe(false);
    await imagine('a lighthouse', options);
    expect(posts()).toBe(2);
    expect(imagines.size).toBe(1);
  });
}

test('a wrong key: no_credit', async () => {
  const { options, imagines } = await start({ apiKey: 'a wrong key' });
  await expectFailure(imagine('a lighthouse', options), 'no_credit');
  expect(imagines.size).toBe(0);
});

/** After these nobody knows whether the prompt was taken: a second POST could be a second payment. */
const silences: Record<string, Intervene> = {
  'status 500': (c) => c.json({ success: false }, 500),
  'status 503': (c) => c.text('<html>try later</html>', 503),
  'an answer without an id': (c) => c.json({ success: true }),
  'an answer that is no JSON': (c) => c.text('<html>welcome</html>'),
};
for (const [what, answer] of Object.entries(silences)) {
  test(`POST answered with ${what}: lost, and never asked again`, async () => {
    const { options, posts } = await start({
      intervene: (c, call) => (c.req.method === 'POST' ? answer(c, call) : undefined),
    });
    await expectFailure(imagine('a lighthouse', options), 'lost');
    expect(await getJson(bucket, INTENT)).toEqual({ bridge: 'tnl', ref: TASK });
    await expectFailure(imagine('a lighthouse', options), 'lost');
    expect(posts()).toBe(1);
  });
}

test('an intent without an id: lost, nobody is asked', async () => {
  const { options, calls } = await start();
  await bucket.put(INTENT, JSON.stringify({ bridge: 'tnl', ref: TASK }));
  await expectFailure(imagine('a lighthouse', options), 'lost');
  expect(calls).toEqual([]);
});

test('an intent at another bridge: lost, nobody is asked', async () => {
  const { options, calls } = await start();
  await bucket.put(INTENT, JSON.stringify({ bridge: 'another', ref: TASK, id: '1' }));
  await expectFailure(imagine('a lighthouse', options), 'lost');
  expect(calls).toEqual([]);
});

test('an intent with an id is waited for, not asked again', async () => {
  const { options, bridge, posts } = await start();
  const id = await bridge.imagine('a lighthouse', TASK, options.signal);
  await bucket.put(INTENT, JSON.stringify({ bridge: 'tnl', ref: TASK, id }));
  await imagine('a lighthouse', options);
  expect((await saved()).every(Boolean)).toBe(true);
  expect(posts()).toBe(1); // our own, above
});

test('an id that the bridge has forgotten: lost', async () => {
  const { options } = await start();
  await bucket.put(INTENT, JSON.stringify({ bridge: 'tnl', ref: TASK, id: 'unknown' }));
  await expectFailure(imagine('a lighthouse', options), 'lost', /forgotten/);
});

for (const status of [500, 429] as const) {
  test(`a look that fails with ${status} is repeated`, async () => {
    let looks = 0;
    const { options, posts } = await start({
      intervene: (c) =>
        c.req.path.startsWith('/v2/message/') && ++looks === 1 ? c.json({ msg: 'not now' }, status) : undefined,
    });
    await imagine('a lighthouse', options);
    expect(looks).toBe(2);
    expect(posts()).toBe(1);
    expect((await saved()).every(Boolean)).toBe(true);
  });
}

test('a look that is refused: no_credit, and the id is kept', async () => {
  const { options } = await start({
    intervene: (c) => (c.req.method === 'GET' ? c.json({ msg: 'Unauthorized' }, 401) : undefined),
  });
  await expectFailure(imagine('a lighthouse', options), 'no_credit');
  expect(await getJson(bucket, INTENT)).toHaveProperty('id');
});

test.each([{}, [], 'soon', { progress: null }])('a look answered with %j: upstream_error', async (answer) => {
  const { options } = await start({ intervene: (c) => (c.req.method === 'GET' ? c.json(answer) : undefined) });
  await expectFailure(imagine('a lighthouse', options), 'upstream_error');
});

test('finished without pictures: upstream_error', async () => {
  const { options } = await start({
    intervene: (c) => (c.req.method === 'GET' ? c.json({ progress: 100, response: { imageUrls: [] } }) : undefined),
  });
  await expectFailure(imagine('a lighthouse', options), 'upstream_error', /without pictures/);
});

test('a bridge that never finishes: upstream_timeout; a second try waits for the same imagine', async () => {
  let clock = 0;
  const { options, imagines } = await start({ duration: 1000, now: () => clock });
  const error = await expectFailure(imagine('a lighthouse', { ...options, timeout: 100 }), 'upstream_timeout', /0.1 s/);
  expect(error.data.retryable).toBe(true);
  clock = 1000;
  await imagine('a lighthouse', options);
  expect(imagines.size).toBe(1);
});

test('an abort while waiting rejects, and is not blamed on the bridge', async () => {
  const controller = new AbortController();
  const reason = new Error('the task was canceled');
  const { options } = await start({ duration: Number.POSITIVE_INFINITY });
  const work = imagine('a lighthouse', {
    ...options,
    signal: controller.signal,
    onProgress: () => controller.abort(reason),
  });
  const error = await work.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(Error);
  expect(error).not.toBeInstanceOf(JobError); // whoever aborted knows why
  expect(await getJson(bucket, INTENT)).toHaveProperty('id');
});

for (const nested of [true, false]) {
  test(`only the grid, ${nested ? 'under response' : 'flat'}: its quarters`, async () => {
    const corners = await Promise.all(COLOURS.map((colour) => plain(colour, 40, 20)));
    const grid = await sharp({ create: { width: 80, height: 40, channels: 3, background: '#000' } })
      .composite(corners.map((input, i) => ({ input, left: 40 * (i % 2), top: 20 * Math.floor(i / 2) })))
      .png()
      .toBuffer();
    const { options } = await start({
      intervene: (c) => {
        if (c.req.path === '/grid.png') return c.body(new Uint8Array(grid));
        if (c.req.method === 'POST') return undefined;
        const result = { imageUrl: new URL('/grid.png', c.req.url).href };
        return c.json({ progress: 100, ...(nested ? { response: result } : result) });
      },
    });
    await imagine('a lighthouse', options);
    for (const [i, png] of (await saved()).entries()) {
      expect(await colourOf(png!)).toBe(COLOURS[i]);
      expect(await sharp(png).metadata()).toMatchObject({ width: 40, height: 20 });
    }
  });
}

test('pictures on the bridge’s own host may be fetched from a private address, others not', async () => {
  const { bridge, options } = await start({
    intervene: (c) =>
      c.req.path.startsWith('/v2/message/')
        ? c.json({ progress: 100, response: { imageUrl: 'http://127.0.0.1:1/grid.png' } })
        : undefined,
  });
  expect(bridge.trusts(new URL('http://127.0.0.1:1/grid.png'))).toBe(false);
  await expectFailure(imagine('a lighthouse', options), 'image_rejected', /not a public address/);
});

test.each([
  ['a lighthouse', 1024, 576, 'a lighthouse --ar 16:9'],
  ['a lighthouse', 512, 512, 'a lighthouse --ar 1:1'],
  ['a lighthouse', 576, 1024, 'a lighthouse --ar 9:16'],
  ['a lighthouse --v 6', 512, 320, 'a lighthouse --v 6 --ar 8:5'],
  ['a lighthouse --ar 3:2', 512, 512, 'a lighthouse --ar 3:2'],
  ['a lighthouse --AR 3:2 --v 6', 512, 512, 'a lighthouse --AR 3:2 --v 6'],
  ['a lighthouse --aspect 3:2', 512, 512, 'a lighthouse --aspect 3:2'],
  ['a lighthouse --arch', 512, 512, 'a lighthouse --arch --ar 1:1'],
  ['a car--ar 3:2', 512, 512, 'a car--ar 3:2 --ar 1:1'],
])('withAspect(%j, %i, %i)', (prompt, W, H, expected) => {
  expect(withAspect(prompt, W, H)).toBe(expected);
});
