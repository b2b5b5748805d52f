import { Webhook } from 'standardwebhooks';
import type * as v from 'valibot';
import { afterAll, beforeAll, expect, expectTypeOf, test, vi } from 'vitest';
import type { Input, requestSchema } from '../core/parameters.ts';
import type { ProblemCode } from '../core/problems.ts';
import type { PresentedTask, Usage as PresentedUsage, RESPONSES } from '../core/responses.ts';
import { sample } from '../test/support/malicious-pictures.ts';
import { type TestService, testService, WEBHOOK_SECRET } from '../test/support/test-api.ts';
import { problem, scripted } from '../test/support/test-client.ts';
import {
  ApiError,
  type Client,
  createClient,
  type DryRun,
  type Task,
  type Usage,
  verifyWebhook,
  type WebhookEvent,
  WebhookVerificationError,
} from './index.ts';
import type { RequestParameters } from './types.ts';

let service: TestService;
let client: Client;
beforeAll(async () => {
  service = await testService({ PRICE_PER_GPU_SECOND: '0.001' });
  client = createClient({ url: `${service.url}/` });
});
afterAll(() => service.close());

async function finish(id: string) {
  const job = await service.take(id);
  service.report(job.id, { output: await service.finish(id, job.id) });
}
test('a clip can be requested, followed, downloaded and deleted', async () => {
  const task = await client.img2vid({ prompt: 'a lighthouse', seed: 23, T: 3, sampler: 'HeunEDMSampler' });
  expect(task.answer).toMatchObject({ id: task.id, status: 'queued', input: { seed: 23, T: 3 } });
  expect(task.isReplayed).toBe(false);
  const seen: string[] = [];
  for await (const { status } of task) {
    seen.push(status);
    if (seen.length === 1) void finish(task.id);
  }
  expect([seen[0], seen.at(-1)]).toEqual(['queued', 'succeeded']);

  const ended = await task.done(); // once more, from the start
  expect(ended.status).toBe('succeeded');
  expectTypeOf(ended.videos?.[0]?.seed).toEqualTypeOf<number | undefined>();
  expect(await (await client.download(ended.videos![0]!)).text()).toBe('not really a video');
  expect((await client.status(task.id)).id).toBe(task.id);
  expect(await client.follow(task.id).done()).toMatchObject({ id: task.id, status: 'succeeded' });

  const deleted = await client.delete(task.id);
  expect(deleted.expired_at).toEqual(expect.any(String));
  const { currency, days } = await client.usage();
  expect([currency, days[0]!.succeeded]).toEqual(['USD', 1]);
  expectTypeOf(days[0]!.amount).toEqualTypeOf<number>();
});

test('a File names the clip, and bytes do not', async () => {
  const bytes = new Uint8Array(await sample().jpeg().toBuffer());
  const named = await client.img2vid({ image: new File([bytes], 'my cat.jpg') });
  expect(named.answer.input.image).toBe('my cat.jpg');
  for (const image of [bytes, new Blob([bytes]), Buffer.from(bytes).toString('base64')])
    expect((await client.img2vid({ image })).answer.input).not.toHaveProperty('image');
  await finish(named.id);
  expect((await named.done()).videos![0]!.filename).toBe('my-cat-1.mp4');
});

// Checked by `npm run check`. If it does not compile, run `npm run docs`.
test('the generated types are those of the schemas', () => {
  expectTypeOf<RequestParameters>().toEqualTypeOf<v.InferInput<ReturnType<typeof requestSchema>>>();
  expectTypeOf<Omit<Task, 'input'>>().toEqualTypeOf<Omit<PresentedTask, 'input'>>();
  expectTypeOf<Input>().toExtend<Task['input']>();
  expectTypeOf<Omit<DryRun, 'input'>>().toEqualTypeOf<Omit<v.InferOutput<typeof RESPONSES.DryRun>, 'input'>>();
  expectTypeOf<Usage>().toEqualTypeOf<PresentedUsage>();
  expectTypeOf<v.InferOutput<typeof RESPONSES.Event>>().toExtend<WebhookEvent>();
  expectTypeOf<ApiError['code']>().toEqualTypeOf<ProblemCode | 'unreachable' | 'unexpected'>();
});

test('unknown parameters and values of the wrong type do not compile', () => {
  // @ts-expect-error no such parameter
  void (() => client.img2vid({ promt: 'x' }));
  // @ts-expect-error must be a number
  void (() => client.img2vid({ prompt: 'x', T: '5' }));
  // @ts-expect-error no such sampler
  void (() => client.img2vid({ prompt: 'x', sampler: 'Euler' }));
});

test('a picture is sent as a file with the other values as text, and a dry run makes nothing', async () => {
  const { default: sharp } = await import('sharp');
  const png = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
  for (const image of [new Uint8Array(png), new Blob([new Uint8Array(png)])]) {
    const { input, cost_estimate } = await client.dryRun({ image, H: 64, W: 128, fit: 'contain', seed: undefined });
    expect(input).toMatchObject({ H: 64, W: 128, fit: 'contain' });
    expect(cost_estimate).toMatchObject({ amount: 1000, currency: 'USD', gpu_seconds: 1 });
  }
  const broken = client.dryRun({ image: new Uint8Array([1, 2, 3]) });
  await expect(broken).rejects.toMatchObject({ code: 'image_rejected', errors: [{ field: 'image' }] });
});

test('`wait` makes the response the ended task, and the same idempotency key gives the same task', async () => {
  const options = { idempotencyKey: 'mine', wait: 30 };
  const creating = client.img2vid({ prompt: 'waited for' }, options);
  const id = await vi.waitFor(async () => {
    for await (const task of client.list({ pageSize: 1 })) {
      expect(task.input.prompt).toBe('waited for');
      return task.id;
    }
    throw new Error('none');
  });
  await finish(id);
  expect((await creating).answer).toMatchObject({ id, status: 'succeeded' });
  expect(await client.img2vid({ prompt: 'waited for' }, options)).toMatchObject({ id, isReplayed: true });
  await expect(client.img2vid({ prompt: 'other' }, options)).rejects.toMatchObject({ code: 'idempotency_conflict' });
});

test('the list requests pages only as they are needed, and can be filtered', async () => {
  const requests = vi.fn<typeof fetch>((...args) => fetch(...args));
  const counting = createClient({ url: service.url, fetch: requests });
  const made: string[] = [];
  for (let i = 0; i < 5; i++) made.unshift((await client.img2vid({ prompt: `list ${i}` })).id);
  await client.cancel(made[1]!);
  const ids = async (tasks: AsyncIterable<Task>) => {
    const found: string[] = [];
    for await (const { id } of tasks) if (made.includes(id)) found.push(id);
    return found;
  };
  const { created_at } = await client.status(made.at(-1)!);
  expect(await ids(counting.list({ pageSize: 2, since: new Date(created_at) }))).toEqual(made);
  expect(requests).toHaveBeenCalledTimes(3);
  expect(await ids(client.list({ status: 'canceled' }))).toEqual([made[1]]);
  expect(await ids(client.list({ until: created_at }))).toEqual([]);
  for await (const _ of counting.list({ pageSize: 2 })) break;
  expect(requests).toHaveBeenCalledTimes(4);
});

test('a post whose answer breaks off, or refused by a busy service, is retried and makes one task', async () => {
  const answers = [problem(503, 'unavailable', { 'retry-after': '0' }), problem(429, 'too_many_requests')];
  const bodies: unknown[] = [];
  const flaky = createClient({
    url: service.url,
    async fetch(input, init) {
      bodies.push([new Headers(init!.headers).get('idempotency-key'), init!.body]);
      const answer = await fetch(input, init);
      if (bodies.length > 1) return answers.shift() ?? answer;
      await answer.arrayBuffer();
      const breaksOff = new ReadableStream({ start: (controller) => controller.error(new Error('reset')) });
      return new Response(breaksOff, { status: 202 });
    },
  });
  const count = async () => {
    let tasks = 0;
    for await (const _ of client.list()) tasks++;
    return tasks;
  };
  const before = await count();
  const task = await flaky.img2vid({ prompt: 'once' });
  expect(bodies).toEqual(Array(4).fill(bodies[0]));
  expect(task.isReplayed).toBe(true);
  expect(await count()).toBe(before + 1);
  const { id } = await flaky.img2vid({ prompt: 'once' }); // another call is another clip
  expect(id).not.toBe(task.id);
});

test('errors carry the API’s problem, and a response of something else has the code `unexpected`', async () => {
  const refused = await client.img2vid({ prompt: 'x', T: 0, H: 100 }).catch((error) => error);
  expect(refused).toBeInstanceOf(ApiError);
  expect(refused).toMatchObject({ name: 'ApiError', status: 422, code: 'invalid_input', retryAfter: undefined });
  expect(refused.errors.map(({ field }: { field: string }) => field)).toEqual(['H', 'T']);
  expect(refused.message).toContain('T: must be a whole number from 1 to 100');
  const proxy = scripted(new Response('<html>no', { status: 403, headers: { 'content-type': 'text/html' } }));
  await expect(proxy.client.status('a')).rejects.toMatchObject({ status: 403, code: 'unexpected' });
});

test('an answer that is not the API’s is refused by every call, and is not requested again', async () => {
  const calls: ((client: Client) => Promise<unknown>)[] = [
    (client) => client.img2vid({ prompt: 'x' }),
    (client) => client.dryRun({ prompt: 'x' }),
    (client) => client.status('a'),
    (client) => client.list().next(),
    (client) => client.cancel('a'),
    (client) => client.delete('a'),
    (client) => client.usage(),
    (client) => client.follow('a').done(),
  ];
  const html = { headers: { 'content-type': 'text/html' } };
  const empty = { status: 422, headers: { 'content-type': 'application/problem+json' } };
  for (const call of calls)
    for (const [body, init] of [['<html>', html], ['null'], ['{"ok":true}'], ['', empty], ['{}', empty]] as const) {
      const { client, send } = scripted(new Response(body, init));
      const status = init === empty ? 422 : 200;
      await expect(call(client)).rejects.toMatchObject({ name: 'ApiError', status, code: 'unexpected' });
      expect(send).toHaveBeenCalledTimes(1);
    }
  const moved = new Response('<html>', html);
  Object.defineProperties(moved, { redirected: { value: true }, url: { value: 'https://new.example/status' } });
  await expect(scripted(moved).client.status('a')).rejects.toThrow('redirected to https://new.example');
});

test('a URL, key or idempotency key that can’t be sent is refused without repeating it', async () => {
  for (const options of [
    { url: 'http://me:secret@api.example' },
    { url: 'http://api.example/?token=secret' },
    { url: 'secret' },
    { url: 'http://%secret' },
    { url: 'http://api.example', key: 'i2v_\nsecret' },
    { url: 'http://api.example', key: 'secret…' },
  ])
    expect(() => createClient(options)).toThrow(/^(url|key): must (?!.*secret)/);
  const idempotencyKey = 'a\nb';
  await expect(client.img2vid({ prompt: 'x' }, { idempotencyKey })).rejects.toThrow('idempotencyKey: must be visible');
});

test('a signal ends the waiting with its reason, leaving the loop closes the connection, and the task continues', async () => {
  const signals: AbortSignal[] = [];
  const watched = createClient({
    url: service.url,
    fetch: (input, init) => {
      signals.push(init!.signal!);
      return fetch(input, init);
    },
  });
  const stop = new AbortController();
  const task = await watched.img2vid({ prompt: 'left' }, { signal: stop.signal });
  for await (const _ of task) break;
  expect(signals.at(-1)!.aborted).toBe(true);
  const waiting = task.done();
  stop.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow('enough');
  await expect(watched.status(task.id, { signal: stop.signal })).rejects.toThrow('enough');
  expect((await client.status(task.id)).status).toBe('queued');
});

test('the key is sent to the API, but not to links', async () => {
  const own = await testService();
  const { value: text } = await own.key();
  await expect(createClient({ url: own.url }).status('a')).rejects.toMatchObject({ code: 'unauthorized' });
  const sent: [string, string | null][] = [];
  const keyed = createClient({
    url: own.url,
    key: text,
    fetch: (input, init) => {
      sent.push([String(input).replace(/\?.*/, ''), new Headers(init!.headers).get('authorization')]);
      return fetch(input, init);
    },
  });
  const task = await keyed.img2vid({ prompt: 'x' });
  const job = await own.take(task.id);
  own.report(job.id, { output: await own.finish(task.id, job.id) });
  const { videos } = await task.done();
  await (await keyed.download(videos![0]!)).arrayBuffer();
  expect(sent.slice(0, 2).map(([, key]) => key)).toEqual([`Bearer ${text}`, `Bearer ${text}`]);
  expect(sent.at(-1)).toEqual([expect.stringMatching(/\/files\/.*video-1\.mp4$/), null]);
  await own.close();
});

test('a webhook is accepted only with a valid signature, and its event is typed', async () => {
  const body = JSON.stringify({ type: 'task.succeeded', timestamp: 'now', data: { id: 'a', prompt: 'á l’aube' } });
  const at = new Date();
  const headers = {
    'Webhook-Id': 'b',
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
    'webhook-signature': new Webhook(WEBHOOK_SECRET).sign('b', at, body),
  };
  for (const given of [body, new TextEncoder().encode(body), Buffer.from(body)]) {
    for (const named of [headers, new Headers(headers)]) {
      const event = verifyWebhook(given, named, WEBHOOK_SECRET);
      if (event.type === 'webhook.test') throw new Error('it is none');
      expectTypeOf(event.data).toEqualTypeOf<Task>();
      expect(event.data.id).toBe('a');
    }
  }
  const other = `whsec_${Buffer.alloc(32, 1).toString('base64')}`;
  for (const [given, named, secret] of [
    [body.replace('a', 'b'), headers, WEBHOOK_SECRET],
    [Buffer.concat([Buffer.from(body), Buffer.from(' ')]), headers, WEBHOOK_SECRET],
    [body, headers, other],
    [body, {}, WEBHOOK_SECRET],
    [body, { ...headers, 'webhook-timestamp': '1' }, WEBHOOK_SECRET],
  ] as const)
    expect(() => verifyWebhook(given, named, secret)).toThrow(WebhookVerificationError);
  expect(() => verifyWebhook(body, headers, '')).toThrow('empty');
});
