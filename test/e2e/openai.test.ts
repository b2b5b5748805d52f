/** OpenAI's own clients, for Node and for Python, make videos with this service. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { HttpBindings } from '@hono/node-server';
import { Hono } from 'hono';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Video as OurVideo } from '../../core/openai-responses.ts';
import { isProgram } from '../../infra/run/programs.ts';
import { listen, testService } from '../support/test-api.ts';
import { type LocalTestService, PICTURE, PICTURE_PATH, startService } from './local-service.ts';

const python = [process.env.OPENAI_PYTHON].find((path) => path && isProgram(path));
if (!python) console.warn('no OPENAI_PYTHON: tests with OpenAI’s client for Python are skipped');
const skipped = python ? '' : ' (no OPENAI_PYTHON: skipped)';
const CLIENT = fileURLToPath(new URL('openai/client.py', import.meta.url));

async function runPython(...args: string[]) {
  const { stdout } = await promisify(execFile)(python!, [CLIENT, ...args], { maxBuffer: 1e7 });
  return JSON.parse(stdout);
}

/** Hexadecimal beginnings of files. */
const FILES = {
  video: expect.stringMatching(/^[\da-f]{8}66747970/), // ftyp
  thumbnail: expect.stringMatching(/^ffd8ff/),
  spritesheet: expect.stringMatching(/^ffd8ff/),
};
const VARIANTS = ['video', 'thumbnail', 'spritesheet'] as const;
const SMALL = { T: 2, steps: 1, W: 64, H: 64 };
const COMPLETED = {
  object: 'video',
  status: 'completed',
  progress: 100,
  model: 'camera',
  prompt: null,
  seconds: '0.08',
  size: '64x64',
  error: null,
  remixed_from_video_id: null,
};

describe('clips of the camera', () => {
  let service: LocalTestService;
  let bucket: Awaited<ReturnType<typeof listen>>;
  /** requests to the bucket, which has another origin than the API */
  const fetched: { path: string; authorization: string | undefined; range: string | undefined; status: number }[] = [];
  beforeAll(async () => {
    const files = new Hono();
    files.get('/photo.png', (c) => c.body(PICTURE));
    files.get('/files/*', async (c) => {
      const { pathname, search } = new URL(c.req.url);
      const { authorization, range } = c.req.header();
      const response = await fetch(service.url + pathname + search, { headers: range ? { range } : {} });
      fetched.push({ path: pathname, authorization, range, status: response.status });
      return response;
    });
    bucket = await listen(files);
    service = await startService({ ALLOW_PRIVATE_URLS: '1', PUBLIC_URL: bucket.url });
  }, 60_000);
  afterAll(async () => {
    await service?.stop();
    await bucket?.close();
  });

  async function poll(client: OpenAI, { id }: { id: string }) {
    for (;;) {
      const video = await client.videos.retrieve(id);
      if (video.status === 'completed' || video.status === 'failed') return video as OpenAI.Video & OurVideo;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  test('the client for Node makes, lists, downloads and deletes videos', async () => {
    const client = new OpenAI({ baseURL: `${service.url}/v1`, apiKey: 'any-token', maxRetries: 0 });
    const create = (body: object) => client.videos.create({ ...SMALL, ...body } as unknown as OpenAI.VideoCreateParams);
    const drawn = await create({ prompt: 'a lighthouse', model: 'sora-2' });
    expect(drawn).toMatchObject({ object: 'video', status: 'queued', progress: 0, prompt: 'a lighthouse' });
    const uploaded = await create({ prompt: 'waves', input_reference: new File([PICTURE], 'waves.png') });
    const pictured = await create({ prompt: '', input_reference: { image_url: `${bucket.url}/photo.png` } });
    const videos = [];
    for (const video of [drawn, uploaded, pictured]) videos.push(await poll(client, video));
    expect(videos).toMatchObject([{ ...COMPLETED, prompt: 'a lighthouse' }, COMPLETED, COMPLETED]);
    expect(videos[0]!.warnings).toMatchObject([{ field: 'model' }, ...videos[2]!.warnings]);
    expect(videos[1]!.warnings).toMatchObject([{ field: 'prompt' }, ...videos[2]!.warnings]);
    const { created_at, completed_at, expires_at } = videos[0]!;
    expect(Math.abs(created_at - Date.now() / 1000)).toBeLessThan(60);
    expect(completed_at).toBeGreaterThanOrEqual(created_at);
    expect(expires_at! - completed_at!).toBe(30 * 24 * 3600);

    fetched.length = 0;
    const content: Record<string, string> = {};
    for (const variant of VARIANTS) {
      const bytes = await (await client.videos.downloadContent(drawn.id, { variant })).arrayBuffer();
      content[variant] = Buffer.from(bytes).toString('hex', 0, 12);
    }
    expect(content).toEqual(FILES);
    const part = await client.videos.downloadContent(drawn.id, {}, { headers: { range: 'bytes=4-7' } });
    expect([part.status, await part.text()]).toEqual([206, 'ftyp']);
    expect(fetched.map(({ authorization, status }) => [authorization, status])).toEqual([
      [undefined, 200],
      [undefined, 200],
      [undefined, 206],
    ]);

    const ids = [drawn.id, uploaded.id, pictured.id];
    const listed = async (order: 'asc' | 'desc') => {
      const found = [];
      for await (const { id } of client.videos.list({ limit: 2, order })) found.push(id);
      return found;
    };
    expect(await listed('asc')).toEqual(ids);
    expect(await listed('desc')).toEqual(ids.toReversed());
    expect(await client.videos.delete(uploaded.id)).toEqual({
      id: uploaded.id,
      object: 'video.deleted',
      deleted: true,
    });
    await expect(client.videos.retrieve(uploaded.id)).rejects.toThrow(OpenAI.NotFoundError);
    expect(await listed('asc')).toEqual([drawn.id, pictured.id]);
    for (const id of [drawn.id, pictured.id]) await client.videos.delete(id);
    expect((await client.models.list()).data).toMatchObject([{ id: 'camera', object: 'model' }]);
  });

  test.skipIf(!python)(`the client for Python does the same${skipped}`, async () => {
    fetched.length = 0;
    const result = await runPython('flow', `${service.url}/v1`, PICTURE_PATH, `${bucket.url}/photo.png`);
    expect(result).toMatchObject({
      drawn: { ...COMPLETED, prompt: 'a lighthouse' },
      done: [{ ...COMPLETED, warnings: [{ field: 'prompt' }, ...result.done[1].warnings] }, COMPLETED],
      content: FILES,
      listed: result.ids,
      deleted: { id: result.ids[1], object: 'video.deleted', deleted: true },
      gone: 'not_found',
      models: ['camera'],
    });
    expect(fetched.map(({ authorization, status }) => [authorization, status])).toEqual([
      [undefined, 200],
      [undefined, 200],
    ]);
  });
});

describe('errors', () => {
  let service: Awaited<ReturnType<typeof testService>>;
  let id: string;
  let keys: Record<'valid' | 'reader' | 'poor' | 'fast', string>;
  beforeAll(async () => {
    service = await testService({ PRICE_PER_GPU_SECOND: '1', REQUESTS_PER_MINUTE: '1000' });
    const key = async (changes: Parameters<typeof service.key>[0]) => (await service.key(changes)).value;
    keys = {
      valid: await key({}),
      reader: await key({ scopes: ['read'] }),
      poor: await key({ budget: 0 }),
      fast: await key({ submissions_per_minute: 1 }),
    };
    const options = { baseURL: `${service.url}/v1`, apiKey: keys.valid };
    ({ id } = await new OpenAI(options).videos.create({ prompt: 'x' }));
  });
  afterAll(() => service.close());

  const EXPECTED = {
    'no such key': ['AuthenticationError', 401, 'invalid_api_key', null],
    'no scope': ['PermissionDeniedError', 403, 'insufficient_scope', null],
    'no budget': ['RateLimitError', 429, 'insufficient_quota', null],
    'too fast': ['RateLimitError', 429, 'rate_limit_exceeded', null],
    'no such video': ['NotFoundError', 404, 'not_found', null],
    'not ready': ['NotFoundError', 404, 'not_found', null],
    'still active': ['ConflictError', 409, 'not_ended', null],
    size: ['BadRequestError', 400, 'invalid_input', 'size'],
    seconds: ['BadRequestError', 400, 'invalid_input', 'seconds'],
    model: ['BadRequestError', 400, 'invalid_input', 'model'],
    picture: ['BadRequestError', 400, 'image_rejected', 'input_reference'],
    file_id: ['BadRequestError', 400, 'invalid_input', 'input_reference'],
    unknown: ['BadRequestError', 400, 'invalid_input', 'frames'],
    remix: ['NotFoundError', 404, 'not_found', null],
    edit: ['NotFoundError', 404, 'not_found', null],
    'model name': ['NotFoundError', 404, 'not_found', null],
  };

  test('the client for Node throws the class of each', async () => {
    const as = (apiKey: string, maxRetries = 0) => new OpenAI({ baseURL: `${service.url}/v1`, apiKey, maxRetries });
    const { videos, models } = as(keys.valid);
    const bad = (body: object) => () => videos.create({ prompt: 'x', ...body } as OpenAI.VideoCreateParams);
    const calls: Record<keyof typeof EXPECTED, () => Promise<unknown>> = {
      'no such key': () => as('i2v_wrong').videos.list(),
      'no scope': () => as(keys.reader).videos.create({ prompt: 'x' }),
      'no budget': () => as(keys.poor, 2).videos.create({ prompt: 'x' }), // it would retry other errors of status 429
      'too fast': async () => {
        for (let i = 0; i < 2; i++) await as(keys.fast).videos.create({ prompt: 'x' });
      },
      'no such video': () => videos.retrieve('video_123'),
      'not ready': () => videos.downloadContent(id),
      'still active': () => as(keys.valid, 2).videos.delete(id),
      size: bad({ size: 'huge' }),
      seconds: bad({ seconds: '1000' }),
      model: bad({ model: 'gpt-5' }),
      picture: bad({ input_reference: new File(['no picture'], 'a.png') }),
      file_id: bad({ input_reference: { file_id: 'file-1' } }),
      unknown: bad({ frames: 3 }),
      remix: () => videos.remix(id, { prompt: 'x' }),
      edit: () => videos.edit({ prompt: 'x', video: { id } }),
      'model name': () => models.retrieve('gpt-5'),
    };
    const thrown: Record<string, unknown> = {};
    for (const [name, call] of Object.entries(calls)) {
      const error = (await call().catch((error) => error)) as InstanceType<typeof OpenAI.APIError>;
      thrown[name] = [error.constructor.name, error.status, error.code, error.param];
      expect(error.requestID, name).toBeTruthy();
    }
    expect(thrown).toEqual(EXPECTED);
    const conflicts = service.logged.filter(({ status, msg }) => status === 409 && msg === 'request finished');
    expect(conflicts).toHaveLength(1); // not retried
  });

  test('the client makes a video once although its answer is lost, if it sends an Idempotency-Key', async () => {
    let answers = 0;
    const app = new Hono<{ Bindings: HttpBindings }>();
    app.all('/v1/*', async ({ req, env }) => {
      const { method, headers } = req.raw;
      const body = method === 'POST' ? await req.text() : null;
      const answer = await fetch(service.url + req.path, { method, headers, body });
      if (answers++ === 0) env.outgoing.destroy();
      return answer;
    });
    const network = await listen(app as unknown as Hono);
    const { videos } = new OpenAI({ baseURL: `${network.url}/v1`, apiKey: keys.valid });
    const { id } = await videos.create({ prompt: 'lost' }, { headers: { 'Idempotency-Key': 'lost-1' } });
    const { data } = await videos.list();
    expect([answers, data.filter(({ prompt }) => prompt === 'lost').map((video) => video.id)]).toEqual([3, [id]]);
    await network.close();
  });

  test.skipIf(!python)(`the client for Python raises the class of each${skipped}`, async () => {
    service.clock.ahead += 120_000;
    const { valid, reader, poor, fast } = keys;
    expect(await runPython('errors', `${service.url}/v1`, id, valid, reader, poor, fast)).toEqual(EXPECTED);
  });
});
