import { Hono } from 'hono';
import { Webhook } from 'standardwebhooks';
import { v7 } from 'uuid';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { holdTimeouts } from '../../test/support/held-timeouts.ts';
import { listen, type TestService, testService, WEBHOOK_SECRET } from '../../test/support/test-api.ts';

interface Delivery {
  headers: Record<string, string>;
  body: string;
}

let service: TestService;
let receiver: Awaited<ReturnType<typeof listen>>;
let deliveries: Delivery[];
let answer: () => Response;
let heard: () => void;

beforeEach(async () => {
  service = await testService({ ALLOW_PRIVATE_URLS: '1' });
  deliveries = [];
  answer = () => new Response('ok');
  heard = () => {};
  receiver = await listen(
    new Hono().post('/hook', async (c) => {
      deliveries.push({ headers: c.req.header(), body: await c.req.text() });
      heard();
      return answer();
    }),
  );
});
afterEach(async () => {
  await service.close();
  await receiver.close();
});

/** Resolves at the n-th delivery, and fails the test if it does not come. */
const delivery = (n: number) =>
  new Promise<Delivery>((resolve) => {
    heard = () => deliveries.length >= n && resolve(deliveries[n - 1]!);
    heard();
  });

async function endedTask(body: object = {}) {
  const { id } = await (await service.post({ prompt: 'x', webhook_url: `${receiver.url}/hook`, ...body })).json();
  const job = await service.take(id);
  service.report(job.id, { output: await service.finish(id, job.id) });
  await service.until(id, ({ status }) => status === 'succeeded');
  return id as string;
}

/** The delivery of a task's end, when so many attempts are written down. */
async function written(id: string, attempts: number) {
  for (;;) {
    const [delivery] = await service.store.listDeliveries({ owner: 'local', task: id, limit: 1 });
    if (delivery && delivery.attempts >= attempts) return delivery;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Lets the delivery that was just received be written down, then moves the clock. */
async function later(id: string, attempts: number, ms: number) {
  const delivery = await written(id, attempts);
  service.clock.ahead += ms;
  service.webhooks.wake();
  return delivery;
}

const call = async (path: string, init: RequestInit = {}) => {
  const response = await fetch(service.url + path, init);
  return { code: response.status, link: response.headers.get('link'), body: await response.json() };
};
const send = (path: string) => call(path, { method: 'POST' });

test('the end of a task is delivered once, signed, with valid links', async () => {
  const id = await endedTask({ prompt: 'y'.repeat(3000), metadata: { order: '42' } });
  const { headers, body } = await delivery(1);
  const event = new Webhook(WEBHOOK_SECRET).verify(body, headers) as {
    type: string;
    timestamp: string;
    data: { id: string; input: { prompt: string }; videos: { link: string }[]; finished_at: string };
  };
  expect(event).toMatchObject({ type: 'task.succeeded', data: { id, status: 'succeeded', metadata: { order: '42' } } });
  expect(event.timestamp).toBe(event.data.finished_at);
  expect(event.data.input.prompt).toHaveLength(500);
  expect((await fetch(event.data.videos[0]!.link)).status).toBe(200);
  expect(headers['webhook-id']).toBe((await later(id, 1, 3_600_000)).id);
  expect(await written(id, 1)).toMatchObject({ status: 'delivered', status_code: 200, next_attempt_at: null });
  expect(deliveries).toHaveLength(1);
});

test('failures and cancellations are delivered, too', async () => {
  const ids = [];
  for (let i = 0; i < 2; i++)
    ids.push((await (await service.post({ prompt: 'x', webhook_url: `${receiver.url}/hook` })).json()).id as string);
  const job = await service.take(ids[0]!);
  await send(`/cancel?id=${ids[1]}`);
  service.report(job.id, { error: '{"code":"internal","message":"x","retryable":false}' });
  await service.until(ids[0]!, ({ status }) => status === 'failed');
  await delivery(2);
  const types = deliveries.map(({ body }) => JSON.parse(body)).map(({ type, data }) => `${type} ${data.id}`);
  expect(types.sort()).toEqual([`task.canceled ${ids[1]}`, `task.failed ${ids[0]}`]);
});

test('a failed delivery is repeated under the same id with fresh links, for three days', async () => {
  answer = () => new Response('no', { status: 500 });
  const id = await endedTask();
  const waits = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]; // seconds
  for (const [i, seconds] of waits.entries()) {
    await delivery(i + 1);
    const { next_attempt_at, attempted_at, status } = await written(id, i + 1);
    expect(status).toBe('pending');
    expect((next_attempt_at! - attempted_at!) / seconds / 1000).toBeGreaterThan(0.89);
    expect((next_attempt_at! - attempted_at!) / seconds / 1000).toBeLessThan(1.11);
    await later(id, i + 1, next_attempt_at! - attempted_at!);
  }
  await delivery(10);
  expect(await later(id, 10, 100 * 3_600_000)).toMatchObject({
    status: 'failed',
    next_attempt_at: null,
    status_code: 500,
  });
  expect(deliveries).toHaveLength(10);
  expect(new Set(deliveries.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
  expect(new Set(deliveries.map(({ headers }) => headers['webhook-timestamp'])).size).toBe(10);
  const links = deliveries.map(({ body }) => JSON.parse(body).data.videos[0].link);
  expect(new Set(links).size).toBe(10);
});

test('a delivery whose outcome can never be stored is posted ten times, not for ever', async () => {
  const recordAttempt = vi.spyOn(service.store, 'recordAttempt');
  recordAttempt.mockRejectedValue(new Error('refused'));
  answer = () => new Response('no', { status: 500 });
  const id = await endedTask();
  for (let i = 1; i <= 11; i++) {
    await vi.waitFor(() => expect(recordAttempt).toHaveBeenCalledTimes(i), { interval: 5 });
    service.clock.ahead += 61_000;
    if (i < 11) service.webhooks.wake();
  }
  expect(deliveries).toHaveLength(10);
  recordAttempt.mockRestore();
  service.webhooks.wake();
  expect(await written(id, 1)).toMatchObject({
    status: 'failed',
    error: expect.stringContaining('stored'),
  });
  expect(deliveries).toHaveLength(10);
});

test('a 410 disables the URL for all deliveries; a replay or a test enables it', async () => {
  answer = () => new Response('gone', { status: 410 });
  const id = await endedTask();
  await delivery(1);
  const first = await later(id, 1, 0);
  expect(first).toMatchObject({ status: 'disabled', next_attempt_at: null, status_code: 410 });
  const posted = await service.post({ prompt: 'x', webhook_url: `${receiver.url}/hook` });
  const { id: next, warnings } = await posted.json();
  expect(warnings).toEqual([{ field: 'webhook_url', message: expect.stringContaining('410') }]);
  await send(`/cancel?id=${next}`);
  expect(await written(next, 0)).toMatchObject({ status: 'disabled', attempts: 0 });

  answer = () => new Response('ok');
  const replayed = await send(`/webhooks/replay?id=${first.id}`);
  expect([replayed.code, replayed.body]).toMatchObject([202, { id: first.id, status: 'pending', attempts: 0 }]);
  await delivery(2);
  expect(await written(id, 1)).toMatchObject({ status: 'delivered' });
  expect(deliveries.map(({ headers }) => headers['webhook-id'])).toEqual([first.id, first.id]);
  await endedTask();
  await delivery(3); // it is wanted again
});

test.each([
  ['600', 600],
  [() => new Date(Date.now() + 600_000).toUTCString(), 599],
  ['9999999', 24 * 3600],
])('Retry-After %s is respected, and a redirect is not followed', async (header, seconds) => {
  const retryAfter = typeof header === 'string' ? header : header();
  answer = () =>
    new Response(null, { status: 302, headers: { location: `${receiver.url}/elsewhere`, 'retry-after': retryAfter } });
  const id = await endedTask();
  await delivery(1);
  const { next_attempt_at, status_code } = await later(id, 1, 0);
  expect(status_code).toBe(302);
  expect(next_attempt_at! - Date.now()).toBeGreaterThan((seconds - 10) * 1000);
  expect(next_attempt_at! - Date.now()).toBeLessThan((seconds + 10) * 1000);
  expect(deliveries).toHaveLength(1);
});

test.each([429, 502, 504])('an overloaded receiver (%i) gets no other deliveries for a while', async (status) => {
  let release = () => {};
  const busy = await listen(
    new Hono().post('/', async (c) => {
      await new Promise<void>((resolve) => {
        release = resolve;
        heard();
      });
      return c.body(null, status as 429);
    }),
  );
  const arrived = new Promise<void>((resolve) => {
    heard = resolve;
  });
  const url = `${busy.url}/`;
  const { id } = await (await service.post({ prompt: 'x', webhook_url: url })).json();
  await send(`/cancel?id=${id}`);
  await arrived;
  const next = { id: v7(), owner: 'local', task_id: null, type: 'webhook.test', url, created_at: Date.now() };
  await service.store.addDelivery(next); // due at once
  release();
  expect(await written(id, 1)).toMatchObject({ status: 'pending', status_code: status });
  const { attempts, next_attempt_at } = (await service.store.getDelivery('local', next.id))!;
  expect(attempts).toBe(0);
  expect(next_attempt_at! - Date.now()).toBeGreaterThan(3000);
  await busy.close();
});

test('a URL that resolves to a private address is refused when it is sent, and the delivery says so', async () => {
  const guarded = await testService();
  const { id } = await (await guarded.post({ prompt: 'x', webhook_url: 'https://example.com/' })).json();
  const { input } = (await guarded.store.get(id))!;
  const changes = { input: { ...input, webhook_url: 'https://localhost.localdomain.localhost/' } }; // past the check at the POST
  while (!(await guarded.store.update((await guarded.store.get(id))!, changes))); // its submission may change it meanwhile
  await fetch(`${guarded.url}/cancel?id=${id}`, { method: 'POST' });
  for (;;) {
    const [delivery] = await (await fetch(`${guarded.url}/webhooks/deliveries`)).json();
    if (delivery?.attempts !== 1) continue;
    expect(delivery).toMatchObject({ status: 'pending', error: 'the address is not public', type: 'task.canceled' });
    break;
  }
  await guarded.close();
});

test('a slow receiver of one key does not delay the deliveries of others', async () => {
  const keys = [await service.key(), await service.key()];
  const release: (() => void)[] = [];
  let isSlow = true;
  const slow = await listen(
    new Hono().post('/', async (c) => {
      if (isSlow) await new Promise<void>((resolve) => release.push(resolve));
      return c.body(null, 204);
    }),
  );
  for (let i = 0; i < 40; i++) await service.webhooks.test(keys[0]!.id, `${slow.url}/`);
  await service.webhooks.test(keys[1]!.id, `${receiver.url}/hook`);
  await delivery(1);
  while (release.length < 16) await new Promise((resolve) => setImmediate(resolve));
  expect(release).toHaveLength(16); // as many as one may have under way
  isSlow = false;
  for (const go of release) go();
  const left = async () =>
    (await service.store.listDeliveries({ owner: keys[0]!.id, status: 'pending', limit: 99 })).length;
  while ((await left()) > 0) await new Promise((resolve) => setImmediate(resolve));
  await slow.close();
});

test('a receiver that gives no answer does not delay the other URLs of its key', async () => {
  const timeouts = holdTimeouts(20_000);
  const silent = await listen(new Hono().post('/', () => new Promise<Response>(() => {})));
  const { id } = await (await service.post({ prompt: 'x' })).json();
  const due = { owner: 'local', task_id: id, type: 'task.failed', url: `${silent.url}/`, created_at: Date.now() };
  for (let i = 0; i < 40; i++) await service.store.addDelivery({ ...due, id: v7() });
  service.webhooks.wake();
  await vi.waitFor(() => expect(timeouts.held).toHaveLength(16)); // as many as one key may have under way
  await service.webhooks.test('local', `${receiver.url}/hook`);
  timeouts.expire();
  await delivery(1);
  await vi.waitFor(async () => {
    const listed = await service.store.listDeliveries({ owner: 'local', task: id, status: 'pending', limit: 99 });
    expect(listed.filter(({ error }) => error === 'no response within 20 s')).toHaveLength(16);
    expect(
      listed.filter(({ started, next_attempt_at }) => started === 0 && next_attempt_at! > Date.now()),
    ).toHaveLength(24);
  });
  timeouts.restore();
  await silent.close();
});

test('four keys with receivers that never answer leave places for the webhook of a fifth', async () => {
  const [fifth, ...dead] = await Promise.all(Array.from({ length: 5 }, () => service.key()));
  let open = 0;
  let release = () => {};
  const silence = new Promise<void>((resolve) => {
    release = resolve;
  });
  const silent = await listen(
    new Hono().post('/', async (c) => {
      open++;
      await silence;
      return c.body(null, 204);
    }),
  );
  const test = { task_id: null, type: 'webhook.test', url: `${silent.url}/`, created_at: Date.now() };
  for (const { id: owner } of dead)
    for (let i = 0; i < 20; i++) await service.store.addDelivery({ ...test, id: v7(), owner });
  service.webhooks.wake();
  await vi.waitFor(() => expect(open).toBeGreaterThanOrEqual(48), { interval: 5 });
  await service.webhooks.test(fifth!.id, `${receiver.url}/hook`);
  await delivery(1);
  expect(open).toBeLessThanOrEqual(52);
  release();
  await silent.close();
});

test('each key signs with its own secret, and with both for a while after a rotation', async () => {
  const [old, fresh] = [8, 9].map((byte) => `whsec_${Buffer.alloc(32, byte).toString('base64')}`) as [string, string];
  const { id } = await service.key({
    webhook_secret: fresh,
    old_webhook_secret: old,
    old_webhook_until: Date.now() + 3_600_000,
  });
  await service.webhooks.test(id, `${receiver.url}/hook`);
  const both = await delivery(1);
  for (const secret of [old, fresh]) new Webhook(secret).verify(both.body, both.headers);
  expect(() => new Webhook(WEBHOOK_SECRET).verify(both.body, both.headers)).toThrow();
  service.clock.ahead += 3_700_000;
  await service.webhooks.test(id, `${receiver.url}/hook`);
  const { headers } = await delivery(2);
  expect(headers['webhook-signature']!.split(' ')).toHaveLength(1);
});

describe('a delivery', () => {
  test('is listed, newest first, in pages, by status and task', async () => {
    answer = () => new Response('no', { status: 500 });
    const ids = [await endedTask(), await endedTask(), await endedTask()];
    for (const id of ids) await written(id, 1);
    const { code, body } = await call('/webhooks/deliveries');
    expect(code).toBe(200);
    expect(body.map(({ task_id }: { task_id: string }) => task_id)).toEqual([...ids].reverse());
    expect(body[0]).toEqual({
      id: expect.any(String),
      type: 'task.succeeded',
      task_id: ids[2],
      url: `${receiver.url}/hook`,
      status: 'pending',
      created_at: expect.any(String),
      attempts: 1,
      attempted_at: expect.any(String),
      next_attempt_at: expect.any(String),
      status_code: 500,
    });
    const page = await call('/webhooks/deliveries?limit=2&status=pending');
    expect(page.body).toEqual(body.slice(0, 2));
    const next = new URL(/<(.*)>; rel="next"/.exec(page.link!)![1]!);
    const { body: rest, link } = await call(next.pathname + next.search);
    expect([rest, link]).toEqual([body.slice(2), null]);
    expect((await call(`/webhooks/deliveries?task=${ids[0]}`)).body).toEqual(body.slice(2));
    expect((await call(`/webhooks/deliveries?id=${body[1].id}`)).body).toEqual([body[1]]);
    expect((await call('/webhooks/deliveries?status=delivered')).body).toEqual([]);
  });

  test('request names the invalid value, or gets 404', async () => {
    const none = '01a206ec-8c81-72d2-88c2-373f04644e4a';
    for (const [path, code, field] of [
      ['/webhooks/deliveries?status=done', 422, 'status'],
      ['/webhooks/deliveries?limit=0', 422, 'limit'],
      ['/webhooks/deliveries?cursor=x', 422, 'cursor'],
      ['/webhooks/deliveries?tasks=x', 422, 'tasks'],
      [`/webhooks/deliveries?id=${none}`, 404],
    ] as const) {
      const { code: got, body } = await call(path);
      expect([got, body.errors?.[0].field], path).toEqual([code, field]);
    }
    expect((await send(`/webhooks/replay?id=${none}`)).code).toBe(404);
    expect((await send('/webhooks/replay')).code).toBe(422);
    expect((await send('/webhooks/test')).body.errors[0].field).toBe('webhook_url');
    expect((await send('/webhooks/test?webhook_url=x')).code).toBe(422);
  });

  test('of a test is created at most ten times a minute', async () => {
    const path = `/webhooks/test?webhook_url=${encodeURIComponent(`${receiver.url}/hook`)}`;
    const codes = [];
    for (let i = 0; i < 11; i++) codes.push((await send(path)).code);
    expect(codes).toEqual([...Array(10).fill(202), 429]);
    const refused = await fetch(service.url + path, { method: 'POST' });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await refused.json()).toMatchObject({ code: 'too_many_requests', detail: expect.stringContaining('10') });
    expect((await call('/webhooks/deliveries')).body).toHaveLength(10);
    service.clock.ahead += 61_000;
    expect((await send(path)).code).toBe(202);
  });

  test('of a test is attempted once, whatever the outcome', async () => {
    answer = () => new Response('no', { status: 500 });
    const { code, body } = await send(`/webhooks/test?webhook_url=${encodeURIComponent(`${receiver.url}/hook`)}`);
    expect([code, body]).toMatchObject([202, { type: 'webhook.test', status: 'pending', attempts: 0 }]);
    const { headers, body: sent } = await delivery(1);
    expect(new Webhook(WEBHOOK_SECRET).verify(sent, headers)).toMatchObject({ type: 'webhook.test' });
    expect(headers['webhook-id']).toBe(body.id);
    for (;;) {
      const [found] = (await call(`/webhooks/deliveries?id=${body.id}`)).body;
      if (found.status === 'pending') continue;
      expect(found).toMatchObject({ status: 'failed', status_code: 500, attempts: 1 });
      break;
    }
  });
});
