import { type LookupAddress, lookup } from 'node:dns';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { afterEach, expect, test, vi } from 'vitest';
import { JobError } from '../../core/job.ts';
import { fetchPicture } from './fetch-picture.ts';

vi.mock('node:dns', { spy: true });

type Callback = (error: Error | null, addresses: LookupAddress[]) => void;
const resolveName = vi.mocked(lookup as unknown as (name: string, options: unknown, callback: Callback) => void);

const PICTURE = Buffer.from('the bytes of a picture');
const MB = 1_000_000;

const servers: Server[] = [];
afterEach(() => {
  vi.useRealTimers();
  resolveName.mockReset();
  for (const server of servers.splice(0)) {
    server.close();
    server.closeAllConnections();
  }
});

/** A server on loopback that records its requests. */
async function serve(answer: RequestListener, host = '127.0.0.1') {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    answer(request, response);
  });
  servers.push(server);
  server.listen(0, host);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, port, requests };
}

const fetchIt = (url: string, options: { allowPrivate?: boolean; signal?: AbortSignal; name?: string } = {}) =>
  fetchPicture(url, { allowPrivate: true, signal: new AbortController().signal, ...options });

async function expectJobError(work: Promise<unknown>, code: string, message = /./) {
  const error = await work.then(
    () => undefined,
    (error) => error,
  );
  expect(error).toBeInstanceOf(JobError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
}

test('returns the picture’s bytes', async () => {
  const { url, requests } = await serve((_, response) => response.end(PICTURE));
  expect(await fetchIt(`${url}/some/picture.png?size=large`)).toEqual(PICTURE);
  expect(requests.map((request) => request.url)).toEqual(['/some/picture.png?size=large']);
  expect(requests[0]!.method).toBe('GET');
});

test('sends the server no headers but the necessary ones', async () => {
  const { url, requests } = await serve((_, response) => response.end(PICTURE));
  await fetchIt(url);
  expect(Object.keys(requests[0]!.headers).sort()).toEqual(
    ['accept', 'accept-encoding', 'connection', 'host', 'user-agent'].sort(),
  );
});

test.each([204, 400, 403, 404, 410, 429, 500, 503])('status %i is image_unavailable', async (status) => {
  const { url } = await serve((_, response) => response.writeHead(status).end(status === 204 ? undefined : PICTURE));
  await expectJobError(fetchIt(url), 'image_unavailable', new RegExp(`^image_url answered with status ${status}$`));
});

test('the error uses the given name for the URL', async () => {
  const { url } = await serve((_, response) => response.writeHead(404).end());
  await expectJobError(fetchIt(url, { name: 'the bridge’s picture' }), 'image_unavailable', /^the bridge’s picture /);
});

test.each([
  ['gzip', gzipSync],
  ['x-gzip', gzipSync],
  ['deflate', deflateSync],
  ['BR', brotliCompressSync],
  ['gzip, br', (bytes: Buffer) => brotliCompressSync(gzipSync(bytes))],
])('a picture with the content encoding %s is decompressed', async (encoding, compress) => {
  const { url } = await serve((_, response) =>
    response.writeHead(200, { 'content-encoding': encoding }).end(compress(PICTURE)),
  );
  expect(await fetchIt(url)).toEqual(PICTURE);
});

test.each(['gzip', 'br', 'zstd', 'gzip, gzip, gzip'])('a wrong content encoding %s is named', async (encoding) => {
  const { url } = await serve((_, response) => response.writeHead(200, { 'content-encoding': encoding }).end(PICTURE));
  await expectJobError(fetchIt(url), 'image_unavailable', /can’t be decompressed|the content encoding (zstd|gzip, )/);
});

test.each([
  ['a reset', (response: ServerResponse) => response.socket!.resetAndDestroy()],
  ['status 429', (response: ServerResponse) => response.writeHead(429, { 'retry-after': '0' }).end()],
  [
    'status 503',
    (response: ServerResponse) => response.writeHead(503, { 'retry-after': new Date().toUTCString() }).end(),
  ],
])('%s gets a second attempt, and no third', async (_, fail) => {
  let failures = 1;
  const { url, requests } = await serve((_, response) => {
    if (failures-- > 0) fail(response);
    else response.end(PICTURE);
  });
  expect(await fetchIt(url)).toEqual(PICTURE);
  failures = 2;
  await expectJobError(fetchIt(url), 'image_unavailable');
  expect(requests).toHaveLength(4);
});

test('a server that asks for a long pause gets no second attempt', async () => {
  const { url, requests } = await serve((_, response) => response.writeHead(503, { 'retry-after': '21' }).end());
  await expectJobError(fetchIt(url), 'image_unavailable', /status 503/);
  expect(requests).toHaveLength(1);
});

test('a redirect in UTF-8 is followed', async () => {
  const { url, requests } = await serve((request, response) => {
    if (request.url !== '/') return response.end(PICTURE);
    response.socket!.end(Buffer.from('HTTP/1.1 302 Found\r\nLocation: /café-фото.jpg\r\nContent-Length: 0\r\n\r\n'));
  });
  expect(await fetchIt(url)).toEqual(PICTURE);
  expect(requests[1]!.url).toBe('/caf%C3%A9-%D1%84%D0%BE%D1%82%D0%BE.jpg');
});

test.each([
  ['60 kB of headers', `HTTP/1.1 200 OK\r\nX: ${'x'.repeat(60_000)}\r\n\r\n`],
  ['bare LF', 'HTTP/1.1 200 OK\nContent-Type: image/jpeg\n\n'],
  ['a folded header', 'HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\n\r\n'],
  ['an unexpected 100 Continue', 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n'],
])('a response with %s is accepted', async (_, head) => {
  const { url } = await serve((_, response) => response.socket!.end(`${head}${PICTURE}`));
  expect(await fetchIt(url)).toEqual(PICTURE);
});

test('a closed port is image_unavailable', async () => {
  const server = createTcpServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  await expectJobError(fetchIt(`http://127.0.0.1:${port}/`), 'image_unavailable', /can’t be reached/);
});

test('a response that breaks off is image_unavailable', async () => {
  const { url } = await serve((_, response) => {
    response.writeHead(200, { 'content-length': 1000 });
    response.write(PICTURE, () => response.destroy());
  });
  await expectJobError(fetchIt(url), 'image_unavailable');
});

test('exactly 20 MB are accepted', async () => {
  const { url } = await serve((_, response) => response.end(Buffer.alloc(20 * MB, 7)));
  expect(await fetchIt(url)).toHaveLength(20 * MB);
});

test('more than 20 MB are image_rejected, and the connection is closed', async () => {
  let sent = 0;
  let dropped: Promise<unknown> | undefined;
  const { url } = await serve((_, response) => {
    dropped = once(response, 'close');
    const chunk = Buffer.alloc(64 * 1024);
    const send = () => {
      // endless: only the client can close it
      while (!response.destroyed && response.write(chunk)) sent += chunk.length;
      sent += chunk.length;
    };
    response.on('drain', send);
    send();
  });
  await expectJobError(fetchIt(url), 'image_rejected', /at most 20 MB/);
  await dropped;
  expect(sent).toBeGreaterThan(20 * MB);
  expect(sent).toBeLessThan(40 * MB); // the rest is in the sockets' buffers
});

/** Answers /n with a redirect to /n−1, and /0 with the picture. */
const countDown = (request: IncomingMessage, response: ServerResponse) => {
  const n = Number(request.url!.slice(1));
  if (n === 0) response.end(PICTURE);
  else response.writeHead([301, 302, 303, 307, 308][n % 5]!, { location: `/${n - 1}` }).end('elsewhere');
};

test('follows 5 redirects', async () => {
  const { url, requests } = await serve(countDown);
  expect(await fetchIt(`${url}/5`)).toEqual(PICTURE);
  expect(requests.map((request) => request.url)).toEqual(['/5', '/4', '/3', '/2', '/1', '/0']);
});

test('6 redirects are image_unavailable', async () => {
  const { url, requests } = await serve(countDown);
  await expectJobError(fetchIt(`${url}/6`), 'image_unavailable', /more than 5 times/);
  expect(requests).toHaveLength(6);
});

test('follows a redirect to another server', async () => {
  const there = await serve((_, response) => response.end(PICTURE));
  const here = await serve((_, response) => response.writeHead(302, { location: `${there.url}/moved` }).end());
  expect(await fetchIt(here.url)).toEqual(PICTURE);
  expect(there.requests.map((request) => request.url)).toEqual(['/moved']);
});

test.each([
  'file:///etc/hostname',
  'ftp://127.0.0.1/picture.png',
  'data:image/png;base64,AAAA',
  'blob:http://127.0.0.1/1',
])('a redirect to %s is image_rejected', async (location) => {
  const { url } = await serve((_, response) => response.writeHead(302, { location }).end());
  await expectJobError(fetchIt(url), 'image_rejected', /another protocol/);
});

test('a redirect without a location is image_unavailable', async () => {
  const { url } = await serve((request, response) =>
    response.writeHead(302, request.url === '/none' ? {} : { location: 'http://' }).end(),
  );
  await expectJobError(fetchIt(`${url}/none`), 'image_unavailable', /status 302/);
  await expectJobError(fetchIt(url), 'image_unavailable');
});

test('another protocol in the URL is image_rejected', async () => {
  await expectJobError(fetchIt('file:///etc/hostname'), 'image_rejected', /another protocol/);
});

test('an abort before the answer rejects with its reason', async () => {
  const controller = new AbortController();
  const reason = new Error('the task was canceled');
  const { url } = await serve(() => controller.abort(reason)); // never answers
  await expect(fetchIt(url, { signal: controller.signal })).rejects.toBe(reason);
});

test('an abort during the picture rejects with its reason, and closes the connection', async () => {
  const controller = new AbortController();
  const reason = new Error('the task was canceled');
  let dropped: Promise<unknown> | undefined;
  const { url } = await serve((_, response) => {
    dropped = once(response, 'close');
    response.write(PICTURE, () => controller.abort(reason));
  });
  await expect(fetchIt(url, { signal: controller.signal })).rejects.toBe(reason);
  await dropped;
});

test('an aborted signal sends no request', async () => {
  const reason = new Error('the task was canceled');
  const { url, requests } = await serve((_, response) => response.end(PICTURE));
  await expect(fetchIt(url, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  expect(requests).toHaveLength(0);
});

test('a picture that takes more than a minute is image_unavailable', async () => {
  const timer = new AbortController();
  const timeout = vi.spyOn(AbortSignal, 'timeout').mockReturnValue(timer.signal);
  const { url } = await serve((_, response) => {
    response.write(PICTURE, () => timer.abort());
  });
  await expectJobError(fetchIt(url), 'image_unavailable', /did not arrive within 60 s/);
  expect(timeout).toHaveBeenCalledExactlyOnceWith(60_000);
  timeout.mockRestore();
});

const localUrls = (port: number) => [
  `http://127.0.0.1:${port}/`,
  `http://[::1]:${port}/`,
  `http://[::ffff:127.0.0.1]:${port}/`,
  `http://localhost:${port}/`,
  `http://localhost.:${port}/`,
  `http://2130706433:${port}/`,
  `http://0.0.0.0:${port}/`,
];

test('without private addresses this machine is not reached by its addresses', async () => {
  const { port, requests } = await serve((_, response) => response.end(PICTURE));
  for (const url of localUrls(port)) {
    await expectJobError(fetchIt(url, { allowPrivate: false }), 'image_rejected', /is not a public address/);
  }
  expect(requests).toHaveLength(0);
});

test('without private addresses this machine is not reached by a public name', async () => {
  const { port, requests } = await serve((_, response) => response.end(PICTURE));
  resolveName.mockImplementation((_name, _options, callback) => callback(null, [{ address: '127.0.0.1', family: 4 }]));
  const fetched = fetchIt(`http://pictures.example.com:${port}/`, { allowPrivate: false });
  await expectJobError(fetched, 'image_rejected', /^image_url: pictures.example.com is not a public address$/);
  expect(requests).toHaveLength(0);
});
