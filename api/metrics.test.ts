import { request } from 'node:http';
import { Hono } from 'hono';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { taskFolder } from '../core/job.ts';
import { SECOND } from '../core/time.ts';
import { listen, type TestService, testService } from '../test/support/test-api.ts';
import { createMetrics } from './metrics.ts';
import { metrics as scraped } from './routes/metrics.ts';

type Labels = Record<string, string>;
interface Sample {
  name: string;
  labels: Labels;
  value: number;
}
interface Family {
  name: string;
  type: string;
  samples: Sample[];
}

/** Prometheus' text format, version 0.0.4, and no more of it than a scraper must take. @throws Error at the first wrong line */
function parse(text: string): Family[] {
  if (!text.endsWith('\n')) throw new Error('the last line is not ended');
  const families = new Map<string, Family>();
  const series = new Set<string>();
  let helped: string | undefined;
  let current: Family | undefined;
  for (const line of text.slice(0, -1).split('\n')) {
    const [, keyword, about, rest] = /^# (HELP|TYPE) ([a-zA-Z_:][\w:]*) (.+)$/.exec(line) ?? [];
    if (keyword === 'HELP') {
      if (families.has(about!)) throw new Error(`two families ${about}`);
      helped = about;
    } else if (keyword === 'TYPE') {
      if (about !== helped || !/^(counter|gauge|histogram)$/.test(rest!)) throw new Error(line);
      current = { name: about!, type: rest!, samples: [] };
      families.set(about!, current);
    } else if (line !== '') {
      const [, name, , inside = '', number] =
        /^([a-zA-Z_:][\w:]*)(\{(.+)\})? ([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?|\+Inf|-Inf|Nan)$/.exec(line) ?? [];
      if (!current || name?.replace(current.type === 'histogram' ? /_(bucket|sum|count)$/ : '', '') !== current.name)
        throw new Error(`${line}: not of ${current?.name}`);
      const labels: Labels = {};
      const left = inside.replace(/([a-zA-Z_]\w*)="((?:[^"\\]|\\[\\"n])*)"(,|$)/g, (_, label, value) => {
        if (label in labels) throw new Error(`${line}: ${label} twice`);
        labels[label] = value;
        return '';
      });
      if (left !== '') throw new Error(`${line}: ${left}`);
      const identity = JSON.stringify([name, Object.entries(labels).sort()]);
      if (series.has(identity)) throw new Error(`${line}: twice`);
      series.add(identity);
      current.samples.push({ name: name!, labels, value: Number(number!.replace('Inf', 'Infinity')) });
    }
  }
  for (const family of families.values()) if (family.type === 'histogram') checkHistogram(family);
  return [...families.values()];
}

/** Of each series the buckets rise, the last is +Inf and equals the count, and there is a sum. */
function checkHistogram({ name, samples }: Family) {
  const lines = new Map<string, Sample[]>();
  for (const sample of samples) {
    const { le, ...labels } = sample.labels;
    const key = JSON.stringify(Object.entries(labels).sort());
    lines.set(key, [...(lines.get(key) ?? []), sample]);
  }
  for (const [key, line] of lines) {
    const buckets = line.filter((sample) => sample.name === `${name}_bucket`);
    const bounds = buckets.map(({ labels }) => Number(labels.le!.replace('Inf', 'Infinity')));
    const rises = (numbers: number[], by: number) => numbers.every((n, i) => i === 0 || n - numbers[i - 1]! >= by);
    const [count] = line.filter((sample) => sample.name === `${name}_count`);
    const sums = line.filter((sample) => sample.name === `${name}_sum`);
    const counts = buckets.map(({ value }) => value);
    const isRight =
      rises(bounds, Number.MIN_VALUE) &&
      rises(counts, 0) &&
      bounds.at(-1) === Infinity &&
      counts.at(-1) === count?.value;
    if (!isRight || sums.length !== 1) throw new Error(`${name} ${key}: no histogram`);
  }
}

/** What a scrape shows now, by full name without `img2vid_`. */
async function scrape(service: TestService) {
  const response = await fetch(`${service.url}/metrics`);
  expect(response.status).toBe(200);
  const families = parse(await response.text());
  const samples = families.flatMap((family) => family.samples);
  const of = (name: string) => samples.filter((sample) => sample.name === `img2vid_${name}`);
  const matches = (sample: Sample, labels: Labels) =>
    Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
  return {
    families,
    of,
    /** The sum of all that have these labels; undefined if there is none. */
    value(name: string, labels: Labels = {}): number | undefined {
      const found = of(name).filter((sample) => matches(sample, labels));
      return found.length === 0 ? undefined : found.reduce((sum, { value }) => sum + value, 0);
    },
  };
}

const create = async (service: TestService, body: object = {}) =>
  (await (await service.post({ prompt: 'x', ...body })).json()).id as string;
const ended = ({ status }: { status: string }) => ['succeeded', 'failed', 'canceled'].includes(status);
/** Waits until nothing in it fails. */
const soon = (isSo: () => Promise<unknown>) => vi.waitFor(isSo, { interval: 5 });

describe('a service', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await testService();
  });
  afterAll(() => service.close());

  test('the format is Prometheus’; our names have one prefix, and the process metrics are there', async () => {
    const response = await fetch(`${service.url}/metrics`);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      'content-type': 'text/plain; version=0.0.4; charset=utf-8',
      'cache-control': 'no-store',
    });
    const names = parse(await response.text()).map(({ name }) => name);
    const others = names.filter((name) => !/^(process|nodejs)_/.test(name));
    expect(others.filter((name) => !name.startsWith('img2vid_'))).toEqual([]);
    expect(names).toEqual(expect.arrayContaining(['process_cpu_seconds_total', 'nodejs_eventloop_lag_p99_seconds']));
    for (const { name, type } of (await scrape(service)).families)
      if (name.startsWith('img2vid_')) expect([name, name.endsWith('_total')]).toEqual([name, type === 'counter']);
    expect((await fetch(`${service.url}/metrics`, { method: 'HEAD' })).status).toBe(200);
    const post = await fetch(`${service.url}/metrics`, { method: 'POST' });
    expect([post.status, post.headers.get('allow')]).toEqual([405, 'GET, HEAD']);
    const { paths } = await (await fetch(`${service.url}/openapi.json`)).json();
    expect(Object.keys(paths['/metrics'].get.responses[200].content)).toEqual(['text/plain']);
  });

  test('requests are counted by method, pattern and status; no text of a client becomes a label', async () => {
    const ask = (method: string, path: string) =>
      new Promise<void>((resolve, reject) => {
        const asking = request({ port: service.port, method, path }, (answer) => answer.resume().on('end', resolve));
        asking.on('error', reject).end();
      });
    await create(service);
    for (const path of ['/a', '/b?c="d"', '/status/', '/%0a%22', '//x']) await ask('GET', path);
    for (const method of ['PROPFIND', 'PURGE', 'M-SEARCH']) await ask(method, '/status');
    await ask('DELETE', '/status');
    await ask('POST', '/runpod/callback/secret-token');
    await ask('GET', '/files/tasks/x/video.mp4?expires=1&signature=secret-token');
    await ask('HEAD', '/healthz');
    let seen!: Awaited<ReturnType<typeof scrape>>;
    await soon(async () => {
      seen = await scrape(service);
      expect(seen.value('http_requests_total', { method: 'HEAD', route: '/healthz', status: '200' })).toBe(1);
    });
    const count = (method: string, route: string, status: string) =>
      seen.value('http_requests_total', { method, route, status });
    expect(count('POST', '/img2vid', '202')).toBe(1);
    expect(count('GET', 'unknown', '404')).toBe(5);
    expect(count('other', '/status', '405')).toBe(3);
    expect(count('DELETE', '/status', '405')).toBe(1);
    expect(count('POST', '/runpod/callback/:token', '404')).toBe(1);
    expect(count('GET', '/files/*', '403')).toBe(1);
    const known = [
      '/img2vid',
      '/status',
      '/files/*',
      '/runpod/callback/:token',
      '/healthz',
      '/metrics',
      '/openapi.json',
    ];
    for (const { labels } of seen.of('http_requests_total')) expect([...known, 'unknown']).toContain(labels.route);
    expect(seen.value('http_request_duration_seconds_count', { route: 'unknown', method: 'GET' })).toBe(5);
    expect(await (await fetch(`${service.url}/metrics`)).text()).not.toContain('secret-token');
  });
});

test('tasks are measured: active ones, queue age, ends and the duration of stages', async () => {
  const service = await testService();
  const first = await scrape(service);
  expect(first.value('tasks', { status: 'queued' })).toBe(0);
  expect(first.value('queue_age_seconds')).toBe(0);
  expect(first.value('tasks_ended_total')).toBe(0); // all that can come is there from the beginning
  expect(first.of('tasks_ended_total').length).toBeGreaterThan(15);

  let take!: () => void;
  const taking = new Promise<void>((resolve) => {
    take = resolve;
  });
  service.faults.runpod = () => taking.then(() => undefined);
  const ids = [await create(service), await create(service), await create(service), await create(service)] as const;
  service.clock.ahead += 50 * SECOND;
  const waiting = await scrape(service);
  expect(waiting.value('tasks', { status: 'queued' })).toBe(4);
  expect([waiting.value('tasks', { status: 'running' }), waiting.value('jobs_out')]).toEqual([0, 0]);
  expect(waiting.value('queue_age_seconds')! - 50).toSatisfy((more: number) => more >= 0 && more < 20);

  take();
  const jobs = [await service.take(ids[0]), await service.take(ids[1]), await service.take(ids[2])] as const;
  service.report(jobs[2].id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.4 } });
  await service.until(ids[2], ({ status }) => status === 'running');
  await service.take(ids[3]);
  const running = await scrape(service);
  expect(running.value('tasks', { status: 'running' })).toBeGreaterThan(0);
  expect(running.value('tasks')).toBe(4);
  await soon(async () => {
    const { value } = await scrape(service);
    expect([value('jobs_out'), value('queue_age_seconds')]).toEqual([4, 0]);
  });

  const output = await service.finish(ids[0], jobs[0].id);
  const timings_ms = { sampling: 1500, waiting: 500, decoding: -1, 'sampling"} 1\nx': 7, hacked: 7 };
  service.report(jobs[0].id, { output: { ...output, timings_ms } });
  await service.until(ids[0], ended);
  service.report(jobs[1].id, { error: JSON.stringify({ code: 'banned_prompt', message: 'no', retryable: false }) });
  await service.until(ids[1], ended);
  // What a worker left in the bucket, of a job that RunPod has forgotten.
  const error = { code: 'invented', message: 'x', retryable: false };
  await service.bucket.create(`${taskFolder(ids[2])}/result.json`, JSON.stringify({ error }));
  service.faults.runpod = () => new Response('{}', { status: 404 });
  service.clock.ahead += 61 * SECOND;
  await service.until(ids[2], ended);
  delete service.faults.runpod;
  await fetch(`${service.url}/cancel?id=${ids[3]}`, { method: 'POST' });
  await service.until(ids[3], ended);

  const { value, of } = await scrape(service);
  const ends = of('tasks_ended_total').filter((sample) => sample.value > 0);
  expect(ends.map(({ labels, value }) => [labels.status, labels.code, value]).sort()).toEqual([
    ['canceled', '', 1],
    ['failed', 'banned_prompt', 1],
    ['failed', 'other', 1],
    ['succeeded', '', 1],
  ]);
  expect([value('tasks'), value('jobs_out')]).toEqual([0, 0]);
  expect(value('task_seconds_count', { status: 'failed' })).toBe(2);
  expect(value('task_seconds_sum', { status: 'succeeded' })! - 50).toSatisfy((more: number) => more >= 0 && more < 20);
  expect(of('stage_seconds_count').map(({ labels }) => labels)).toEqual([{ stage: 'sampling' }, { stage: 'waiting' }]);
  expect(value('stage_seconds_sum', { stage: 'sampling' })).toBe(1.5);
  await service.close();
});

test('a response is measured until its end; an event stream ends with its task', async () => {
  const service = await testService();
  const id = await create(service);
  const events = await fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
  const reader = events.body!.getReader();
  await reader.read();
  const began = performance.now();
  const requests = async () => (await scrape(service)).value('http_requests_total', { route: '/status' });
  expect(await requests()).toBeUndefined();
  const atLeast = (performance.now() - began) / SECOND;
  await fetch(`${service.url}/cancel?id=${id}`, { method: 'POST' });
  while (!(await reader.read()).done);
  await soon(async () => expect(await requests()).toBe(1));
  const sum = (await scrape(service)).value('http_request_duration_seconds_sum', { route: '/status' });
  expect(sum).toBeGreaterThan(atLeast);
  await service.close();
});

test('each webhook attempt has one outcome, and each delivered webhook a lag', async () => {
  const service = await testService({ ALLOW_PRIVATE_URLS: '1' });
  let status = 500;
  const receiver = await listen(new Hono().post('/hook', (c) => c.body(null, status as 200)));
  const attempts = async (outcome: string) => (await scrape(service)).value('webhook_attempts_total', { outcome });
  const announced = async (url: string) => {
    service.faults.runpod = () => new Response('down', { status: 503 });
    const id = await create(service, { webhook_url: url });
    await fetch(`${service.url}/cancel?id=${id}`, { method: 'POST' });
    await soon(async () => {
      const [delivery] = await service.store.listDeliveries({ owner: 'local', task: id, limit: 1 });
      expect(delivery!.attempts).toBe(1);
    });
  };
  expect([await attempts('delivered'), await attempts('exhausted')]).toEqual([0, 0]);
  await announced(`${receiver.url}/hook`);
  expect(await attempts('refused')).toBe(1);
  status = 204;
  service.clock.ahead += 7 * SECOND;
  service.webhooks.wake();
  await soon(async () => expect(await attempts('delivered')).toBe(1));
  status = 410;
  await announced(`${receiver.url}/hook`);
  expect(await attempts('exhausted')).toBe(1);
  await receiver.close();
  await announced(`${receiver.url}/other`); // the first hears nothing more after its 410
  expect(await attempts('unreachable')).toBe(1);
  const { value } = await scrape(service);
  expect([value('webhook_attempts_total'), value('webhook_lag_seconds_count')]).toEqual([4, 1]);
  expect(value('webhook_lag_seconds_sum')! - 7).toSatisfy((more: number) => more >= 0 && more < 10);
  await service.close();
});

test('requests to RunPod are counted by operation and outcome', async () => {
  const service = await testService();
  const count = async (operation: string, outcome: string) =>
    (await scrape(service)).value('runpod_requests_total', { operation, outcome });
  await fetch(`${service.url}/readyz`);
  expect(await count('health', 'ok')).toBe(1);
  service.faults.runpod = () => new Response('down', { status: 503 });
  service.clock.ahead += 1001;
  await fetch(`${service.url}/readyz`);
  expect(await count('health', 'error')).toBe(1);
  service.faults.runpod = ({ url }) => (url.endsWith('/run') ? new Response('late', { status: 504 }) : undefined);
  await create(service);
  await soon(async () => expect(await count('submit', 'unanswered')).toBe(1));
  delete service.faults.runpod;
  service.clock.ahead += 61 * SECOND;
  const id = await create(service);
  await service.take(id);
  await service.until(id, () => true);
  await soon(async () => {
    expect(await count('submit', 'ok')).toBeGreaterThan(0);
    expect(await count('getStatus', 'ok')).toBeGreaterThan(0);
  });
  const { of, value } = await scrape(service);
  const labels = new Set(of('runpod_requests_total').map(({ labels }) => labels.operation));
  for (const operation of labels) expect(['submit', 'getStatus', 'cancel', 'health']).toContain(operation);
  expect(value('runpod_request_seconds_count', { operation: 'health' })).toBe(2);
  await service.close();
});

test('store calls and their errors are counted; without the store a scrape shows the rest', async () => {
  const service = await testService();
  await create(service);
  const before = await scrape(service);
  expect(before.value('store_seconds_count', { operation: 'insert' })).toBe(1);
  expect(before.value('store_errors_total')).toBeUndefined();
  service.clock.ahead -= 60 * SECOND; // the key of this machine stays known
  await service.store.close();
  expect((await fetch(`${service.url}/status?id=x`)).status).toBe(503);
  const { of, value } = await scrape(service);
  expect(value('store_errors_total', { operation: 'getPublic' })).toBe(1);
  expect(value('http_requests_total', { route: '/img2vid' })).toBe(1);
  expect([...of('tasks'), ...of('jobs_out'), ...of('queue_age_seconds')]).toEqual([]); // no old numbers
  expect((await scrape(service)).value('store_errors_total', { operation: 'countActive' })).toBeGreaterThan(0);
  expect(service.logged).toContainEqual(expect.objectContaining({ gauge: 'tasks', msg: 'a gauge could not be read' }));
  await service.close().catch(() => undefined);
});

test('concurrent scrapes share one query of the store', async () => {
  const countActive = vi.fn(async () => ({ queued: 3, running: 2, out: 2, oldest: 5000 }));
  const keys = vi.fn(async () => []);
  const services = {
    metrics: createMetrics(pino({ level: 'silent' })),
    store: { countActive, listKeys: keys },
    now: () => 7500,
  };
  const respond = scraped.handle(services as never)!;
  const app = new Hono().get('/metrics', (c) => respond(c, {}));
  const texts = await Promise.all(Array.from({ length: 20 }, async () => (await app.request('/metrics')).text()));
  for (const text of texts) {
    const families = parse(text).filter(({ name }) => /img2vid_(tasks|jobs_out|queue_age_seconds)$/.test(name));
    expect(families.map(({ samples }) => samples.map(({ value }) => value))).toEqual([[3, 2], [2], [2.5]]);
  }
  expect([countActive, keys].map(({ mock }) => mock.calls.length)).toEqual([1, 1]);
  await app.request('/metrics');
  expect(countActive).toHaveBeenCalledTimes(2);
});

test('a gauge that takes too long is omitted, until it is fast again', async () => {
  const metrics = createMetrics(pino({ level: 'silent' }), { gaugeTimeout: 20 });
  let answer = new Promise<[{ place: string }, number][]>(() => undefined);
  metrics.gauge('slow', 'of a place', ['place'], () => answer);
  metrics.gauge('quick', 'of none', [], async () => [[{}, 5]]);
  const ours = async () => parse(await metrics.text()).filter(({ name }) => /_(slow|quick)$/.test(name));
  expect((await ours()).map(({ samples }) => samples.map(({ value }) => value))).toEqual([[], [5]]);
  answer = Promise.resolve([[{ place: 'a "b"\\\n' }, 7]]);
  const [slow] = await ours();
  expect(slow!.samples).toEqual([{ name: 'img2vid_slow', labels: { place: 'a \\"b\\"\\\\\\n' }, value: 7 }]);
});

test('accounts are shown by key, and once there are keys only to admins', async () => {
  const service = await testService({ PRICE_PER_GPU_SECOND: '0.001' });
  await create(service, { H: 64, W: 64 });
  const { value } = await scrape(service);
  const account = ['spent', 'reserved'].map((kind) => value(`key_${kind}_micro_units`, { key: 'local' }));
  expect([...account, value('key_open_tasks', { key: 'local' })]).toEqual([0, 1000, 1]);
  const scopes = ['submit', 'read'] as const;
  const [caller, admin] = [await service.key({ scopes: [...scopes] }), await service.key({ scopes: ['admin'] })];
  service.clock.ahead += 1001;
  const ask = async (headers = {}) => (await fetch(`${service.url}/metrics`, { headers })).status;
  expect([await ask(), await ask(caller.headers), await ask(admin.headers)]).toEqual([401, 403, 200]);
  await service.close();
});
