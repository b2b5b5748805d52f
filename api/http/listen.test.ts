import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { Hono } from 'hono';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { listen, type TestService, testService } from '../../test/support/test-api.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';

/** Callers that fetch() would not be: they stop reading, lie, or say nothing. */
const sockets: Socket[] = [];
function call(port: number, request = '') {
  const socket = connect(port, '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => undefined); // the cut is what the test expects; 'close' follows
  if (request !== '') socket.write(request);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  let text = '';
  return {
    socket,
    closed,
    /** all that came until the connection's end */
    async text() {
      socket.setEncoding('latin1').on('data', (data) => {
        text += data;
      });
      await closed;
      return text;
    },
  };
}
const get = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n${more}\r\n`;
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});

describe('a client that reads nothing', () => {
  const TASKS = 3000; // of 5 kB each: more than the kernel keeps for a connection
  let service: TestService;
  let id: string; // of a task that goes on
  let file: string;
  beforeAll(async () => {
    service = await testService({}, { stallTimeout: 500 });
    id = (await (await service.post({ prompt: 'x' })).json()).id;
    const ended = {
      status: 'canceled',
      finished_at: Date.now(),
      input: { prompt: 'x'.repeat(5000) } as never,
    } as const;
    await Promise.all(Array.from({ length: TASKS }, () => insertTask(service.store, newTask(ended))));
    await service.bucket.put('tasks/x/big.png', Buffer.alloc(24e6));
    file = (await service.bucket.link('tasks/x/big.png', Date.now() / 1000 + 3600)).slice(service.url.length);
  });
  afterAll(() => service.close());
  afterEach(() => vi.restoreAllMocks());

  const gone = (route: string) =>
    vi.waitFor(
      () => expect(service.logged).toContainEqual(expect.objectContaining({ route, msg: 'client disconnected' })),
      { timeout: 10_000 },
    );

  test('is cut off, and no more is read from the store; one that waits for events is not', async () => {
    const events = await fetch(`${service.url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
    const list = vi.spyOn(service.store, 'list');
    const reader = call(service.port, get('/status'));
    await gone('/status');
    const pages = list.mock.calls.length;
    expect(pages).toBeLessThan(TASKS / 100 / 2);
    expect((await reader.text()).length).toBeLessThan((TASKS * 5000) / 2);
    expect(list.mock.calls.length).toBe(pages);

    const job = await service.take(id);
    service.report(job.id, { output: await service.finish(id, job.id) });
    expect((await events.text()).match(/"status":"\w+"/g)!.at(-1)).toBe('"status":"succeeded"');
  });

  test('is cut off while it downloads a file, too', async () => {
    const reader = call(service.port, get(file));
    await gone('/files/*');
    expect((await reader.text()).length).toBeLessThan(24e6);
  });

  test('is not cut off if it reads slowly', async () => {
    const { socket, closed } = call(service.port, get('/status', 'connection: close\r\n'));
    const began = performance.now();
    let all = '';
    let taken = 0;
    socket.setEncoding('latin1').on('data', (data) => {
      all += data;
      taken += data.length;
      if (taken < 200_000) return;
      taken = 0;
      socket.pause();
      setTimeout(() => socket.resume(), 30);
    });
    await closed;
    expect(performance.now() - began).toBeGreaterThan(500); // longer than anybody may take nothing
    expect(all.match(/"created_at"/g)!.length).toBeGreaterThan(TASKS - 50); // some have a chunk's border in the word
    expect(all.endsWith(']\r\n0\r\n\r\n')).toBe(true);
  });
});

describe('a request', () => {
  let service: TestService;
  beforeAll(async () => {
    service = await testService({}, { headersTimeout: 100, connectionsCheckingInterval: 20 });
  });
  afterAll(() => service.close());
  const tasks = async () => ((await (await fetch(`${service.url}/status`)).json()) as unknown[]).length;
  const post = (headers: string, body = '') =>
    call(
      service.port,
      `POST /img2vid HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${headers}\r\n${body}`,
    );

  test('without an end of its headers times out', async () => {
    expect(await call(service.port, 'GET /status HTTP/1.1\r\nhost: local').text()).toMatch(/^HTTP\/1.1 408 /);
  });

  test('leaves its connection open longer than proxies do', async () => {
    expect((await fetch(`${service.url}/healthz`)).headers.get('keep-alive')).toBe('timeout=75');
  });

  test('that announces too large a body is refused before the body arrives', async () => {
    expect(await post('content-length: 30000000\r\n').text()).toMatch(/^HTTP\/1.1 413 .*"code":"too_large"/s);
  });

  test('with an endless chunked body is refused at the limit, and its connection closed', async () => {
    const { socket, closed } = post('transfer-encoding: chunked\r\n');
    const piece = `10000\r\n${' '.repeat(65536)}\r\n`;
    let sent = 0;
    const write = () => {
      while (socket.writable) {
        sent += 65536;
        if (!socket.write(piece)) return;
      }
    };
    socket.on('drain', write).resume();
    write();
    await closed;
    expect(service.logged).toContainEqual(expect.objectContaining({ route: '/img2vid', status: 413 }));
    expect(sent).toBeGreaterThan(21e6);
    expect(sent).toBeLessThan(120e6); // the service reads on for a while, so that a client that has sent all gets the response
  });

  test('with a false length creates no task', async () => {
    const before = await tasks();
    const body = '{"prompt":"x"}';
    const short = await post('content-length: 5\r\n', body).text();
    expect(short).toMatch(/^HTTP\/1.1 400 /);
    const long = post('content-length: 50\r\n', body);
    long.socket.end();
    await long.text();
    const both = await post(
      `content-length: ${body.length}\r\ntransfer-encoding: chunked\r\n`,
      `e\r\n${body}\r\n0\r\n\r\n`,
    ).text();
    expect(both).toMatch(/^HTTP\/1.1 400 /);
    expect(await tasks()).toBe(before);
  });
});

test('a request whose body stops halfway is cut off', async () => {
  const service = await testService({}, { stallTimeout: 200 });
  const start =
    'POST /img2vid HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{';
  await call(service.port, start).closed;
  await vi.waitFor(() => expect(service.logged).toContainEqual(expect.objectContaining({ status: 499 })));
  await service.close();
});

describe('close', () => {
  const MANY = 24_000_000; // bytes: more than the kernel keeps for a connection

  test('ends idle and unused connections, and loses nothing of a written response', async () => {
    const { url, port, close } = await listen(
      new Hono().get('/', (c) => c.text('hello')).get('/whole', (c) => c.body(new Uint8Array(MANY))),
    );
    const unused = call(port);
    await once(unused.socket, 'connect');
    const idle = call(port, get('/'));
    await once(idle.socket, 'data');
    const reader = call(port, get('/whole'));
    const [first] = await once(reader.socket, 'data');
    reader.socket.pause();

    const closing = close(20_000);
    await Promise.all([unused.closed, expect(fetch(url)).rejects.toThrow()]);
    let got = first.length;
    reader.socket.on('data', (data) => {
      got += data.length;
    });
    reader.socket.resume();
    const began = performance.now();
    await Promise.all([closing, idle.closed, reader.closed]);
    expect(got).toBeGreaterThan(MANY);
    expect(performance.now() - began).toBeLessThan(10_000);
  });

  test('cuts off requests that exceed the grace period', async () => {
    let arrive = () => {};
    const arrived = new Promise<void>((resolve) => {
      arrive = resolve;
    });
    const { port, close } = await listen({
      fetch() {
        arrive();
        return new Promise<Response>(() => undefined);
      },
    });
    const { closed } = call(port, get('/'));
    await arrived;
    await close(50);
    await closed;
  });
});
