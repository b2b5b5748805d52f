/** Events of a task before its end: `webhook_events`. */
import { Hono } from 'hono';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { verifyWebhook, type WebhookEvent } from '../../client/index.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { holdTimeouts } from '../../test/support/held-timeouts.ts';
import { listen, type TestService, testService, WEBHOOK_SECRET } from '../../test/support/test-api.ts';

interface Received {
  type: string;
  task: PresentedTask;
  at: number;
}

let service: TestService;
let receiver: Awaited<ReturnType<typeof listen>>;
let received: Received[];
let statusOf: (event: WebhookEvent) => number;

beforeEach(async () => {
  service = await testService({ ALLOW_PRIVATE_URLS: '1' });
  received = [];
  statusOf = () => 204;
  receiver = await listen(
    new Hono().post('/hook', async (c) => {
      const event = verifyWebhook(await c.req.text(), c.req.header(), WEBHOOK_SECRET);
      received.push({ type: event.type, task: event.data as PresentedTask, at: performance.now() });
      return new Response(null, { status: statusOf(event) });
    }),
  );
});
afterEach(async () => {
  await service.close();
  await receiver.close();
});

const create = async (webhook_events?: unknown) => {
  const body = {
    prompt: 'x',
    webhook_url: `${receiver.url}/hook`,
    ...(webhook_events !== undefined && { webhook_events }),
  };
  return (await (await service.post(body)).json()).id as string;
};
const types = () => received.map(({ type }) => type);
const reach = (expected: string[]) => vi.waitFor(() => expect(types()).toEqual(expected), { interval: 10 });
const say = (job: string, progress: number) =>
  service.report(job, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress } });
async function end(id: string, job: string) {
  service.report(job, { output: await service.finish(id, job) });
  await service.until(id, ({ status }) => status === 'succeeded');
}

test('start, progress and end are sent, progress once a second with the latest state', async () => {
  const id = await create(['ended', 'started', 'progress', 'started']);
  expect((await service.status(id)).input.webhook_events).toEqual(['started', 'progress', 'ended']);
  const { id: job, input } = await service.take(id);
  expect(input).not.toHaveProperty('webhook_events');
  say(job, 0.1);
  await reach(['task.started']);
  expect(received[0]!.task).toMatchObject({ id, status: 'running' });
  for (const progress of [0.2, 0.3, 0.4, 0.5]) {
    say(job, progress);
    await service.until(id, (task) => task.progress === progress);
  }
  await vi.waitFor(() => expect(received.at(-1)!.task.progress).toBe(0.5));
  await end(id, job);
  await vi.waitFor(() => expect(types()).toContain('task.succeeded'));
  const sent = received.slice(1, -1); // two, or up to four if the reports took seconds
  expect(types()).toEqual(['task.started', ...sent.map(() => 'task.progress'), 'task.succeeded']);
  for (const [i, { task, at }] of sent.slice(1).entries()) {
    expect(task.progress).toBeGreaterThanOrEqual(sent[i]!.task.progress);
    expect(at - sent[i]!.at).toBeGreaterThan(500); // a second between the sends
  }
  const listed = await (await fetch(`${service.url}/webhooks/deliveries?task=${id}`)).json();
  expect(listed.map(({ type }: { type: string }) => type)).toEqual(['task.succeeded', 'task.started']);
});

test('by default only the end is sent; other choices leave it out', async () => {
  const [plain, onlyStart] = [await create(), await create('started')];
  for (const id of [plain, onlyStart]) {
    const { id: job } = await service.take(id);
    say(job, 0.3);
    await service.until(id, ({ progress }) => progress === 0.3);
    say(job, 0.6);
    await service.until(id, ({ progress }) => progress === 0.6);
    await end(id, job);
  }
  await vi.waitFor(() => expect(received).toHaveLength(2));
  const sent = received.map(({ type, task }) => [task.id, type]).sort();
  expect(sent).toEqual(
    [
      [plain, 'task.succeeded'],
      [onlyStart, 'task.started'],
    ].sort(),
  );
});

test('a refused start is tried again, refused progress is not, and 410 to progress disables the URL', async () => {
  statusOf = ({ type }) => (type === 'task.progress' ? 410 : 500);
  const id = await create('started, progress');
  const { id: job } = await service.take(id);
  say(job, 0.1);
  await reach(['task.started']);
  await vi.waitFor(async () =>
    expect(await service.store.listDeliveries({ owner: 'local', task: id, limit: 9 })).toMatchObject([
      { type: 'task.started', status: 'pending', attempts: 1 },
    ]),
  );
  say(job, 0.2);
  await reach(['task.started', 'task.progress']);
  const url = `${receiver.url}/hook`;
  await vi.waitFor(async () => expect(await service.store.isWebhookDisabled('local', url)).toBe(true));
  expect(await service.store.listDeliveries({ owner: 'local', task: id, limit: 9 })).toMatchObject([
    { type: 'task.started', status: 'disabled' },
  ]);
});

test('progress for receivers that give no answer leaves a place for another one of the key', async () => {
  const timeouts = holdTimeouts(20_000);
  const silent = await listen(new Hono().post('/', () => new Promise<Response>(() => {})));
  const run = async (webhook_url: string) => {
    const { id } = await (await service.post({ prompt: 'x', webhook_url, webhook_events: ['progress'] })).json();
    say((await service.take(id)).id, 0.1);
    await service.until(id, ({ status }) => status === 'running');
    return (await service.store.get(id))!;
  };
  const dead = await Promise.all(Array.from({ length: 8 }, () => run(`${silent.url}/`)));
  const good = await run(`${receiver.url}/hook`);
  for (const task of dead) service.webhooks.sendProgress(task);
  await vi.waitFor(() => expect(timeouts.held).toHaveLength(8)); // all places of the key
  for (const task of [good, ...dead, good]) service.webhooks.sendProgress(task); // each has one that waits
  timeouts.expire();
  await reach(['task.progress']);
  timeouts.restore();
  await silent.close();
});

test('other events are 422, and events without a webhook are ignored with a warning', async () => {
  const message = 'must be a list of started, progress, ended, at least one; in a form send text with commas';
  for (const webhook_events of [[], '', 'end', ['started', 'x'], [1], {}, null, 'started,']) {
    const { errors } = await (await service.post({ prompt: 'x', webhook_events })).json();
    expect(errors, JSON.stringify(webhook_events)).toEqual([{ field: 'webhook_events', message }]);
  }
  const form = new URLSearchParams({ prompt: 'x', webhook_events: 'progress,ended' });
  const { warnings } = await (await fetch(`${service.url}/tasks`, { method: 'POST', body: form })).json();
  expect(warnings).toEqual([{ field: 'webhook_events', message: 'ignored: there is no webhook_url' }]);
});
