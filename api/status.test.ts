import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type TestService, testService } from './testing.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService({ LINK_SECONDS: '3600' });
});
afterAll(() => service.close());

const create = async (body: object = { prompt: 'x' }) => (await (await service.post(body)).json()).id as string;

/** A task that has gone all the way, its job played by this test. */
async function finished() {
  const id = await create();
  const job = await service.take(id);
  service.report(job.id, { output: await service.finish(id, job.id) });
  return service.until(id, ({ status }) => status === 'succeeded');
}

describe('GET /status?id=', () => {
  test('tells stage, step, progress and the still while it runs, and never goes back', async () => {
    const id = await create();
    const job = await service.take(id);
    const say = (stage: string, progress: number, more = {}) =>
      service.report(job.id, { status: 'IN_PROGRESS', output: { stage, progress, ...more } });
    say('sampling', 0.5, { step: 3, steps: 12, still: `tasks/${id}/still.png` });
    const running = await service.until(id, ({ progress }) => progress === 0.5);
    expect(running).toMatchObject({ status: 'running', stage: 'sampling', step: 3, steps: 12 });
    expect(running.still!.link).toContain(`/files/tasks/${id}/still.png?expires=`);
    expect(running.started_at).toMatch(/^\d{4}-.*Z$/);
    expect(running.eta_seconds).toBeGreaterThanOrEqual(0);

    say('loading', 0.2);
    say('decoding', 0.6);
    const later = await service.until(id, ({ stage }) => stage === 'decoding');
    expect(later.progress).toBe(0.6);
    service.report(job.id, { output: await service.finish(id, job.id) });
    const done = await service.until(id, ({ status }) => status === 'succeeded');
    expect(done).toMatchObject({ progress: 1, videos: [{ seed: 1, width: 512, frames: 14, fps: 6 }] });
    expect(done).not.toHaveProperty('stage');
    expect(done.videos![0]).not.toHaveProperty('key');
    const left = Date.parse(done.links_expire_at!) - Date.now();
    expect(left).toBeGreaterThan(3_500_000);
    expect(left).toBeLessThanOrEqual(3_600_000);
  });

  test('an unknown id is 404, an empty one 422, another query 422', async () => {
    const get = async (query: string) => (await fetch(`${service.url}/status?${query}`)).status;
    expect(await get('id=01a206ec-8c81-72d2-88c2-373f04644e4a')).toBe(404);
    expect(await get("id=' or 1=1 --")).toBe(404);
    expect(await get('id=')).toBe(422);
    expect(await get('ID=5')).toBe(422);
  });

  test('a wrong method says which is right', async () => {
    const response = await fetch(`${service.url}/status`, { method: 'DELETE' });
    expect([response.status, response.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
    expect((await fetch(`${service.url}/img2vid`)).status).toBe(405);
    expect((await fetch(`${service.url}/nothing`)).status).toBe(404);
  });
});

describe('GET /status', () => {
  test('lists all tasks, newest first, over many pages of the store', async () => {
    const own = await testService();
    expect(await (await fetch(`${own.url}/status`)).json()).toEqual([]);
    const ids: string[] = [];
    for (let i = 0; i < 205; i++) ids.push((await (await own.post({ prompt: `${i}` })).json()).id);
    const listed = await (await fetch(`${own.url}/status`)).json();
    expect(listed.map(({ id }: { id: string }) => id)).toEqual(ids.reverse());
    expect(listed[0].input.prompt).toBe('204');
    await own.close();
  });
});

describe('server-sent events', () => {
  const events = (id: string, headers = {}) =>
    fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream', ...headers } });
  const parse = (text: string) =>
    text
      .split('\n\n')
      .filter((block) => block.startsWith('event: task'))
      .map((block) => {
        const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: (.*)/s) as [string, string]));
        return { id: fields.id!, task: JSON.parse(fields.data!) };
      });

  test('the whole task at each change, until it ends; then a reconnect gets 204', async () => {
    const id = await create();
    const response = await events(id);
    expect(response.headers.get('content-type')).toMatch(/^text\/event-stream/);
    const job = await service.take(id);
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.3 } });
    await service.until(id, ({ progress }) => progress === 0.3);
    service.report(job.id, { output: await service.finish(id, job.id) });
    const seen = parse(await response.text()); // resolves: the stream ends with the task
    expect(seen[0]!.task).toMatchObject({ id, status: 'queued' });
    expect(seen.map(({ task }) => task.progress)).toContain(0.3);
    expect(seen.at(-1)!.task).toMatchObject({ id, status: 'succeeded' });
    expect(new Set(seen.map((event) => event.id)).size).toBe(seen.length);

    expect((await events(id, { 'last-event-id': seen.at(-1)!.id })).status).toBe(204);
    const missed = parse(await (await events(id, { 'last-event-id': seen[0]!.id })).text());
    expect(missed.map(({ task }) => task.status)).toEqual(['succeeded']); // who missed the end still gets it
  });

  test('a HEAD opens no stream, for nobody would end it', async () => {
    const head = { method: 'HEAD', headers: { accept: 'text/event-stream' } };
    const response = await fetch(`${service.url}/status?id=${await create()}`, head);
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/json']);
  });

  test('of an unknown task: 404', async () => {
    expect((await events('nothing')).status).toBe(404);
  });
});

describe('GET /files', () => {
  test('a link gives the file; a part of it; its size', async () => {
    const { link } = (await finished()).videos![0]!;
    const whole = await fetch(link);
    expect(await whole.text()).toBe('not really a video');
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      'content-type': 'video/mp4',
      'content-length': '18',
      'accept-ranges': 'bytes',
      'x-content-type-options': 'nosniff',
      'content-disposition': 'inline; filename="video-1.mp4"',
    });
    const get = async (range: string, headers = {}) => {
      const response = await fetch(link, { headers: { range, ...headers } });
      return [response.status, response.headers.get('content-range'), await response.text()];
    };
    expect(await get('bytes=4-9')).toEqual([206, 'bytes 4-9/18', 'really']);
    expect(await get('bytes=-5')).toEqual([206, 'bytes 13-17/18', 'video']);
    expect(await get('bytes=13-')).toEqual([206, 'bytes 13-17/18', 'video']);
    expect(await get('bytes=0-9999')).toEqual([206, 'bytes 0-17/18', 'not really a video']);
    expect(await get('bytes=0-1,5-6')).toEqual([200, null, 'not really a video']);
    expect(await get('lines=0-1')).toEqual([200, null, 'not really a video']);
    expect(await get('bytes=4-9', { 'if-range': '"other"' })).toEqual([200, null, 'not really a video']);
    expect((await get('bytes=18-')).slice(0, 2)).toEqual([416, 'bytes */18']);
    const etag = whole.headers.get('etag')!;
    expect((await fetch(link, { headers: { 'if-none-match': etag } })).status).toBe(304);
    const head = await fetch(link, { method: 'HEAD' });
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, '18', '']);
  });

  test('a changed, unsigned or expired link is refused, and an upload is never served', async () => {
    const task = await finished();
    const link = new URL(task.videos![0]!.link);
    const changed = (change: (url: URL) => void) => {
      const url = new URL(link);
      change(url);
      return fetch(url);
    };
    const refused = [
      changed((url) => url.searchParams.set('expires', String(Number(url.searchParams.get('expires')) + 1))),
      changed((url) => url.searchParams.set('signature', 'A'.repeat(43))),
      changed((url) => url.searchParams.delete('signature')),
      changed((url) => {
        url.search = '';
      }),
      changed((url) => {
        url.pathname = url.pathname.replace('video-1', 'video-2');
      }),
      changed((url) => {
        url.pathname = `/files/..%2f..%2ftasks.db`;
      }),
    ];
    for (const response of await Promise.all(refused)) expect(response.status).toBe(403);

    service.clock.ahead += 3_601_000;
    expect((await fetch(link)).status).toBe(403);
    service.clock.ahead = 0;

    const upload = await service.bucket.link(`tasks/${task.id}/upload`, Math.floor(Date.now() / 1000) + 60);
    await service.bucket.put(`tasks/${task.id}/upload`, '<script>');
    expect((await fetch(upload)).status).toBe(404);
  });
});

test('the OpenAPI document tells of every parameter, with its default and range', async () => {
  const document = await (await fetch(`${service.url}/openapi.json`)).json();
  expect(document.openapi).toBe('3.1.0');
  const { properties } = document.components.schemas.Request;
  const { input } = await service.status(await create());
  for (const name of Object.keys(input)) expect(properties, name).toHaveProperty(name);
  expect(properties.seed).toMatchObject({ type: 'integer', minimum: 0, maximum: 1e9, description: expect.any(String) });
  expect(properties.T).toMatchObject({ maximum: 100, default: 14 });
  expect(properties.sigma_min).toMatchObject({ exclusiveMinimum: 0, default: 0.002 });
  expect(properties.order).toMatchObject({ default: 4, 'x-belongs-to': { sampler: ['LinearMultistepSampler'] } });
  expect(properties.cfg_scale).toMatchObject({ default: 5, 'x-belongs-to': { guider: ['VanillaCFG'] } });
  expect(properties.eta.description).toContain('Only for sampler EulerAncestralSampler, DPMPP2SAncestralSampler');
  expect(properties.fit.enum).toEqual(['cover', 'contain', 'stretch']);
  expect(properties.H.anyOf).toEqual([{ multipleOf: 64 }, { const: 288 }]);
  expect((await (await fetch(`${service.url}/healthz`)).json()).status).toBe('ok');
});
