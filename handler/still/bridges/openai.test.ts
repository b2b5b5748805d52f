import OpenAI from 'openai';
import { afterEach, expect, test } from 'vitest';
import { bridgeContract } from '../../../test/contracts/bridge-contract.ts';
import {
  COLOURS,
  colourOf,
  imagineOptions,
  memoryBucket,
  plain,
  startBridge,
  TASK,
} from '../../../test/support/test-bridge.ts';
import { prepareStill } from '../still.ts';
import { describeDrawn, imagine, pictureKey } from './imagine.ts';
import { chooseSize, openai } from './openai.ts';

const error = (message: string, code: string | null, param: string | null = null, type = 'invalid_request_error') => ({
  error: { message, type, param, code },
});

bridgeContract('openai', {
  refusals: {
    MODERATED: 'banned_prompt',
    POLICY: 'banned_prompt',
    GATEWAY_POLICY: 'banned_prompt',
    SAFETY: 'banned_prompt',
    INSUFFICIENT_QUOTA: 'no_credit',
    HARD_LIMIT: 'no_credit',
    SLOW_DOWN: 'rate_limited',
    UNVERIFIED: 'no_credit',
    NO_MODEL: 'upstream_error',
  },
  failures: {},
  statuses: [
    [400, error('Invalid size', 'invalid_value', 'size'), 'upstream_error', /^the bridge failed$/],
    [400, error('too long', 'string_above_max_length', 'prompt'), 'invalid_input', /too long$/],
    [400, { detail: 'The prompt is empty' }, 'invalid_input', /The prompt is empty$/],
    [400, { message: 'Bad request', type: 'BadRequestError', param: null, code: 400 }, 'invalid_input', /Bad request$/],
    [401, error('Incorrect API key provided', 'invalid_api_key'), 'no_credit', /credit$/],
    [403, error('Country, region, or territory not supported', 'unsupported_country'), 'no_credit', /credit$/],
    [400, { error: 'Wrong aspect ratio' }, 'invalid_input', /Wrong aspect ratio$/],
    [404, { detail: 'Not Found' }, 'upstream_error', /failed$/],
    [422, { detail: [{ loc: ['body', 'size'], msg: 'wrong' }] }, 'invalid_input', /./],
    [429, error('Rate limit reached', 'rate_limit_exceeded', null, 'requests'), 'rate_limited', /slow down$/],
    [429, error('You exceeded your quota', null, null, 'insufficient_quota'), 'no_credit', /credit$/],
    [429, {}, 'rate_limited', /slow down$/],
    [302, {}, 'upstream_error', /failed$/],
  ],
  keepsRef: true,
  finds: false,
  cancels: false,
});

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

/** A server that records the bodies of requests, and answers `answer` if it is given. */
async function start(model: string, { answer, count = 1 }: { answer?: unknown; count?: number } = {}) {
  const bodies: Record<string, unknown>[] = [];
  const started = await startBridge('openai', {
    ...{ model, count },
    async intervene(call, _, c) {
      if (call !== 'imagine') return undefined;
      bodies.push(await c.req.json());
      if (answer instanceof ReadableStream) return new Response(answer);
      return answer === undefined ? undefined : c.json(answer);
    },
  });
  closing.push(started.close);
  return { ...started, bodies };
}

test.each([
  ['gpt-image-1', '1536x1024', {}],
  ['gpt-image-1.5', '1536x1024', {}],
  ['gpt-image-2', '1360x768', {}],
  ['dall-e-3', '1792x1024', { response_format: 'b64_json' }],
  ['dall-e-2', '1024x1024', { response_format: 'b64_json' }],
  ['Qwen/Qwen-Image', '1360x768', {}],
])('%s accepts the request, with the size %s', async (model, size, more) => {
  const { bridge, bodies, calls } = await start(model);
  const bucket = memoryBucket();
  await imagine('a lighthouse', imagineOptions(bucket, [bridge], { W: 848, H: 480 }));
  expect(bodies).toEqual([{ model, prompt: 'a lighthouse', n: 1, size, ...more }]);
  expect(await colourOf((await bucket.get(pictureKey(TASK, 1)))!)).toBe(COLOURS[0]);
  expect(await bucket.has(pictureKey(TASK, 2))).toBe(false);
  expect(calls.picture).toBe(model.startsWith('Qwen') ? 1 : 0);
});

test('STILL_COUNT pictures come in one answer, in order', async () => {
  const { bridge, calls } = await start('gpt-image-1', { count: 3 });
  const bucket = memoryBucket();
  await imagine('a lighthouse', imagineOptions(bucket, [bridge]));
  const pictures = await Promise.all([1, 2, 3].map((index) => bucket.get(pictureKey(TASK, index))));
  expect(await Promise.all(pictures.map((png) => colourOf(png!)))).toEqual(COLOURS.slice(0, 3));
  expect(calls).toMatchObject({ imagine: 1, picture: 0 });
});

test('quality and sizes are the operator’s; the size is the nearest to the frame or to --ar', async () => {
  const { baseUrl, bodies } = await start('gpt-image-1');
  const options = { model: 'gpt-image-1', apiKey: 'a key', baseUrl, answerTimeout: 5000 };
  const portrait = openai({ ...options, quality: 'low', sizes: ['1024x1024', '1024x1536'] });
  await portrait.imagine(portrait.writePrompt('a', 480, 848), 'one');
  await portrait.imagine(portrait.writePrompt('a --ar 1:1', 480, 848), 'two');
  const auto = openai({ ...options, sizes: ['auto'] });
  await auto.imagine(auto.writePrompt('a', 480, 848), 'three');
  expect(bodies.map(({ size, quality }) => [size, quality])).toEqual([
    ['1024x1536', 'low'],
    ['1024x1024', 'low'],
    ['auto', undefined],
  ]);
});

test.each([
  [16 / 9, '1360x768'],
  [1, '1024x1024'],
  [9 / 16, '768x1360'],
  [5, '1776x592'],
  [1 / 5, '592x1776'],
])('without a list, the size for the ratio %d is %s', (ratio, size) => {
  expect(chooseSize(ratio)).toBe(size);
});

test('Midjourney’s flags are left out of the prompt, and a warning names them', async () => {
  const { bridge, bodies } = await start('gpt-image-1');
  const options = imagineOptions(memoryBucket(), [bridge]);
  const prompt =
    'a sign \\{open\\} at https://example.com — calm —quiet --stylize 200 --no people, cars --ar 2:3 --Stylize 3';
  await imagine(prompt, options);
  expect(bodies).toMatchObject([{ prompt: 'a sign {open} at https://example.com — calm —quiet', size: '1024x1536' }]);
  expect(await describeDrawn(prompt, options)).toEqual({
    pictures: 1,
    warnings: [{ field: 'prompt', message: expect.stringMatching(/Midjourney’s flags; .*: --stylize, --no$/) }],
  });
  expect(await describeDrawn('a lighthouse --ar 2:3', options)).toEqual({ pictures: 1, warnings: [] });
  const midjourney = await startBridge('tnl');
  closing.push(midjourney.close);
  expect(await describeDrawn(prompt, { ...options, bridges: [midjourney.bridge] })).toMatchObject({ warnings: [] });
});

test('image_index above the number of pictures is refused before a payment, or another bridge is asked', async () => {
  const { bridge, calls } = await start('gpt-image-1');
  const job = { task_id: TASK, prompt: 'a lighthouse', W: 128, H: 64, image_index: 2 } as never;
  const options = imagineOptions(memoryBucket(), [bridge]);
  await expect(prepareStill(job, options)).rejects.toMatchObject({
    code: 'invalid_input',
    message: expect.stringMatching(/^image_index must be 1:/),
  });
  expect(calls.imagine).toBe(0);
  const midjourney = await startBridge('tnl');
  closing.push(midjourney.close);
  expect(await colourOf(await prepareStill(job, { ...options, bridges: [bridge, midjourney.bridge] }))).toBe(
    COLOURS[1],
  );
  expect(calls.imagine).toBe(0);
});

const png = (await plain('#d02020', 64, 32)).toString('base64');

test.each([
  ['base64 with a prefix', { data: [{ b64_json: `data:image/png;base64,${png}` }] }],
  ['null in the other field', { created: null, data: [{ url: null, b64_json: png, revised_prompt: 'a tower' }] }],
  ['more pictures than asked for', { data: [{ b64_json: png }, { b64_json: 'x' }] }],
])('an answer may have %s', async (_, answer) => {
  const { bridge } = await start('gpt-image-1', { answer });
  const bucket = memoryBucket();
  await imagine('a lighthouse', imagineOptions(bucket, [bridge]));
  expect(await colourOf((await bucket.get(pictureKey(TASK, 1)))!)).toBe('#d02020');
});

test.each([
  ['no picture', { data: [] }, 'lost'],
  ['an empty picture', { data: [{}] }, 'lost'],
  ['the error of a moderation', error('Your request was rejected', 'moderation_blocked'), 'banned_prompt'],
  ['the error of a quota', error('You exceeded your quota', null, null, 'insufficient_quota'), 'no_credit'],
  ['another error', error('Something went wrong', 'server_error'), 'lost'],
  ['no base64', { data: [{ b64_json: '!' }] }, 'image_unavailable'],
  ['a picture at a private address', { data: [{ url: 'http://127.0.0.1:1/a.png' }] }, 'image_unavailable'],
  ['no URL', { data: [{ url: 'http://' }] }, 'upstream_error'],
])('an answer with %s fails, and no job asks again', async (_, answer, code) => {
  const { bridge, calls } = await start('gpt-image-1', { answer });
  const options = imagineOptions(memoryBucket(), [bridge]);
  await expect(imagine('a lighthouse', options)).rejects.toMatchObject({ code });
  await expect(imagine('a lighthouse', { ...options, now: () => Date.now() + 600_000 })).rejects.toMatchObject({
    code,
  });
  expect(calls.imagine).toBe(1);
});

test('an endless answer is given up before it fills the memory', async () => {
  const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(4e6).fill(0x20)) });
  const { bridge, calls } = await start('gpt-image-1', { answer: endless });
  await expect(imagine('a lighthouse', imagineOptions(memoryBucket(), [bridge]))).rejects.toMatchObject({
    ...{ code: 'lost', cause: { cause: { code: 'UND_ERR_RES_EXCEEDED_MAX_SIZE' } } },
  });
  expect(calls.imagine).toBe(1);
});

test('OpenAI’s own client understands the simulator', async () => {
  const { baseUrl } = await start('gpt-image-1');
  const { images } = new OpenAI({ apiKey: 'a key', baseURL: baseUrl, maxRetries: 0 });
  const request = { model: 'gpt-image-1', prompt: 'a lighthouse', size: '1536x1024' } as const;
  const { data, usage } = await images.generate(request);
  expect(await colourOf(Buffer.from(data![0]!.b64_json!, 'base64'))).toBe(COLOURS[0]);
  expect(usage).toMatchObject({ total_tokens: 1065 });
  await expect(images.generate({ ...request, prompt: 'x MODERATED' })).rejects.toMatchObject({
    ...{ status: 400, code: 'moderation_blocked', type: 'image_generation_user_error' },
  });
  await expect(images.generate({ ...request, response_format: 'url' })).rejects.toMatchObject({
    ...{ status: 400, code: 'unknown_parameter', param: 'response_format' },
  });
  await expect(images.generate({ ...request, size: '256x256' })).rejects.toMatchObject({ param: 'size' });
});

test('a server without keys gets none', async () => {
  const { baseUrl } = await start('flux');
  const bridge = openai({ model: 'flux', baseUrl, answerTimeout: 5000 });
  await expect(bridge.imagine('a lighthouse', TASK)).rejects.toMatchObject({ code: 'no_credit' }); // this one has keys
});
