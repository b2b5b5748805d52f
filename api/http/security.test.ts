import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { readConfig } from '../config.ts';

const FRIEND = 'https://app.example.com';
let service: TestService;
beforeAll(async () => {
  service = await testService({
    CORS_ORIGINS: `${FRIEND}, http://localhost:3000`,
    PUBLIC_URL: 'https://video.example.com',
  });
});
afterAll(() => service.close());
const ask = (path: string, init?: RequestInit) => fetch(`${service.url}${path}`, init);

/** One answer of each kind: what a browser may see of us. */
async function answers() {
  const { id } = await (await service.post({ prompt: 'x' })).json();
  const job = await service.take(id);
  service.report(job.id, { output: await service.finish(id, job.id) });
  const task = await service.until(id, ({ status }) => status === 'succeeded');
  return {
    page: await ask('/'),
    script: await ask('/page/page.js'),
    file: await ask(task.videos![0]!.link.slice('https://video.example.com'.length)),
    'no link': await ask('/files/tasks/x'),
    list: await ask('/status'),
    head: await ask('/status', { method: 'HEAD' }),
    task: await ask(`/status?id=${id}`),
    events: await ask(`/status?id=${id}`, { headers: { accept: 'text/event-stream' } }),
    created: await service.post({ prompt: 'y' }),
    wrong: await service.post({ T: 0 }),
    unreadable: await service.post({}, { body: '{' }),
    large: await service.post({}, { body: Buffer.alloc(22e6) }),
    missing: await ask('/nothing'),
    method: await ask('/status', { method: 'DELETE' }),
    foreignPage: await ask('/img2vid', { method: 'POST', headers: { origin: 'https://evil.example' } }),
    preflight: await ask('/img2vid', { method: 'OPTIONS', headers: { origin: FRIEND } }),
    health: await ask('/healthz'),
    document: await ask('/openapi.json'),
  };
}

test('every response has the security headers; the page and files have policies of their own', async () => {
  const all = await answers();
  const statuses = Object.fromEntries(Object.entries(all).map(([name, { status }]) => [name, status]));
  expect(statuses).toMatchObject({ page: 200, file: 200, 'no link': 403, events: 200, created: 202, wrong: 422 });
  expect(statuses).toMatchObject({
    unreadable: 400,
    large: 413,
    missing: 404,
    method: 405,
    foreignPage: 403,
    preflight: 204,
  });
  for (const [name, { headers }] of Object.entries(all)) {
    const received = Object.fromEntries(headers);
    expect(received, name).toMatchObject({
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'x-frame-options': 'DENY',
      'strict-transport-security': 'max-age=31536000',
      'x-request-id': expect.stringMatching(/^[0-9a-f-]{36}$/),
    });
    expect(received['content-security-policy'], name).toMatch(/^default-src 'none';.*frame-ancestors 'none'$/);
    const isFile = name === 'file';
    const isPage = name === 'page' || name === 'script';
    expect(received['cross-origin-resource-policy'], name).toBe(isFile ? 'cross-origin' : 'same-origin');
    expect(received['cache-control'], name).toBe(isFile ? 'private, max-age=3600' : isPage ? 'no-cache' : 'no-store');
    expect(received['content-security-policy']!.includes("script-src 'self'"), name).toBe(isPage);
  }
  expect(all.events.headers.get('x-accel-buffering')).toBe('no');
});

test('without https there is no HSTS header', async () => {
  const plain = await testService();
  expect((await fetch(`${plain.url}/healthz`)).headers.has('strict-transport-security')).toBe(false);
  await plain.close();
});

describe('CORS_ORIGINS', () => {
  const from = (origin: string, headers = {}) => ({ origin, 'sec-fetch-site': 'cross-site', ...headers });
  const json = { 'content-type': 'application/json' };

  test('pages of an allowed origin may use the whole API and read its headers', async () => {
    const wanted = ['authorization', 'content-type', 'idempotency-key', 'prefer', 'range', 'x-stainless-lang'];
    const preflight = await ask('/img2vid', {
      method: 'OPTIONS',
      headers: from(FRIEND, {
        'access-control-request-method': 'POST',
        'access-control-request-headers': wanted.join(', '),
      }),
    });
    const allowed = preflight.headers.get('access-control-allow-headers')!.toLowerCase().split(',');
    expect(allowed).toEqual(wanted);
    expect(preflight.headers.get('access-control-allow-methods')).toBe('GET,HEAD,POST,DELETE');
    for (const response of [
      preflight,
      await service.post({ prompt: 'x' }, { headers: { ...json, ...from(FRIEND) } }),
      await service.post({ T: 0 }, { headers: { ...json, ...from('http://localhost:3000') } }),
      await ask('/status', { headers: from(FRIEND) }),
    ]) {
      expect(response.headers.get('access-control-allow-origin')).toMatch(
        /^(https:\/\/app\.example\.com|http:\/\/localhost:3000)$/,
      );
      expect(response.headers.get('vary')).toContain('Origin');
      expect(response.headers.has('access-control-allow-credentials')).toBe(false);
      const exposed = response.headers.get('access-control-expose-headers')!;
      for (const name of [
        'Location',
        'Link',
        'Content-Range',
        'X-Request-Id',
        'Retry-After',
        'RateLimit',
        'Idempotency-Replayed',
      ])
        expect(exposed.split(',')).toContain(name);
    }
  });

  test('other origins are refused, and all are if none is allowed', async () => {
    const own = await testService();
    for (const [url, origin] of [
      [service.url, 'https://evil.example'],
      [service.url, 'http://app.example.com'],
      [service.url, `${FRIEND}.evil.example`],
      [service.url, 'null'],
      [own.url, FRIEND],
    ] as const) {
      const body = '{"prompt":"x"}';
      const post = await fetch(`${url}/img2vid`, { method: 'POST', headers: { ...json, ...from(origin) }, body });
      expect([post.status, (await post.json()).code], origin).toEqual([403, 'forbidden_origin']);
      const get = await fetch(`${url}/status`, { headers: from(origin) });
      for (const response of [post, get, await fetch(`${url}/img2vid`, { method: 'OPTIONS', headers: from(origin) })])
        expect(response.headers.has('access-control-allow-origin'), origin).toBe(false);
    }
    await own.close();
  });

  test('invalid origins are refused at start-up', () => {
    const read = (CORS_ORIGINS: string) =>
      readConfig({ RUNPOD_API_KEY: 'x', RUNPOD_ENDPOINT_ID: 'x', CORS_ORIGINS }).corsOrigins;
    expect(read('')).toEqual([]);
    expect(read(' https://a.example ,http://b.example:81,')).toEqual(['https://a.example', 'http://b.example:81']);
    for (const wrong of [
      'a.example',
      'https://a.example/',
      'https://a.example/path',
      'null',
      'https://A.example',
      'ftp://a.example',
      'https://a.example,*',
    ])
      expect(() => read(wrong), wrong).toThrow(/^CORS_ORIGINS must be \* alone, or origins, such as https:/);
    expect(read('*')).toEqual(['*']);
  });
});
