/** The endpoints below /v1. test/e2e/openai.test.ts uses them with OpenAI's own clients. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type OpenAI from 'openai';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, expectTypeOf, test } from 'vitest';
import type { OpenAiError, OpenAiModel, Video, VideoDeleted, VideoList } from '../../../core/openai-responses.ts';
import { type TestService, testService } from '../../../test/support/test-api.ts';
import { makeSpriteSheet } from './sprite-sheet.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

const ask = (path: string, init: RequestInit = {}) => fetch(`${service.url}/v1${path}`, init);
const post = (body: unknown, headers: Record<string, string> = {}) =>
  ask('/videos', {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
const form = (fields: [name: string, value: string | Blob][]) => {
  const body = new FormData();
  for (const [name, value] of fields) body.append(name, value);
  return ask('/videos', { method: 'POST', body });
};
async function create(body: object) {
  const video = (await (await post(body)).json()) as Video;
  return { video, task: await service.status(video.id) };
}
const png = async () => {
  const picture = sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } });
  return new Blob([new Uint8Array(await picture.png().toBuffer())]);
};
/** Ids of tasks, and their folders in the bucket. */
const stored = async () => [
  (await service.store.list({ owner: 'local', limit: 1000 })).map(({ id }) => id),
  await readdir(join(service.folder, 'bucket/objects/tasks')).catch(() => []),
];

test('responses have the types of OpenAI’s package, as the compiler checks', () => {
  // Its type of `size` lists only the sizes of OpenAI’s own models.
  expectTypeOf<Video>().toExtend<Omit<OpenAI.Videos.Video, 'size'>>();
  expectTypeOf<VideoDeleted>().toExtend<OpenAI.Videos.VideoDeleteResponse>();
  expectTypeOf<VideoList>().toExtend<Pick<OpenAI.Videos.VideosPage, 'has_more'> & { data: { id: string }[] }>();
  expectTypeOf<OpenAiModel>().toExtend<OpenAI.Models.Model>();
  expectTypeOf<OpenAiError['error']>().toExtend<OpenAI.ErrorObject>();
});

describe('what maps to what', () => {
  test.each([
    ['seconds', { seconds: '4' }, { T: 96, fps: 24 }, []],
    ['seconds as a number', { seconds: 2.5 }, { T: 60, fps: 24 }, []],
    ['seconds that are no whole number of frames', { seconds: 0.3 }, { T: 7, fps: 24 }, ['seconds']],
    ['seconds for which MAX_FRAMES is too low', { seconds: '8' }, { T: 96, fps: 12 }, ['seconds']],
    ['seconds with fps', { seconds: '2', fps: 10 }, { T: 20, fps: 10 }, []],
    ['no seconds', {}, { T: 73, fps: 24 }, []],
    ['size', { size: '1024x1792' }, { W: 1024, H: 1792 }, []],
    ['size of the model', { size: '480x848' }, { W: 480, H: 848 }, []],
    ['size that is no multiple of 64', { size: '1280x720' }, { W: 1280, H: 704 }, ['size']],
    ['size auto', { size: 'auto' }, { W: 848, H: 480 }, []],
    ['a model of OpenAI', { model: 'sora-2-pro' }, {}, ['model']],
    ['our own model, and absent values', { model: 'camera', seconds: null, input_reference: null }, {}, []],
    ['our own parameters', { seed: 5, motion_bucket_id: 200 }, { seed: 5, motion_bucket_id: 200 }, []],
  ])('%s', async (_, body, input, warned) => {
    const { video, task } = await create({ prompt: 'x', ...body });
    expect(task.input).toMatchObject({ prompt: 'x', ...input });
    expect(task.warnings.map(({ field }) => field)).toEqual(warned);
    expect(video).toMatchObject({
      prompt: 'x',
      warnings: task.warnings,
      seconds: String(Math.round((100 * task.input.T) / task.input.fps) / 100),
      size: `${task.input.W}x${task.input.H}`,
    });
  });

  test('a picture is used instead of the prompt, and a warning says so', async () => {
    const url = 'https://example.com/a.png';
    const bodies = [{ input_reference: { image_url: url } }, { image_url: url }];
    for (const body of bodies) {
      const { video, task } = await create({ prompt: 'x', ...body });
      expect(task.input).toMatchObject({ image_url: url });
      expect(task.input.prompt).toBeUndefined();
      expect(video).toMatchObject({ prompt: null, size: 'auto', warnings: [{ field: 'prompt' }] });
    }
    const file = await (
      await form([
        ['prompt', 'x'],
        ['input_reference', await png()],
      ])
    ).json();
    expect(file).toMatchObject({ prompt: null, size: '768x512', warnings: [{ field: 'prompt' }] });
    const fields = await form([
      ['input_reference[image_url]', url],
      ['seconds', '1'],
    ]);
    expect(await fields.json()).toMatchObject({ seconds: '1', warnings: [] });
  });
});

test('a data URL is a picture, in JSON and in a form, also of nearly 20 MB', async () => {
  const picture = new Uint8Array(await (await png()).arrayBuffer());
  const dataUrl = (bytes: number) => `data:image/png;base64,${Buffer.concat([picture], bytes).toString('base64')}`; // zeros after the picture
  const requests = [
    () => post({ prompt: '', input_reference: { image_url: dataUrl(1_000_000) } }),
    () => post({ image_url: dataUrl(1_000_000) }),
    () => form([['input_reference[image_url]', dataUrl(19_900_000)]]),
  ];
  for (const request of requests)
    expect(await (await request()).json()).toMatchObject({ prompt: null, size: '768x512', warnings: [] });
});

describe('errors', () => {
  const REFERENCE = { image_url: 'https://example.com/a.png' };
  test.each<[string, () => Promise<Response>, number, string | null]>([
    ['invalid JSON', () => post('{'), 400, null],
    ['JSON that is no object', () => post('[]'), 400, null],
    ['another content type', () => post('x', { 'content-type': 'text/plain' }), 415, null],
    ['broken multipart', () => post('--a\r\nx', { 'content-type': 'multipart/form-data; boundary=a' }), 400, null],
    ['multipart without boundary', () => post('x', { 'content-type': 'multipart/form-data' }), 400, null],
    ['a huge text', () => post({ prompt: 'x'.repeat(1_100_000) }), 413, null],
    ['a huge file', () => form([['input_reference', new Blob([new Uint8Array(20_100_000)])]]), 413, null],
    ['nothing', () => post({}), 400, 'prompt'],
    ['a prompt that is no text', () => post({ prompt: 5 }), 400, 'prompt'],
    ['a prompt that is no text, with a picture', () => post({ prompt: 5, input_reference: REFERENCE }), 400, 'prompt'],
    ['an empty prompt', () => post({ prompt: ' ' }), 400, 'prompt'],
    ['a long prompt', () => post({ prompt: 'x'.repeat(4001) }), 400, 'prompt'],
    ['an unknown name', () => post({ prompt: 'x', quality: 'high' }), 400, 'quality'],
    ['a name that objects have', () => post({ prompt: 'x', constructor: 1 }), 400, 'constructor'],
    ['the name of a prototype', () => post('{"prompt":"x","__proto__":{"seed":5}}'), 400, '__proto__'],
    ['a model that is no text', () => post({ prompt: 'x', model: {} }), 400, 'model'],
    ['another model', () => post({ prompt: 'x', model: 'svd' }), 400, 'model'],
    ['seconds that are no number', () => post({ prompt: 'x', seconds: 'four' }), 400, 'seconds'],
    ['no seconds at all', () => post({ prompt: 'x', seconds: 0 }), 400, 'seconds'],
    ['huge seconds', () => post({ prompt: 'x', seconds: 1e300 }), 400, 'seconds'],
    ['too many seconds at fps', () => post({ prompt: 'x', seconds: 5, fps: 24 }), 400, 'seconds'],
    ['seconds and T', () => post({ prompt: 'x', seconds: 4, T: 4 }), 400, 'seconds'],
    ['seconds, and an invalid fps', () => post({ prompt: 'x', seconds: 4, fps: 'x' }), 400, 'fps'],
    ['seconds, and a huge fps', () => post({ prompt: 'x', seconds: 4, fps: 1e9 }), 400, 'fps'],
    ['a size in words', () => post({ prompt: 'x', size: '1080p' }), 400, 'size'],
    ['a size that is no text', () => post({ prompt: 'x', size: [64, 64] }), 400, 'size'],
    ['a huge size', () => post({ prompt: 'x', size: '99999x64' }), 400, 'size'],
    ['size and W', () => post({ prompt: 'x', size: '64x64', W: 64 }), 400, 'size'],
    ['a reference as text', () => post({ input_reference: 'https://example.com/a.png' }), 400, 'input_reference'],
    ['a reference by file_id', () => post({ input_reference: { file_id: 'file-1' } }), 400, 'input_reference'],
    ['a reference with more', () => post({ input_reference: { ...REFERENCE, x: 1 } }), 400, 'input_reference'],
    ['a reference that is no URL', () => post({ input_reference: { image_url: 'x' } }), 400, 'input_reference'],
    ['a data URL without base64', () => post({ input_reference: { image_url: 'data:,x' } }), 400, 'input_reference'],
    [
      'a data URL of no picture',
      () => post({ input_reference: { image_url: 'data:image/png;base64,eHh4' } }),
      400,
      'input_reference',
    ],
    [
      'two pictures',
      () => post({ image: 'data:image/png;base64,eHh4', input_reference: REFERENCE }),
      400,
      'input_reference',
    ],
    ['a private URL', () => post({ input_reference: { image_url: 'http://10.0.0.1/' } }), 400, 'input_reference'],
    ['several sources', () => post({ input_reference: REFERENCE, ...REFERENCE }), 400, 'input_reference'],
    [
      'two files',
      () =>
        form([
          ['input_reference', new Blob(['a'])],
          ['input_reference', new Blob(['b'])],
        ]),
      400,
      'input_reference',
    ],
    [
      'a file and a URL',
      async () =>
        form([
          ['input_reference', await png()],
          ['input_reference[image_url]', 'https://a.example'],
        ]),
      400,
      'input_reference',
    ],
    ['a file that is no picture', () => form([['input_reference', new Blob(['no'])]]), 400, 'input_reference'],
    ['a file by another name', async () => form([['image', await png()]]), 400, 'image'],
    ['a query', () => ask('/videos?dry_run=1', { method: 'POST' }), 400, 'dry_run'],
    ['a limit of 0', () => ask('/videos?limit=0'), 400, 'limit'],
    ['a huge limit', () => ask('/videos?limit=101'), 400, 'limit'],
    ['an unknown order', () => ask('/videos?order=up'), 400, 'order'],
    ['after no id', () => ask('/videos?after=video_1'), 400, 'after'],
    ['an unknown variant', () => ask('/videos/x/content?variant=gif'), 400, 'variant'],
    ['no such path', () => ask('/chat/completions', { method: 'POST' }), 404, null],
    ['no such video', () => ask('/videos/x'), 404, null],
    ['no such content', () => ask('/videos/x/content'), 404, null],
    ['no such video to delete', () => ask('/videos/x', { method: 'DELETE' }), 404, null],
    ['a remix', () => ask('/videos/x/remix', { method: 'POST' }), 404, null],
    ['a character', () => ask('/videos/characters/x'), 404, null],
    ['no such model', () => ask('/models/gpt-5'), 404, null],
  ])('%s is an error in OpenAI’s form, and nothing is stored', async (_, request, status, param) => {
    const before = await stored();
    const response = await request();
    const { error, ...others } = await response.json();
    expect([response.status, response.headers.get('content-type')]).toEqual([status, 'application/json']);
    expect(error).toEqual({
      message: expect.stringMatching(/.{8}/),
      type: 'invalid_request_error',
      param,
      code: expect.stringMatching(/^[a-z_]+$/),
    });
    expect(others).toEqual({});
    expect(await stored()).toEqual(before);
  });

  test('an unknown name gets the similar one of OpenAI’s API, or else ours', async () => {
    const message = async (name: string) => (await (await post({ prompt: 'x', [name]: 1 })).json()).error.message;
    expect(await message('Seconds')).toBe('Seconds: unknown; did you mean seconds?');
    expect(await message('inputReference')).toBe('inputReference: unknown; did you mean input_reference?');
    expect(await message('stps')).toBe('stps: unknown; did you mean steps?');
    expect(await message('duration')).toBe('duration: unknown; use T and fps: seconds = T / fps');
  });

  test('other methods get 405, which lists those of all endpoints of the path', async () => {
    const allowed = async (path: string) => {
      const response = await ask(path, { method: 'PATCH' });
      expect(await response.json()).toMatchObject({ error: { code: 'method_not_allowed' } });
      return [response.status, response.headers.get('allow')];
    };
    expect(await allowed('/videos')).toEqual([405, 'POST, GET, HEAD']);
    expect(await allowed('/videos/x')).toEqual([405, 'GET, HEAD, DELETE']);
    expect(await allowed('/models')).toEqual([405, 'GET, HEAD']);
    const { error } = await (await ask('/video', { method: 'POST' })).json();
    expect(error.message).toBe('no such path; did you mean POST /v1/videos?');
  });

  test('errors of keys, limits and budgets have the headers that clients act on', async () => {
    const own = await testService({ PRICE_PER_GPU_SECOND: '1' });
    try {
      const as = (authorization: string, init: RequestInit = {}) =>
        fetch(`${own.url}/v1/videos`, { ...init, headers: { ...init.headers, authorization } });
      const made = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"prompt":"x"}' };
      const show = async (response: Response) => {
        const { error } = await response.json();
        const { headers, status } = response;
        return [status, error?.type, error?.code, headers.get('retry-after'), headers.get('x-should-retry')];
      };
      expect((await as('Bearer sk-any-token')).status).toBe(200); // as long as there is no key
      const { headers: poor } = await own.key({ budget: 0 });
      const { headers: fast } = await own.key({ submissions_per_minute: 1 });
      const { headers: busy } = await own.key({ requests_per_minute: 1 });
      own.clock.ahead += 2000; // access remembers for a second that there is none
      const invalid = await as('Bearer sk-any-token');
      expect(invalid.headers.get('www-authenticate')).toMatch(/^Bearer/);
      expect(await show(invalid)).toEqual([401, 'invalid_request_error', 'invalid_api_key', null, null]);
      expect(await show(await as(poor.authorization, made))).toEqual([
        ...[429, 'insufficient_quota', 'insufficient_quota', null, 'false'],
      ]);
      const limited = [429, 'rate_limit_error', 'rate_limit_exceeded', expect.stringMatching(/^\d+$/), null];
      expect((await as(fast.authorization, made)).headers.get('ratelimit')).toMatch(/r=0/);
      expect(await show(await as(fast.authorization, made))).toEqual(limited);
      await as(busy.authorization);
      expect(await show(await as(busy.authorization))).toEqual(limited);
    } finally {
      await own.close();
    }
  });
});

test('a retry with the same Idempotency-Key returns the same video, and another request with it is refused', async () => {
  const key = { 'idempotency-key': 'lighthouse-1' };
  const body = { prompt: 'a lighthouse', seconds: '3' };
  const [first, again] = [await post(body, key), await post(body, key)];
  expect([again.status, again.headers.get('idempotency-replayed')]).toEqual([200, 'true']);
  expect(await again.json()).toEqual(await first.json());
  const other = await post({ ...body, seconds: '2' }, key);
  expect([other.status, other.headers.get('x-should-retry')]).toEqual([409, 'false']);
});

test('a video’s status follows its task; an active one has no content and can’t be deleted; a deleted one is gone', async () => {
  const { video } = await create({ prompt: 'x' });
  const path = `/videos/${video.id}`;
  const read = async () => (await (await ask(path)).json()) as Video;
  expect(await read()).toMatchObject({ status: 'queued', completed_at: null, expires_at: null });
  const job = await service.take(video.id);
  service.report(job.id, { output: { stage: 'sampling', progress: 0.479 }, status: 'IN_PROGRESS' });
  await service.until(video.id, ({ progress }) => progress > 0);
  expect(await read()).toMatchObject({ status: 'in_progress', progress: 47 });
  expect((await ask(`${path}/content`)).status).toBe(404);
  expect((await ask(path, { method: 'DELETE' })).status).toBe(409);
  service.report(job.id, { output: await service.finish(video.id, job.id) });
  await service.until(video.id, ({ status }) => status === 'succeeded');
  expect(await read()).toMatchObject({ status: 'completed', progress: 100, completed_at: expect.any(Number) });

  const redirect = await ask(`${path}/content`, { redirect: 'manual' });
  expect(redirect.status).toBe(302);
  expect(redirect.headers.get('location')).toContain(`/${job.id}/video-1.mp4?`);
  for (const variant of ['thumbnail', 'spritesheet']) {
    const picture = await ask(`${path}/content?variant=${variant}`);
    expect([picture.status, picture.headers.get('content-type')]).toEqual([200, 'image/jpeg']);
  }
  await service.bucket.delete(`tasks/${video.id}`); // a deletion may run during the request
  const { error } = await (await ask(`${path}/content?variant=spritesheet`)).json();
  expect(error).toMatchObject({ code: 'not_found', message: 'there is no such video' });
  for (let i = 0; i < 2; i++)
    expect(await (await ask(path, { method: 'DELETE' })).json()).toEqual({
      ...{ id: video.id, object: 'video.deleted', deleted: true },
    });
  expect((await ask(path)).status).toBe(404);
  expect((await ask(`${path}/content`)).status).toBe(404);
  const { data } = (await (await ask('/videos?limit=100')).json()) as VideoList;
  expect(data.map(({ id }) => id)).not.toContain(video.id);
});

test('failed and canceled videos say why', async () => {
  const [failed, canceled] = [(await create({ prompt: 'x' })).video, (await create({ prompt: 'x' })).video];
  await fetch(`${service.url}/cancel?id=${canceled.id}`, { method: 'POST' });
  const job = await service.take(failed.id);
  const error = { code: 'banned_prompt', message: 'Midjourney refuses this prompt', retryable: false };
  service.report(job.id, { error: JSON.stringify(error) });
  await service.until(failed.id, ({ status }) => status === 'failed');
  const read = async ({ id }: Video) => (await ask(`/videos/${id}`)).json();
  expect(await read(failed)).toMatchObject({
    ...{ status: 'failed', expires_at: null },
    error: { code: 'banned_prompt', message: 'Midjourney refuses this prompt' },
  });
  expect(await read(canceled)).toMatchObject({ status: 'failed', error: { code: 'canceled' } });
});

test('a sprite sheet has the frames of an animation in rows', async () => {
  const colours = ['#ff0000', '#00ff00', '#0000ff', '#ffff00', '#ff00ff'];
  const frames = await Promise.all(
    colours.map((background) =>
      sharp({ create: { width: 32, height: 16, channels: 3, background } })
        .raw()
        .toBuffer(),
    ),
  );
  const raw = { width: 32, height: 16 * frames.length, pageHeight: 16, channels: 3 as const };
  const animation = await sharp(Buffer.concat(frames), { raw })
    .webp({ lossless: true, delay: [100] })
    .toBuffer();
  const { data, info } = await sharp(await makeSpriteSheet(animation))
    .raw()
    .toBuffer({ resolveWithObject: true });
  expect([info.width, info.height]).toEqual([96, 32]);
  const at = (x: number, y: number) =>
    [0, 1, 2].map((i) => (data[(y * info.width + x) * 3 + i]! > 128 ? 1 : 0)).join('');
  expect([at(16, 8), at(48, 8), at(80, 8), at(16, 24), at(48, 24), at(80, 24)]).toEqual([
    '100',
    '010',
    '001',
    '110',
    '101',
    '000',
  ]);
});
