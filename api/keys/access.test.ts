/** Who may do what, over HTTP. */
import { Hono } from 'hono';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { makeKey, type TestService, testService } from '../../test/support/test-api.ts';
import { Problem, renderProblem } from '../http/problem.ts';
import { createAccess } from './access.ts';
import { generateKey } from './key-value.ts';

const NONE = '01a206ec-8c81-72d2-88c2-373f04644e4a';
const json = { 'content-type': 'application/json' };
type Headers = Record<string, string>;

let service: TestService;
beforeAll(async () => {
  service = await testService({ HOST: '0.0.0.0', PRICE_PER_GPU_SECOND: '0.001' });
});
afterAll(() => service.close());

async function call(path: string, headers: Headers = {}, init: RequestInit = {}, at = service) {
  const response = await fetch(at.url + path, { ...init, headers: { ...headers, ...(init.headers as Headers) } });
  const text = await response.text();
  return {
    code: response.status,
    headers: response.headers,
    body: text.startsWith('{') || text.startsWith('[') ? JSON.parse(text) : text,
  };
}
const post = (headers: Headers, body: object = { prompt: 'x' }, query = '', at = service) =>
  call(`/img2vid${query}`, { ...headers, ...json }, { method: 'POST', body: JSON.stringify(body) }, at);
const send = (path: string, headers: Headers) => call(path, headers, { method: 'POST' });

describe('a request', () => {
  test('needs a key if other machines can connect, except on public paths', async () => {
    for (const path of ['/status', `/status?id=${NONE}`, '/usage', '/webhooks/deliveries']) {
      const { code, headers, body } = await call(path);
      expect([code, body.code], path).toEqual([401, 'unauthorized']);
      expect(headers.get('www-authenticate')).toBe('Bearer realm="img2vid"');
    }
    for (const path of [
      '/img2vid',
      `/cancel?id=${NONE}`,
      `/delete?id=${NONE}`,
      `/webhooks/replay?id=${NONE}`,
      '/webhooks/test',
    ])
      expect((await send(path, {})).code, path).toBe(401);
    for (const path of ['/', '/page/page.js', '/healthz', '/readyz', '/openapi.json'])
      expect((await call(path, { host: 'video.example.com' })).code, path).toBe(200);
  });

  test.each([
    ['no scheme', (text: string) => text],
    ['another scheme', (text: string) => `Basic ${text}`],
    ['nothing', () => 'Bearer '],
    ['two keys', (text: string) => `Bearer ${text} ${text}`],
    ['its id only', (text: string) => `Bearer ${text.slice(0, 20)}`],
    ['another secret', (text: string) => `Bearer ${generateKey(text.slice(4, 20)).value}`],
    ['a letter in another case', (text: string) => `Bearer ${text.replace(/[a-z](?=[^a-z]*$)/i, swap)}`],
    ['a letter less', (text: string) => `Bearer ${text.slice(0, -1)}`],
    ['a letter more', (text: string) => `Bearer ${text}A`],
    ['a key that never was', () => `Bearer ${generateKey().value}`],
    ['the key of this machine', () => 'Bearer local'],
    ['its hash', (_: string, hash: string) => `Bearer ${hash}`],
    ['an injection', () => `Bearer i2v_' or 1=1 --`],
    ['a megabyte', () => `Bearer ${'a'.repeat(10_000)}`],
  ])('with %s is refused like every other one', async (_name, wrong) => {
    const own = await testService({ HOST: '0.0.0.0' });
    const { id, value: text } = await own.key();
    const { hash } = (await own.store.getKey(id))!;
    expect((await call('/usage', { authorization: `Bearer ${text}` }, {}, own)).code).toBe(200);
    const { code, headers, body } = await call('/usage', { authorization: wrong(text, hash!) }, {}, own);
    expect([code, body.detail]).toEqual([401, expect.stringMatching(/^(this API key is not valid|send an API key)/)]);
    expect(headers.get('www-authenticate')).toMatch(/^Bearer realm="img2vid"(, error="invalid_token")?$/);
    await own.close();
  });

  test('may spell the scheme Bearer in any case', async () => {
    const { value: text } = await service.key();
    for (const scheme of ['bearer', 'BEARER', 'Bearer  '])
      expect((await call('/usage', { authorization: `${scheme} ${text}` })).code, scheme).toBe(200);
  });

  test('may do what the scopes of its key allow', async () => {
    const [submit, read, admin] = await Promise.all(
      (['submit', 'read', 'admin'] as const).map(async (scope) => (await service.key({ scopes: [scope] })).headers),
    );
    const { body } = await post(submit!);
    expect((await call('/usage', submit)).body).toMatchObject({ status: 403, code: 'insufficient_scope' });
    const refused = await post(read!);
    expect(refused.code).toBe(403);
    expect(refused.headers.get('www-authenticate')).toContain('error="insufficient_scope", scope="submit"');
    for (const path of ['/cancel', '/delete', '/webhooks/replay', '/webhooks/test'])
      expect((await send(`${path}?id=${body.id}`, read!)).code, path).toBe(403);
    for (const path of ['/status', `/status?id=${body.id}`, '/webhooks/deliveries'])
      expect((await call(path, submit)).code, path).toBe(403);
    expect((await post(admin!)).code).toBe(202);
    expect((await call('/status', admin)).body).toHaveLength(1);
  });
});

const swap = (letter: string) => (letter === letter.toLowerCase() ? letter.toUpperCase() : letter.toLowerCase());

describe('a key', () => {
  test('that is revoked is refused after a second; its tasks continue', async () => {
    const { id, headers } = await service.key();
    const { body } = await post(headers);
    await service.store.updateKey(id, { revoked_at: Date.now() });
    service.clock.ahead += 1001;
    expect((await call('/status', headers)).code).toBe(401);
    const job = await service.take(body.id);
    service.report(job.id, { output: await service.finish(body.id, job.id) });
    await vi.waitFor(async () => expect((await service.store.get(body.id))!.status).toBe('succeeded'));
  });

  test('that is revoked gets no more events, and no answer of a wait', async () => {
    const { id, headers } = await service.key();
    const { body } = await post(headers);
    const events = await fetch(`${service.url}/status?id=${body.id}`, {
      headers: { ...headers, accept: 'text/event-stream' },
    });
    const reader = events.body!.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader.read()).value).toContain('"status":"queued"');
    const json = { 'content-type': 'application/json', prefer: 'wait=60' };
    const waiting = service.post({ prompt: 'x' }, { headers: { ...headers, ...json } });
    const newest = async () => (await service.store.list({ owner: id, limit: 1 }))[0]!.id;
    await vi.waitFor(async () => expect(await newest()).not.toBe(body.id));
    const jobs = [];
    for (const task of [body.id, await newest()]) jobs.push({ task, job: await service.take(task) });
    await service.store.updateKey(id, { revoked_at: Date.now() });
    service.clock.ahead += 1001;
    for (const { task, job } of jobs) service.report(job.id, { output: await service.finish(task, job.id) });
    let rest = '';
    for (let read = await reader.read(); !read.done; read = await reader.read()) rest += read.value;
    expect(rest).not.toContain('succeeded');
    expect((await waiting).status).toBe(401);
  });

  test.each(['/img2vid', '/v1/videos'])('that is revoked during an upload to %s makes no task', async (path) => {
    const { id, headers } = await service.key();
    const { getKey } = service.store;
    const admitted = new Promise<void>((resolve) => {
      vi.spyOn(service.store, 'getKey').mockImplementationOnce(async (id) => {
        const key = await getKey(id);
        resolve();
        return key;
      });
    });
    const { readable, writable } = new TextEncoderStream();
    const upload = writable.getWriter();
    const init = { method: 'POST', body: readable, duplex: 'half' }; // the type of RequestInit lacks duplex
    const answer = call(path, { ...headers, ...json }, init);
    await upload.write('{"prompt":');
    await admitted;
    await service.store.updateKey(id, { revoked_at: Date.now() });
    service.clock.ahead += 1001;
    await upload.write('"x"}');
    await upload.close();
    expect((await answer).code).toBe(401);
    expect(await service.store.list({ owner: id, limit: 1 })).toEqual([]);
  });

  test('that is rotated is accepted with its old value for a while', async () => {
    const { id, headers } = await service.key();
    const { hash: old_hash } = (await service.store.getKey(id))!;
    const { value, hash } = generateKey(id);
    await service.store.updateKey(id, { hash, old_hash, old_until: Date.now() + service.clock.ahead + 60_000 });
    service.clock.ahead += 1001;
    for (const good of [headers, { authorization: `Bearer ${value}` }])
      expect((await call('/usage', good)).code).toBe(200);
    service.clock.ahead += 60_000;
    expect((await call('/usage', headers)).code).toBe(401);
    expect((await call('/usage', { authorization: `Bearer ${value}` })).code).toBe(200);
  });

  test('is still accepted from an address with too many failed attempts, if it was used there before', async () => {
    const own = await testService({ HOST: '0.0.0.0', TRUST_PROXY: '1' });
    const { headers } = await makeKey(own.store);
    const from = (address: string, more: Headers) => call('/usage', { 'x-forwarded-for': address, ...more }, {}, own);
    expect((await from('192.0.2.1', headers)).code).toBe(200);
    const guess = () => from('203.0.113.9, 192.0.2.1', { authorization: `Bearer ${generateKey().value}` });
    const codes = [];
    for (let i = 0; i < 62; i++) codes.push((await guess()).code);
    expect(codes).toEqual([...Array(60).fill(401), 429, 429]);
    expect((await guess()).headers.get('retry-after')).toBe('60');
    const { headers: fresh } = await makeKey(own.store);
    expect((await from('192.0.2.1', headers)).code).toBe(200);
    expect((await from('192.0.2.1', fresh)).code).toBe(429);
    expect((await from('192.0.2.2', fresh)).code).toBe(200); // the proxy's word counts, not the caller's before it
    own.clock.ahead += 60_001;
    expect((await guess()).code).toBe(401);
    await own.close();
  });

  test('is refused like any other wrong one while 10,000 addresses guess, and they unblock no other address', async () => {
    const own = await testService({ HOST: '0.0.0.0', TRUST_PROXY: '1' });
    const app = new Hono().get('/', createAccess(own).requireScope('read'), (c) => c.text('admitted'));
    app.onError((error, c) => (error instanceof Problem ? renderProblem(c, error) : c.text(error.message, 500)));
    const guess = async (address: string) => {
      const headers = { 'x-forwarded-for': address, authorization: `Bearer ${generateKey().value}` };
      return (await app.request('/', { headers })).status;
    };
    const addresses = Array.from({ length: 9999 }, (_, i) => `10.0.${i >> 8}.${i & 255}`);
    expect(new Set(await Promise.all(addresses.map(guess)))).toEqual(new Set([401]));
    for (let i = 0; i < 60; i++) expect(await guess('192.0.2.1')).toBe(401);
    expect(new Set(await Promise.all(['192.0.2.2', '192.0.2.3'].map(guess)))).toEqual(new Set([401]));
    expect(await guess('192.0.2.1')).toBe(429);
    await own.close();
  });
});

describe('without any key', () => {
  let own: TestService;
  afterEach(() => own.close());

  test('this machine needs none; once there is a key every request needs one, even after its revocation', async () => {
    own = await testService();
    expect((await post({}, undefined, '', own)).code).toBe(202);
    expect((await call('/usage', {}, {}, own)).code).toBe(200);
    const { id, headers } = await own.key();
    own.clock.ahead += 1001;
    expect((await call('/usage', {}, {}, own)).code).toBe(401);
    expect((await call('/status', headers, {}, own)).body).toEqual([]); // the tasks of this machine are not its
    await own.store.updateKey(id, { revoked_at: Date.now() });
    own.clock.ahead += 1001;
    expect((await call('/usage', {}, {}, own)).code).toBe(401);
  });

  test('CORS_ORIGINS=* admits no other page; with keys it admits all', async () => {
    own = await testService({ CORS_ORIGINS: '*' });
    const origin = { origin: 'https://app.example.com' };
    expect((await call('/status', origin, {}, own)).headers.has('access-control-allow-origin')).toBe(false);
    expect((await post(origin, undefined, '', own)).body.code).toBe('forbidden_origin');
    const { headers } = await own.key();
    own.clock.ahead += 1001;
    const { code, headers: told } = await post({ ...origin, ...headers }, undefined, '', own);
    expect([code, told.get('access-control-allow-origin')]).toEqual([202, '*']);
    const preflight = await call(
      '/img2vid',
      origin,
      { method: 'OPTIONS', headers: { 'access-control-request-method': 'POST' } },
      own,
    );
    expect([preflight.code, preflight.headers.get('access-control-allow-origin')]).toEqual([204, '*']);
  });
});

describe('a foreign id gets the same response as an unknown one', () => {
  test.each([
    'status',
    'events',
    'cancel',
    'delete',
    'still_of',
    'cursor',
    'deliveries',
    'delivery',
    'replay',
    'usage',
  ])('%s', async (what) => {
    const [own, foreign] = [await service.key(), await service.key()];
    const { body: task } = await post(own.headers, { prompt: 'x', webhook_url: 'https://example.com/' });
    await service.bucket.put(`tasks/${task.id}/imagine-1.png`, 'x');
    await service.take(task.id);
    const { id: delivery } = await service.webhooks.test(own.id, 'https://example.com/');
    const both = async (ask: (id: string, headers: Headers) => Promise<{ code: number; body: object }>, id: string) => {
      const [a, b] = [await ask(id, foreign.headers), await ask(NONE, foreign.headers)];
      expect({ code: a.code, body: a.body }).toEqual({ code: b.code, body: b.body });
      return { theirs: a, ours: await ask(id, own.headers) };
    };
    const codes = async (...given: Parameters<typeof both>) => {
      const { theirs, ours } = await both(...given);
      return [theirs.code, ours.code];
    };
    const status = (id: string, headers: Headers) => call(`/status?id=${id}`, headers);
    if (what === 'status') expect(await codes(status, task.id)).toEqual([404, 200]);
    if (what === 'events') {
      const events = (id: string, headers: Headers) =>
        call(`/status?id=${id}`, { ...headers, accept: 'text/event-stream' });
      const [a, b] = [await events(task.id, foreign.headers), await events(NONE, foreign.headers)];
      expect([a.code, a.body]).toEqual([404, b.body]);
    }
    if (what === 'cancel') {
      expect((await both((id, headers) => send(`/cancel?id=${id}`, headers), task.id)).theirs.code).toBe(404);
      const other = (await post(own.headers)).body.id;
      await send(`/cancel?id=${other}`, foreign.headers);
      expect((await status(other, own.headers)).body.status).not.toBe('canceled');
    }
    if (what === 'delete') {
      await send(`/cancel?id=${task.id}`, own.headers);
      // A worker has its job: the task ends when RunPod has been asked.
      await vi.waitFor(async () => expect((await status(task.id, own.headers)).body.status).toBe('canceled'), 30_000);
      expect((await send(`/delete?id=${task.id}`, foreign.headers)).code).toBe(404);
      expect(await service.bucket.has(`tasks/${task.id}/imagine-1.png`)).toBe(true);
      expect(await codes((id, headers) => send(`/delete?id=${id}`, headers), task.id)).toEqual([404, 200]);
    }
    if (what === 'still_of')
      expect(await codes((still_of, headers) => post(headers, { still_of }), task.id)).toEqual([422, 202]);
    if (what === 'cursor') {
      const { body: newer } = await post(foreign.headers);
      const { body } = await call(`/status?cursor=${task.id}`, foreign.headers);
      expect(JSON.stringify(body)).not.toContain(task.id);
      expect((await call('/status', foreign.headers)).body.map(({ id }: { id: string }) => id)).toEqual([newer.id]);
    }
    if (what === 'deliveries') {
      for (const query of ['', `?task=${task.id}`, `?cursor=${delivery}`])
        expect((await call(`/webhooks/deliveries${query}`, foreign.headers)).body, query).toEqual([]);
      expect((await call('/webhooks/deliveries', own.headers)).body).toHaveLength(1);
    }
    if (what === 'delivery')
      expect(await codes((id, headers) => call(`/webhooks/deliveries?id=${id}`, headers), delivery)).toEqual([
        404, 200,
      ]);
    if (what === 'replay')
      expect(await codes((id, headers) => send(`/webhooks/replay?id=${id}`, headers), delivery)).toEqual([404, 202]);
    if (what === 'usage') {
      expect((await call('/usage', foreign.headers)).body).toMatchObject({ reserved: 0, open_tasks: 0, days: [] });
      expect((await call('/usage', own.headers)).body).toMatchObject({ open_tasks: 1 });
    }
  });

  test('an Idempotency-Key counts only for its owner', async () => {
    const [a, b] = [await service.key(), await service.key()];
    const once = { 'idempotency-key': 'the-same' };
    const [first, second] = [
      await post({ ...a.headers, ...once }),
      await post({ ...b.headers, ...once }, { prompt: 'y' }),
    ];
    expect([first.code, second.code]).toEqual([202, 202]);
    expect(second.body.id).not.toBe(first.body.id);
  });
});

describe('limits', () => {
  test('of requests are in headers, and recover evenly', async () => {
    const { headers } = await service.key({ requests_per_minute: 3 });
    const seen = [];
    for (let i = 0; i < 4; i++) {
      const { code, headers: told } = await call('/status', headers);
      seen.push([code, told.get('ratelimit'), told.get('ratelimit-policy'), told.get('retry-after')]);
    }
    const policy = '"requests";q=3;w=60';
    expect(seen).toEqual([
      [200, '"requests";r=2;t=20', policy, null],
      [200, '"requests";r=1;t=40', policy, null],
      [200, '"requests";r=0;t=60', policy, null],
      [429, '"requests";r=0;t=60', policy, expect.stringMatching(/^(19|20)$/)],
    ]);
    service.clock.ahead += 20_000;
    expect([(await call('/status', headers)).code, (await call('/status', headers)).code]).toEqual([200, 429]);
  });

  test('of submissions are counted in the store, and only accepted tasks count', async () => {
    const { headers } = await service.key({ submissions_per_minute: 2 });
    expect((await post(headers, { prompt: 'x' }, '?dry_run=1')).headers.get('ratelimit')).toContain('"requests"');
    expect((await post(headers, { T: 0 })).code).toBe(422);
    const [a, b, c] = [await post(headers), await post(headers), await post(headers)];
    expect([a.code, b.code, c.code, c.body.code]).toEqual([202, 202, 429, 'too_many_submissions']);
    expect(a.headers.get('ratelimit')).toBe('"submissions";r=1;t=30');
    expect(c.headers.get('ratelimit')).toMatch(/^"submissions";r=0;t=(59|60)$/);
    expect(c.headers.get('ratelimit-policy')).toBe('"submissions";q=2;w=60');
    expect(c.headers.get('retry-after')).toMatch(/^(29|30)$/);
    service.clock.ahead += 30_000;
    expect((await post(headers)).code).toBe(202);
  });

  test('of active tasks admit another task when one ends', async () => {
    const { headers } = await service.key({ max_active: 1 });
    const { body } = await post(headers);
    const refused = await post(headers);
    expect([refused.code, refused.body.code, refused.headers.get('retry-after')]).toEqual([429, 'too_many_open', '10']);
    await send(`/cancel?id=${body.id}`, headers);
    expect((await post(headers)).code).toBe(202);
  });

  test('from the environment apply to keys without their own', async () => {
    const own = await testService({ MAX_OPEN_TASKS: '3', SUBMISSIONS_PER_MINUTE: '5', REQUESTS_PER_MINUTE: '7' });
    const limits = { open_tasks: 3, submissions_per_minute: 5, requests_per_minute: 7 };
    expect((await call('/usage', {}, {}, own)).body.limits).toEqual(limits); // also of this machine
    const { headers } = await own.key({ max_active: 9 });
    own.clock.ahead += 1001;
    expect((await call('/usage', headers, {}, own)).body.limits).toEqual({ ...limits, open_tasks: 9 });
    await own.close();
    const { headers: usual } = await service.key();
    expect((await call('/usage', usual)).body.limits).toEqual({
      open_tasks: 100,
      submissions_per_minute: 60,
      requests_per_minute: 1200,
    });
  });
});

test('while the store is unreachable every request gets 503 with Retry-After', async () => {
  const own = await testService({ HOST: '0.0.0.0' });
  const { headers } = await own.key();
  await own.store.close();
  for (const answer of [await call('/status', headers, {}, own), await post(headers, undefined, '', own)])
    expect([answer.code, answer.body.code, answer.headers.get('retry-after')]).toEqual([503, 'unavailable', '5']);
  expect((await call('/healthz', {}, {}, own)).code).toBe(200);
  await own.close().catch(() => undefined);
});
