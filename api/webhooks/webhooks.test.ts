import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Hono } from 'hono';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { listen, type TestService, testService, WEBHOOK_SECRET } from '../testing.ts';
import { webhookSecret } from './webhooks.ts';

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

/** Lets the delivery that was just received be written down, then moves the clock. */
async function later(id: string, attempts: number, ms: number) {
  while ((await service.store.get(id))!.webhook_attempts < attempts)
    await new Promise((resolve) => setImmediate(resolve));
  service.clock.ahead += ms;
  service.webhooks.wake();
}

test('the end of a task is announced once, signed, with links that work', async () => {
  const id = await endedTask({ prompt: 'y'.repeat(3000) });
  const { headers, body } = await delivery(1);
  const event = new Webhook(WEBHOOK_SECRET).verify(body, headers) as {
    type: string;
    data: { id: string; input: { prompt: string }; videos: { link: string }[] };
  };
  expect(event).toMatchObject({ type: 'task.succeeded', data: { id, status: 'succeeded' } });
  expect(event.data.input.prompt).toHaveLength(500);
  expect(headers['webhook-id']).toBe(id);
  expect((await fetch(event.data.videos[0]!.link)).status).toBe(200);
  await later(id, 1, 3_600_000);
  expect((await service.store.get(id))!.webhook_due_at).toBeNull();
  expect(deliveries).toHaveLength(1);
});

test('an announcement that is not heard comes again under the same id, and stops at 410', async () => {
  answer = () => new Response('no', { status: 500 });
  const id = await endedTask();
  await delivery(1);
  await later(id, 1, 6_000);
  await delivery(2);
  answer = () => new Response('gone', { status: 410 });
  await later(id, 2, 6 * 60_000);
  await delivery(3);
  expect(new Set(deliveries.map(({ headers }) => headers['webhook-id']))).toEqual(new Set([id]));
  await later(id, 3, 0);
  expect(await service.store.get(id)).toMatchObject({ webhook_due_at: null, webhook_attempts: 3 });
});

test('Retry-After is kept to, and a redirect is not followed', async () => {
  answer = () =>
    new Response(null, { status: 302, headers: { location: `${receiver.url}/elsewhere`, 'retry-after': '600' } });
  const id = await endedTask();
  await delivery(1);
  await later(id, 1, 0);
  const { webhook_due_at } = (await service.store.get(id))!;
  expect(webhook_due_at! - Date.now()).toBeGreaterThan(590_000);
  expect(deliveries).toHaveLength(1);
});

test('a task without webhook_url is announced to nobody', async () => {
  const id = await endedTask({ webhook_url: undefined });
  expect(await service.store.get(id)).toMatchObject({ webhook_due_at: null, webhook_attempts: 0 });
});

test('processes that share tasks sign with one secret, and each folder shows it', async () => {
  const folders = ['a', 'b'].map((name) => join(service.folder, name));
  const secrets = [];
  for (const folder of [...folders, ...folders]) secrets.push(await webhookSecret(folder, service.store));
  expect(secrets[0]).toMatch(/^whsec_.{44}$/);
  expect(new Set(secrets).size).toBe(1);
  for (const folder of folders) {
    const path = join(folder, 'webhook-secret');
    expect((await readFile(path, 'utf8')).trim()).toBe(secrets[0]);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
  }
});
