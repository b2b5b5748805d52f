/** Malicious servers and DNS answers. Only DNS and the servers at public addresses are mocked. */
import { once } from 'node:events';
import net, { type AddressInfo, type Socket } from 'node:net';
import tls from 'node:tls';
import { gzipSync } from 'node:zlib';
import { afterEach, expect, test, vi } from 'vitest';
import { JobError } from '../../core/job.ts';
import { mockInternet, mockOwnAddresses, PUBLIC, resolveName } from '../../test/support/dns-mock.ts';
import { fetchPicture } from './fetch-picture.ts';

vi.mock('node:dns', { spy: true });
vi.mock('node:os', { spy: true });
const [OWN_IPV4, OWN_IPV6] = mockOwnAddresses();
const PICTURE = 'the bytes of a picture';

const servers: net.Server[] = [];
const sockets = new Set<Socket>();
afterEach(async () => {
  vi.useRealTimers();
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
  resolveName.mockReset();
  mockOwnAddresses();
  try {
    await vi.waitUntil(() => sockets.size === 0); // no connection stays open
  } finally {
    for (const socket of sockets) socket.destroy();
    for (const server of servers.splice(0)) server.close();
  }
});

/** Listens on loopback; `answer` gets the raw connection after a request. */
async function serve(answer: (socket: Socket, path: string) => void, server = net.createServer()) {
  const requests: string[] = [];
  servers.push(server);
  server.on(server instanceof tls.Server ? 'secureConnection' : 'connection', (socket: Socket) => {
    sockets.add(socket.on('close', () => sockets.delete(socket)).on('error', () => {}));
    socket.on('data', (data) => {
      requests.push(String(data));
      answer(socket, String(data).split(' ')[1]!);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, requests };
}

const ok = (body = PICTURE) => `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`;
const redirect = (location: string, status = 302) =>
  `HTTP/1.1 ${status} Elsewhere\r\nlocation: ${location}\r\ncontent-length: 0\r\n\r\n`;

const { signal } = new AbortController();
const fetchIt = async (url: string, allowPrivate = false) => String(await fetchPicture(url, { allowPrivate, signal }));
const fetchLocal = (port: number, path = '/') => fetchIt(`http://127.0.0.1:${port}${path}`, true);

async function expectError(work: Promise<unknown>, code: string, message: RegExp) {
  const error = await work.then((value) => expect.fail(`came back with ${value}`)).catch((error) => error);
  expect(error).toBeInstanceOf(JobError);
  expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
}

test('a public address is reached, by name and by number', async () => {
  const { port, requests } = await serve((socket) => socket.end(ok()));
  const connected = mockInternet({ 'pictures.example.com': [[PUBLIC]] }, { [PUBLIC]: port });
  expect(await fetchIt('http://pictures.example.com/a.png')).toBe(PICTURE);
  expect(await fetchIt(`http://${PUBLIC}:8080/b.png`)).toBe(PICTURE);
  expect(connected).toEqual([PUBLIC, PUBLIC]);
  expect(requests.map((request) => request.split('\r\n')[0])).toEqual(['GET /a.png HTTP/1.1', 'GET /b.png HTTP/1.1']);
});

test('a name that changes after the check is connected to at the checked address', async () => {
  const { port } = await serve((socket) => socket.end(ok()));
  const inside = await serve((socket) => socket.end(ok('the inside')));
  const names = { 'rebind.example.com': [[PUBLIC], ['127.0.0.1']] };
  const connected = mockInternet(names, { [PUBLIC]: port, '127.0.0.1': inside.port });
  expect(await fetchIt('http://rebind.example.com/')).toBe(PICTURE);
  expect(resolveName.mock.calls.filter(([name]) => name === 'rebind.example.com')).toHaveLength(1);
  await expectError(fetchIt('http://rebind.example.com/'), 'image_rejected', /rebind.example.com is not a public/);
  expect(connected).toEqual([PUBLIC]);
  expect(inside.requests).toEqual([]);
});

test('a name that changes between a redirect and the next request is checked again', async () => {
  const { port } = await serve((socket) => socket.end(redirect('http://rebind.example.com/again')));
  const connected = mockInternet({ 'rebind.example.com': [[PUBLIC], ['::1']] }, { [PUBLIC]: port });
  await expectError(fetchIt('http://rebind.example.com/'), 'image_rejected', /not a public address/);
  expect(connected).toEqual([PUBLIC]);
});

test.each([
  [['127.0.0.1']],
  [['10.0.0.1']],
  [['169.254.169.254']],
  [['100.64.0.1']],
  [['0.0.0.0']],
  [['::']],
  [['::1']],
  [['fe80::1']],
  [['fd00:ec2::254']],
  [['::ffff:127.0.0.1']],
  [['64:ff9b::7f00:1']],
  [['2002:7f00:1::']],
  [['168.63.129.16']],
  [[OWN_IPV4]],
  [[OWN_IPV6]],
  [[PUBLIC, '127.0.0.1']],
  [['127.0.0.1', PUBLIC]],
  [['2606:4700::1', PUBLIC, 'fe80::1']],
])('a name that resolves to %j is refused', async (addresses) => {
  const connected = mockInternet({ 'pictures.example.com': [addresses] }, {});
  for (const protocol of ['http', 'https']) {
    await expectError(fetchIt(`${protocol}://pictures.example.com/`), 'image_rejected', /is not a public address/);
  }
  expect(connected).toEqual([]);
});

test('a name that does not resolve is image_unavailable', async () => {
  mockInternet({}, {});
  await expectError(fetchIt('http://nowhere.example.com/'), 'image_unavailable', /can’t be reached/);
});

test.each([
  ['http://127.0.0.1/', /127.0.0.1 is not a public address/],
  ['http://[::ffff:127.0.0.1]/', /is not a public address/],
  ['http://168.63.129.16/', /168.63.129.16 is not a public address/],
  [`http://${OWN_IPV4}/`, /93.184.216.50 is not a public address/],
  [`http://[${OWN_IPV6}]/`, /is not a public address/],
  ['//2130706433/', /127.0.0.1 is not a public address/],
  ['http://inside.example.com/', /inside.example.com is not a public address/],
  ['https://inside.example.com/', /inside.example.com is not a public address/],
  ['http://localhost/', /localhost is not a public address/],
  ['http://pictures.example.com:25/', /pictures.example.com:25 is not on port 80, 443 or above 1023/],
  ['http://somebody:secret@pictures.example.com/', /user name or password/],
  ['http://pictures.example.com@127.0.0.1/', /user name or password/],
  ['\\\\127.0.0.1\\', /127.0.0.1 is not a public address/],
  ['file:///etc/hostname', /another protocol/],
  ['data:image/png;base64,AAAA', /another protocol/],
  ['ftp://pictures.example.com/', /another protocol/],
  ['javascript:alert(1)', /another protocol/],
])('a redirect of a public server to %s is refused', async (location, message) => {
  const { port } = await serve((socket) => socket.end(redirect(location)));
  const names = { 'pictures.example.com': [[PUBLIC]], 'inside.example.com': [['10.0.0.5']] };
  const connected = mockInternet(names, { [PUBLIC]: port });
  await expectError(fetchIt('http://pictures.example.com/'), 'image_rejected', message);
  expect(connected).toEqual([PUBLIC]);
});

test('circular redirects are image_unavailable', async () => {
  const { port, requests } = await serve((socket, path) => socket.end(redirect(path === '/a' ? '/b' : '/a')));
  await expectError(fetchLocal(port, '/a'), 'image_unavailable', /redirects more than 5 times/);
  expect(requests).toHaveLength(6);
});

test.each([201, 203, 204, 205, 206, 300, 304, 305, 306, 399, 418, 511])(
  'status %i with a location and a body is image_unavailable',
  async (status) => {
    const { port, requests } = await serve((socket) => {
      const body = [204, 304].includes(status) ? '' : PICTURE;
      socket.end(
        `HTTP/1.1 ${status} So\r\nlocation: /other\r\ncontent-range: bytes 0-21/22\r\n${body && `content-length: ${body.length}\r\n`}\r\n${body}`,
      );
    });
    await expectError(fetchLocal(port), 'image_unavailable', new RegExp(`answered with status ${status}$`));
    expect(requests).toHaveLength(1);
  },
);

test('a picture without a length (HTTP/1.0) is read until the end', async () => {
  const { port } = await serve((socket) => socket.end(`HTTP/1.0 200 OK\r\n\r\n${PICTURE}`));
  expect(await fetchLocal(port)).toBe(PICTURE);
});

test('a picture without a length that ends with a reset is image_unavailable', async () => {
  const { port } = await serve((socket) => {
    socket.write(`HTTP/1.1 200 OK\r\n\r\n${PICTURE}`, () => setTimeout(() => socket.resetAndDestroy(), 50));
  });
  await expectError(fetchLocal(port), 'image_unavailable', /can’t be reached \(ECONNRESET\)/);
});

test('a picture without a length and an end is image_rejected', async () => {
  const { port } = await serve((socket) => {
    socket.write('HTTP/1.0 200 OK\r\n\r\n');
    const chunk = Buffer.alloc(100_000);
    const pour = () => {
      while (!socket.destroyed && socket.write(chunk)); // until the buffer is full
    };
    socket.on('drain', pour);
    pour();
  });
  await expectError(fetchLocal(port), 'image_rejected', /at most 20 MB/);
});

test('a length that is too short limits what is read', async () => {
  const { port } = await serve((socket) => socket.end(`HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n${PICTURE}`));
  expect(await fetchLocal(port)).toBe(PICTURE.slice(0, 3));
});

test.each([
  ['a length that is too long', `HTTP/1.1 200 OK\r\ncontent-length: 9000000000\r\n\r\n${PICTURE}`],
  ['a length that is none', `HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n${PICTURE}`],
  ['two lengths', `HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\n${PICTURE}`],
  ['a length and chunks', `HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n${PICTURE}`],
  ['a chunk that breaks off', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nshort'],
  ['a chunk of no size', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nshort'],
  ['a megabyte of headers', `HTTP/1.1 200 OK\r\n${'x-flood: 0123456789\r\n'.repeat(50_000)}\r\n`],
  ['one header without end', `HTTP/1.1 200 OK\r\nx-flood: ${'0'.repeat(1_000_000)}`],
  ['no HTTP', 'SSH-2.0-OpenSSH_9.2\r\n'],
  ['nothing', ''],
  ['another protocol', 'HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n'],
])('%s', async (_, answer) => {
  const { port } = await serve((socket) => socket.end(answer));
  await expectError(
    fetchLocal(port),
    'image_unavailable',
    /can’t be reached|malformed HTTP|more than 64 kB of headers/,
  );
});

test('a compressed body is decompressed up to 20 MB', async () => {
  const body = gzipSync(Buffer.alloc(100_000_000));
  const { port, requests } = await serve((socket) => {
    const head = `HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: image/png\r\ncontent-length: ${body.length}\r\n`;
    socket.write(`${head}connection: close\r\n\r\n`);
    socket.end(body);
  });
  await expectError(fetchLocal(port), 'image_rejected', /at most 20 MB/);
  expect(requests[0]).toMatch(/accept-encoding: identity/);
});

test.each([
  ['headers', 'HTTP/1.1 200 OK\r\n', (i: number) => `x-${i}: drip\r\n`],
  ['the body', 'HTTP/1.1 200 OK\r\n\r\n', () => 'x'],
  ['hints', '', () => 'HTTP/1.1 103 Early Hints\r\n\r\n'],
])('%s with a byte every 5 seconds are given up after a minute', async (_, head, drop) => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => {
    const timer = new AbortController();
    setTimeout(() => timer.abort(), ms); // the fake one
    return timer.signal;
  });
  let drops = 0;
  const { port } = await serve((socket) => {
    const drip = () =>
      socket.destroyed ||
      socket.write(drop(drops++), () => {
        vi.advanceTimersByTime(5_000);
        setImmediate(drip);
      });
    socket.write(head, drip);
  });
  await expectError(fetchLocal(port), 'image_unavailable', /did not arrive within 60 s|can’t be reached/);
  expect(drops).toBeLessThan(20);
});

/** A self-signed certificate for this test only, valid for a hundred years. */
const [CERTIFICATE, KEY] = [
  `-----BEGIN CERTIFICATE-----
MIIBwDCCAWegAwIBAgIUNC/0KQW1dzDFq9R1TuUtt5RgybMwCgYIKoZIzj0EAwIw
HzEdMBsGA1UEAwwUcGljdHVyZXMuZXhhbXBsZS5jb20wIBcNMjYxMTI0MjAwMjI0
WhgPMjEyNjEwMzEyMDAyMjRaMB8xHTAbBgNVBAMMFHBpY3R1cmVzLmV4YW1wbGUu
Y29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAExoYr0YJcuHJoKGOh1Aa+M9Jq
UzcKUBmIKfBtjV9fy1CyeASjvOdI3yK6556BY3vbA/CIsGshZF2SaTEdez5IQqN/
MH0wHQYDVR0OBBYEFNGDRlTQSk2l1+ITTKNhHWBrU3jCMB8GA1UdIwQYMBaAFNGD
RlTQSk2l1+ITTKNhHWBrU3jCMA8GA1UdEwEB/wQFMAMBAf8wKgYDVR0RBCMwIYIU
cGljdHVyZXMuZXhhbXBsZS5jb22CCWxvY2FsaG9zdDAKBggqhkjOPQQDAgNHADBE
AiBJTz80P6b3gfC8CmpZGSjEx0f2gkw3j9y7nlqqNP22sgIgfdIMGJZ160JfQTlj
xxrOx6k86osMp2R+hf7jkEMof/w=
-----END CERTIFICATE-----`,
  `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgBrAWVJBdV5aD6eoe
DxeA3VdHV8O7yvGiPJhZYabOnYehRANCAATGhivRgly4cmgoY6HUBr4z0mpTNwpQ
GYgp8G2NX1/LULJ4BKO850jfIrrnnoFje9sD8IiwayFkXZJpMR17PkhC
-----END PRIVATE KEY-----`,
];

test('an untrusted TLS certificate is refused, even if the environment allows it', async () => {
  vi.stubEnv('NODE_TLS_REJECT_UNAUTHORIZED', '0');
  const server = tls.createServer({ cert: CERTIFICATE, key: KEY }).on('tlsClientError', () => {});
  const { port, requests } = await serve((socket) => socket.end(ok()), server);
  await expectError(fetchIt(`https://localhost:${port}/`, true), 'image_unavailable', /can’t be reached/);
  expect(requests).toEqual([]);
});

test('a proxy in the environment is not used', async () => {
  const proxy = await serve((socket) => socket.end(ok('from the proxy')));
  const { port } = await serve((socket) => socket.end(ok()));
  for (const name of ['HTTP_PROXY', 'http_proxy', 'HTTPS_PROXY', 'https_proxy', 'ALL_PROXY', 'all_proxy']) {
    vi.stubEnv(name, `http://127.0.0.1:${proxy.port}`);
  }
  vi.stubEnv('NODE_USE_ENV_PROXY', '1');
  expect(await fetchLocal(port)).toBe(PICTURE);
  expect(proxy.requests).toEqual([]);
});
