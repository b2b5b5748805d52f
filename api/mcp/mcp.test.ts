/** The MCP server, by the SDK's own client and by raw requests. */
import { request as rawRequest } from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';
import { Client, type ProgressCallback, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';

type Values = Record<string, unknown>;
/** Revisions with and without a session's handshake. */
const MODES = ['legacy', 'auto'] as const;

let service: TestService;
let usual: Awaited<ReturnType<TestService['key']>>;
const clients: Client[] = [];
beforeAll(async () => {
  service = await testService();
  usual = await service.key();
});
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close();
});
afterAll(() => service.close());

/** Connects the SDK's client, which validates results by the output schemas of the tools that it has listed. */
async function connect(headers: Record<string, string> = usual.headers, mode: (typeof MODES)[number] = 'auto') {
  const client = new Client({ name: 'test', version: '1' }, { versionNegotiation: { mode } });
  const url = new URL(`${service.url}/mcp`);
  await client.connect(new StreamableHTTPClientTransport(url, { requestInit: { headers } }));
  clients.push(client);
  await client.listTools();
  return async (name: string, values: Values = {}, onprogress?: ProgressCallback) => {
    const result = await client.callTool({ name, arguments: values }, onprogress && { onprogress });
    const [first, picture] = result.content;
    const text = first?.type === 'text' ? first.text : '';
    const task = result.structuredContent as { id: string; status: string; tasks: Values[] } & Values;
    return { text, picture, task, isError: result.isError === true };
  };
}

/** The only active task of an owner, with its job. */
async function takeJob(owner = usual.id) {
  for (;;) {
    const [task] = await service.store.list({ owner, limit: 1 });
    if (task?.status === 'queued') return { id: task.id, job: await service.take(task.id) };
    await turn();
  }
}

async function makeEnded(call: Awaited<ReturnType<typeof connect>>, owner?: string) {
  const made = call('make_clip', { prompt: 'a lighthouse' });
  const { id, job } = await takeJob(owner);
  service.report(job.id, { output: await service.finish(id, job.id) });
  return (await made).task;
}

describe.each(MODES)('with negotiation %s', (mode) => {
  test('a client makes a clip, sees its progress, and gets its link and a picture', async () => {
    const call = await connect(usual.headers, mode);
    const seen: Parameters<ProgressCallback>[0][] = [];
    const made = call('make_clip', { prompt: 'a lighthouse', T: 14 }, (progress) => seen.push(progress));
    const { id, job } = await takeJob();
    service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.4 } });
    while (!seen.some(({ progress }) => progress === 0.4)) await turn();
    service.report(job.id, { output: await service.finish(id, job.id) });

    const { text, picture, task, isError } = await made;
    expect(isError).toBe(false);
    expect(task).toMatchObject({ id, status: 'succeeded', input: { prompt: 'a lighthouse', T: 14 } });
    const [{ link }] = task.videos as [{ link: string }];
    expect(text).toContain(link);
    expect(await (await fetch(link)).text()).toBe('not really a video');
    const data = Buffer.from('not really a picture').toString('base64');
    expect(picture).toEqual({ type: 'image', mimeType: 'image/jpeg', data });
    const steps = seen.map(({ progress }) => progress);
    expect(steps).toEqual([...new Set(steps)].sort((a, b) => a - b));
    expect(seen.at(-1)).toMatchObject({ progress: 1, message: 'succeeded' });
  });
});

test('get_task, list_tasks and cancel_task do what the HTTP API does', async () => {
  const { id: owner, headers } = await service.key();
  const call = await connect(headers);
  const ended = await makeEnded(call, owner);
  const { task: queued, text } = await call('make_clip', { prompt: 'a cat', wait: 0 });
  expect(queued.status).toBe('queued');
  expect(text).toContain(`Task ${queued.id} (a cat): queued`);
  expect(text).toContain('call get_task');

  const response = await fetch(`${service.url}/tasks/${ended.id}`, { headers });
  const looked = await call('get_task', { id: ended.id });
  expect(Object.keys(looked.task)).toEqual(Object.keys((await response.json()) as object));
  expect(looked.picture).toMatchObject({ type: 'image' });

  const list = async (values: Values = {}) => (await call('list_tasks', values)).task;
  expect((await list()).tasks.map(({ id }) => id)).toEqual([queued.id, ended.id]);
  expect((await list({ status: 'succeeded' })).tasks.map(({ id }) => id)).toEqual([ended.id]);
  expect((await list({ until: '2020-01-01T00:00:00Z' })).tasks).toEqual([]);
  const first = await list({ limit: 1 });
  expect(first).toMatchObject({ tasks: [{ id: queued.id }], next_cursor: queued.id });
  expect(await list({ limit: 1, cursor: first.next_cursor })).toMatchObject({ tasks: [{ id: ended.id }] });
  expect(await list({ limit: 1, cursor: first.next_cursor })).not.toHaveProperty('next_cursor');

  expect((await call('cancel_task', { id: queued.id })).task.status).toBe('canceled');
  expect(await call('cancel_task', { id: ended.id })).toMatchObject({
    isError: true,
    text: 'the task has already ended: succeeded',
  });
  const stranger = await connect((await service.key()).headers);
  for (const tool of ['get_task', 'cancel_task'])
    expect(await stranger(tool, { id: ended.id })).toMatchObject({ isError: true, text: 'there is no such task' });
  expect((await stranger('list_tasks')).task).toEqual({ tasks: [] });
});

test('get_task waits for the end; a failed clip is an error with its reason', async () => {
  const { id: owner, headers } = await service.key();
  const call = await connect(headers);
  const made = call('make_clip', { prompt: 'a dog' });
  const { id, job } = await takeJob(owner);
  const looked = call('get_task', { id, wait: 30 });
  const error = { code: 'banned_prompt', message: 'the image provider refuses this prompt', retryable: false };
  service.report(job.id, { error: JSON.stringify(error) });
  expect(await made).toMatchObject({ isError: true, task: { id, status: 'failed' } });
  const { isError, text } = await looked;
  expect(isError).toBe(false);
  expect(text).toBe(`Task ${id} (a dog): failed: ${error.message}.`);
});

test('quote_clip returns the highest cost and stores nothing', async () => {
  const { id: owner, headers } = await service.key();
  const call = await connect(headers);
  const { text, task } = await call('quote_clip', { prompt: 'a cat', num_cols: 2 });
  expect(text).toMatch(/^This clip costs at most [\d.]+ USD\./);
  const response = await service.post(
    { prompt: 'a cat', num_cols: 2, seed: (task.input as { seed: number }).seed },
    { headers: { ...headers, 'content-type': 'application/json' } },
  );
  expect(task.input).toEqual(((await response.json()) as Values).input);
  expect(await service.store.list({ owner, limit: 9 })).toHaveLength(1); // that of the POST
});

test('a picture as text becomes the task’s upload, also one of more than a megabyte', async () => {
  const call = await connect((await service.key()).headers);
  const noise = { type: 'gaussian', mean: 128, sigma: 60 } as const;
  const picture = await sharp({ create: { width: 800, height: 400, channels: 3, background: '#369', noise } })
    .png({ compressionLevel: 0 })
    .toBuffer();
  const image = `data:image/png;base64,${picture.toString('base64')}`;
  expect(image.length).toBeGreaterThan(1e6);
  const { task } = await call('make_clip', { image, wait: 0 });
  const { image_key } = (await service.store.get(task.id))!;
  expect(await service.bucket.get(image_key!)).toEqual(picture);
  expect(task.input).toMatchObject({ W: 896, H: 448 });
});

test('a result comes without its picture if the bucket fails', async () => {
  const call = await connect();
  const { id } = await makeEnded(call);
  service.faults.bucket = new Error('the disk is gone');
  const { task, picture, isError } = await call('get_task', { id });
  delete service.faults.bucket;
  expect({ id: task.id, picture, isError }).toEqual({ id, picture: undefined, isError: false });
});

describe('wrong input', () => {
  test.each<Values>([
    {},
    { prompt: 'x', H: 3, T: 0, stepss: 4 },
    { prompt: 'x', fps: 'fast', sampler: 'Best' },
    { prompt: 7 },
    { image_url: 'ftp://example.com/x.png' },
    { image_url: 'http://127.0.0.1/x.png' },
    { image: 'data:image/png;base64,!!' },
    { image: Buffer.from('not really a picture').toString('base64') },
    { still_of: '019a2f3a-11c2-7d09-8e55-6a1b40c2d7f3' },
    { prompt: 'x', metadata: { '': 'y' } },
    JSON.parse('{"prompt": "x", "__proto__": {"T": 3}}'),
  ])('%j has the text of the HTTP API, and nothing is stored', async (values) => {
    const { id: owner, headers } = await service.key();
    const call = await connect(headers);
    const response = await service.post(values, { headers: { ...headers, 'content-type': 'application/json' } });
    const { detail } = (await response.json()) as { detail: string };
    for (const tool of ['make_clip', 'quote_clip'])
      expect(await call(tool, values), tool).toMatchObject({ isError: true, text: detail });
    expect(await service.store.list({ owner, limit: 9 })).toEqual([]);
  });

  test.each([
    ['get_task', {}, 'id: is required'],
    [
      'get_task',
      { id: 7, wait: 51, x: 1 },
      'x: unknown; id: must be the id of a task; wait: must be a whole number from 0 to 50',
    ],
    ['make_clip', { prompt: 'x', wait: '5' }, 'wait: must be a whole number from 0 to 50'],
    ['cancel_task', { id: '' }, 'id: must be the id of a task'],
    [
      'list_tasks',
      { limit: 51, cursor: 'x', status: 'done', statuss: 1 },
      'statuss: unknown; did you mean status?; limit: must be a whole number from 1 to 50; cursor: must be next_cursor of a previous result; status: must be one of queued, running, succeeded, failed, canceled',
    ],
    [
      'list_tasks',
      { since: 'yesterday' },
      'since: must be an ISO 8601 time with its zone, such as 2026-01-31T18:00:00Z',
    ],
  ])('%s %j', async (tool, values, text) => {
    const call = await connect();
    expect(await call(tool, values)).toMatchObject({ isError: true, text });
  });

  test('an unknown tool is a protocol error', async () => {
    const call = await connect();
    for (const name of ['make_video', '__proto__'])
      await expect(call(name)).rejects.toThrow(`there is no tool ${name}`);
  });
});

describe('with API keys', () => {
  test('a missing or wrong key is refused with 401', async () => {
    const keyed = await service.key();
    await expect(connect({})).rejects.toThrow('HTTP 401');
    const wrong = `${keyed.value.slice(0, -1)}${keyed.value.endsWith('A') ? 'B' : 'A'}`;
    await expect(connect({ authorization: `Bearer ${wrong}` })).rejects.toThrow('HTTP 401');
    const response = await post({ jsonrpc: '2.0', id: 1, method: 'tools/list' });
    const detail = 'send an API key: Authorization: Bearer i2v_…';
    expect(await response.json()).toEqual({
      jsonrpc: '2.0',
      error: { code: -32000, message: detail, data: expect.objectContaining({ status: 401, code: 'unauthorized' }) },
      id: null,
    });
    expect(response.headers.get('www-authenticate')).toBe('Bearer realm="img2vid"');
  });

  test('each tool needs its scope', async () => {
    const reader = await connect((await service.key({ scopes: ['read'] })).headers);
    for (const tool of ['make_clip', 'quote_clip', 'cancel_task'])
      expect(await reader(tool, { prompt: 'x' })).toMatchObject({
        isError: true,
        text: 'this API key lacks the scope submit',
      });
    expect((await reader('list_tasks')).isError).toBe(false);

    const submitter = await connect((await service.key({ scopes: ['submit'] })).headers);
    expect((await submitter('make_clip', { prompt: 'x', wait: 0 })).isError).toBe(false);
    for (const tool of ['get_task', 'list_tasks'])
      expect(await submitter(tool)).toMatchObject({ isError: true, text: 'this API key lacks the scope read' });
  });

  test('limits of the key hold', async () => {
    const one = await connect((await service.key({ max_active: 1 })).headers);
    expect((await one('make_clip', { prompt: 'x', wait: 0 })).isError).toBe(false);
    expect((await one('make_clip', { prompt: 'x', wait: 0 })).text).toBe(
      'this API key may have at most 1 active tasks; wait for one to end, or cancel one. Retry after 10 s',
    );
    const slow = await connect((await service.key({ requests_per_minute: 4 })).headers);
    const results = await Promise.allSettled(Array.from({ length: 4 }, () => slow('list_tasks')));
    const refused = results.filter(({ status }) => status === 'rejected');
    expect(refused.length).toBeGreaterThan(0);
    expect(String((refused[0] as PromiseRejectedResult).reason)).toContain('at most 4 requests a minute');
  });

  test('a key that is revoked during a wait gets no result', async () => {
    const { id: owner, headers } = await service.key();
    const call = await connect(headers);
    const made = call('make_clip', { prompt: 'x' });
    const { id, job } = await takeJob(owner);
    await service.store.updateKey(owner, { revoked_at: Date.now() });
    service.clock.ahead += 2000;
    service.report(job.id, { output: await service.finish(id, job.id) });
    expect(await made).toMatchObject({ isError: true, text: 'this API key is no longer valid' });
  });
});

async function post(body: unknown, headers: Record<string, string> = {}, method = 'POST', signal?: AbortSignal) {
  return fetch(`${service.url}/mcp`, {
    method,
    ...(signal && { signal }),
    headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
    ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
}

describe('without the SDK’s client', () => {
  const call = (name: unknown, values: unknown) => ({
    ...{ jsonrpc: '2.0', id: 1, method: 'tools/call' },
    params: { name, arguments: values },
  });
  const make = call('make_clip', { prompt: 'x', wait: 0 });
  let headers: Record<string, string>;
  let owner: string;
  beforeAll(async () => {
    ({ headers, id: owner } = await service.key());
  });

  test.each<[string, unknown, number, string]>([
    ['no JSON', '{', 400, '"code":-32700,"message":"the body is not JSON"'],
    ['nothing', '', 400, '"code":-32700,"message":"the body is not JSON"'],
    ['a batch', [make, make], 400, '"code":-32600,"message":"the body must be a JSON object"'],
    ['null', 'null', 400, '"code":-32600,"message":"the body must be a JSON object"'],
    ['another version', { ...make, jsonrpc: '1.0' }, 400, '-32600'],
    ['no method', { jsonrpc: '2.0', id: 1 }, 400, '-32600'],
    ['an unknown method', { jsonrpc: '2.0', id: 1, method: 'make' }, 200, '-32601'],
    ['a method that tools do not have', { jsonrpc: '2.0', id: 1, method: 'resources/list' }, 200, '-32601'],
    ['a tool’s name that is no text', call(7, {}), 200, '-32602'],
    ['arguments that are no object', call('make_clip', [1]), 200, '-32602'],
    ['a call without an id', { ...make, id: undefined }, 202, ''],
    ['a response', { jsonrpc: '2.0', id: 1, result: {} }, 202, ''],
    ['a body that is too large', `{"a":"${'x'.repeat(30e6)}"}`, 413, 'at most 29 MB'],
    ['text that is no picture', { ...make, method: 'x'.repeat(1.1e6) }, 413, 'at most 1 MB'],
    ['deep nesting', `{"a":${'['.repeat(4e5)}${']'.repeat(4e5)}}`, 400, '-32600'],
    [
      'very many arguments',
      call('make_clip', Object.fromEntries(Array.from({ length: 5e4 }, (_, i) => [`a${i}`, 1]))),
      200,
      'a0: unknown',
    ],
  ])('%s', async (_, body, status, text) => {
    const response = await post(body, headers);
    const answer = await response.text();
    expect([response.status, answer]).toEqual([status, expect.stringContaining(text)]);
    if (status >= 400) expect(JSON.parse(answer)).toMatchObject({ jsonrpc: '2.0', error: {} });
    expect(await service.store.list({ owner, limit: 9 })).toEqual([]);
  });

  test.each([
    ['another content type', { 'content-type': 'text/plain' }, 415],
    ['an encoded body', { 'content-encoding': 'gzip' }, 415],
    ['an unknown revision', { 'mcp-protocol-version': '1999-01-01' }, 400],
  ])('%s', async (_, changes, status) => {
    expect((await post(make, { ...headers, ...changes })).status).toBe(status);
    expect(await service.store.list({ owner, limit: 9 })).toEqual([]);
  });

  test('a task is made although the response has begun', async () => {
    const { insert } = service.store;
    let hasBegun = () => {};
    const begun = new Promise<void>((resolve) => {
      hasBegun = resolve;
    });
    vi.spyOn(service.store, 'insert').mockImplementationOnce(async (...parameters) => {
      await begun;
      return insert(...parameters);
    });
    const response = await post(make, (await service.key()).headers);
    hasBegun();
    const text = await response.text();
    expect(text).toContain('"status":"queued"');
    expect(text).not.toContain('"isError"');
  });

  test('a client that disconnects ends the wait, and the task goes on', async () => {
    const key = await service.key();
    const { subscribe } = service.lifecycle;
    const left = new Promise<void>((resolve) => {
      vi.spyOn(service.lifecycle, 'subscribe').mockImplementationOnce((id, listener) => {
        const forget = subscribe(id, listener);
        setTimeout(() => client.abort());
        return () => {
          forget();
          resolve();
        };
      });
    });
    const client = new AbortController();
    const sent = post(call('make_clip', { prompt: 'x' }), key.headers, 'POST', client.signal);
    await expect(sent.then((response) => response.text())).rejects.toThrow(/aborted/);
    await left;
    const [task] = await service.store.list({ owner: key.id, limit: 1 });
    expect(task!.status).toBe('queued');
  });

  test('GET and DELETE are refused, since there are no sessions', async () => {
    for (const method of ['GET', 'DELETE']) {
      const response = await post(undefined, { ...headers, 'mcp-session-id': 'x' }, method);
      expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
      expect(await response.json()).toMatchObject({ error: { code: -32000, message: 'use POST /mcp' } });
    }
  });

  test('a subscription ends at once, since the list of tools does not change', async () => {
    const name = (key: string) => `io.modelcontextprotocol/${key}`;
    const _meta = {
      [name('protocolVersion')]: '2026-07-28',
      [name('clientInfo')]: { name: 'test', version: '1' },
      [name('clientCapabilities')]: {},
    };
    const method = 'subscriptions/listen';
    const params = { notifications: { toolsListChanged: true }, _meta };
    const revision = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': method };
    const response = await post({ jsonrpc: '2.0', id: 1, method, params }, { ...headers, ...revision });
    expect(await response.text()).toContain('"resultType":"complete"');
  });

  test('caches may not keep a result', async () => {
    const response = await post(call('list_tasks', {}), headers);
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(response.headers.get('ratelimit')).toContain('"requests"');
  });
});

test('without API keys, other names of this machine and other web pages are refused', async () => {
  const open = await testService();
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' });
  const send = (headers: Record<string, string>) =>
    new Promise<number>((resolve) => {
      const all = { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers };
      rawRequest(`${open.url}/mcp`, { method: 'POST', headers: all }, ({ statusCode }) => resolve(statusCode!)).end(
        body,
      );
    });
  expect(await send({})).toBe(200);
  expect(await send({ host: 'rebound.example' })).toBe(403);
  expect(await send({ origin: 'https://evil.example' })).toBe(403);
  await open.close();
});
