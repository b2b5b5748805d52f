/** Hostile and unusual bodies of POST /img2vid. */
import { connect, type Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { parameters } from '../../core/parameters.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
let key: Awaited<ReturnType<TestService['key']>>;
beforeAll(async () => {
  service = await testService({ REQUESTS_PER_MINUTE: '60000' });
  key = await service.key({ scopes: ['admin'] });
});
afterAll(() => service.close());

const JSON_TYPE = 'application/json';
const FORM_TYPE = 'application/x-www-form-urlencoded';
const BOUNDARY = '4f2d1e9c-7b1a-4c57-9a4e-1f0b8c2d3e4f';
const MULTIPART_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;
const TEXT = 'Content-Disposition: form-data; name=';
const FILE = `${TEXT}"image"; filename="a.png"`;
const FIELDS = [...Object.keys(parameters({ maxFrames: 25, maxFps: 30 }, 'svd')), 'image', 'unknown'];

interface Body {
  type: string;
  body: string | Buffer;
}
const toJson = (values: object): Body => ({ type: JSON_TYPE, body: JSON.stringify(values) });
const toForm = (body: string): Body => ({ type: FORM_TYPE, body });
const toMultipart = (parts: [headers: string, content: string | Buffer][], type = MULTIPART_TYPE): Body => ({
  type,
  body: Buffer.concat([
    ...parts.flatMap(([headers, content]) => [
      Buffer.from(`--${BOUNDARY}\r\n${headers}\r\n\r\n`),
      Buffer.from(content),
      Buffer.from('\r\n'),
    ]),
    Buffer.from(`--${BOUNDARY}--\r\n`),
  ]),
});

const post = ({ type, body }: Body, { headers } = key) =>
  fetch(`${service.url}/img2vid?dry_run=1`, {
    method: 'POST',
    headers: { 'content-type': type, ...headers },
    body: body as BodyInit,
  });
async function answer(body: Body) {
  const response = await post(body);
  return { status: response.status, ...((await response.json()) as { code: string; errors?: { field: string }[] }) };
}

/**
 * The longest time in milliseconds between two turns of the event loop, which client and service share. It is at most the CPU time of the
 * process, because other programs may take the CPU meanwhile.
 */
async function longestBlock(body: Body): Promise<number> {
  let longest = 0;
  let last = { time: performance.now(), cpu: process.cpuUsage() };
  const measure = () => {
    const { user, system } = process.cpuUsage(last.cpu);
    longest = Math.max(longest, Math.min(performance.now() - last.time, (user + system) / 1000));
    last = { time: performance.now(), cpu: process.cpuUsage() };
  };
  const timer = setInterval(measure, 1);
  await (await post(body)).arrayBuffer();
  clearInterval(timer);
  measure();
  return longest;
}

/** The goal is 100 ms; a busy machine takes several times as long. What this test is about took seconds to minutes. */
async function expectNoLongBlock(name: string, body: Body): Promise<void> {
  let best = Infinity;
  for (let i = 0; i < 3 && best > 100; i++) best = Math.min(best, await longestBlock(body));
  expect(best, name).toBeLessThan(1000);
}

const PATTERNS = ['1', '-', '{', '\\', ' ', '+', '€', '.', 'a', '0.', '—', '{}', '\\{', '--', '1e', 'http://', '\0'];
const repeat = (pattern: string, length: number) => pattern.repeat(length / pattern.length);

test('no text in any field blocks the event loop', async () => {
  for (const pattern of PATTERNS) {
    for (const field of FIELDS) {
      const text = `${repeat(pattern, 150_000)}x`;
      await expectNoLongBlock(`${field} in JSON: ${pattern}`, toJson({ [field]: text }));
      await expectNoLongBlock(
        `${field} in a form: ${pattern}`,
        toForm(new URLSearchParams({ [field]: text }).toString()),
      );
    }
    const parts = FIELDS.map((field): [string, string] => [`${TEXT}"${field}"`, repeat(pattern, 9_000)]);
    await expectNoLongBlock(`multipart: ${pattern}`, toMultipart(parts));
  }
}, 300_000);

const names = (count: number) => Array.from({ length: count }, (_, i) => `f${i}`);

test('no shape of a body of up to 21 MB blocks the event loop', async () => {
  const nested = (open: string, close: string, depth: number) => `${open.repeat(depth)}1${close.repeat(depth)}`;
  const shapes: Record<string, Body> = {
    'names in JSON': toJson(Object.fromEntries(names(90_000).map((name) => [name, 1]))),
    'long names in JSON': toJson(Object.fromEntries(names(60).map((name) => [name.repeat(4000), 1]))),
    'nested lists': { type: JSON_TYPE, body: `{"sampler":${nested('[', ']', 490_000)},"s_churn":1}` },
    'nested objects': { type: JSON_TYPE, body: `{"prompt":${nested('{"a":', '}', 160_000)}}` },
    'digits in JSON': { type: JSON_TYPE, body: `{"T":${'1'.repeat(990_000)}}` },
    'names in a form': toForm(names(100_000).join('&')),
    'separators in a form': toForm('&'.repeat(1_000_000)),
    'escapes in a form': toForm(`prompt=${'%E2%82%AC'.repeat(110_000)}`),
    'a picture': toMultipart([[FILE, Buffer.alloc(20_000_000, 1)]]),
    'a picture in base64': toMultipart([
      [`${FILE}\r\nContent-Transfer-Encoding: base64`, Buffer.alloc(20_000_000, 'A')],
    ]),
    'fields in multipart': toMultipart(names(100_000).map((name) => [`${TEXT}"${name}"`, 'x'])),
    'long text': toMultipart([[`${TEXT}"prompt"`, '€'.repeat(6_900_000)]]),
    'text that is not UTF-8': toMultipart([[`${TEXT}"prompt"`, Buffer.alloc(20_900_000, 0xff)]]),
    'a long name': toMultipart([[`${TEXT}"${'a'.repeat(20_900_000)}"`, 'x']]),
    'parameters of a header': toMultipart([[`${TEXT}"a"${';b=c'.repeat(5_000_000)}`, 'x']]),
    headers: toMultipart([[`${TEXT}"a"${'\r\na:b'.repeat(4_000_000)}`, 'x']]),
    'headers without end': { type: MULTIPART_TYPE, body: `--${BOUNDARY}\r\n${'a:b\r\n'.repeat(4_000_000)}` },
    'boundaries alone': { type: MULTIPART_TYPE, body: `--${BOUNDARY}\r\n`.repeat(500_000) },
    'a boundary of one character': {
      type: 'multipart/form-data; boundary=a',
      body: Buffer.alloc(20_900_000, 'a'),
    },
    'a long boundary': {
      type: `multipart/form-data; boundary=${'a'.repeat(70)}`,
      body: Buffer.alloc(20_900_000, `${'a'.repeat(69)}b`),
    },
  };
  for (const [name, body] of Object.entries(shapes)) {
    expect(body.body.length, name).toBeLessThan(21_000_000);
    await expectNoLongBlock(name, body);
  }
}, 300_000);

test('of many unknown names a response lists 64, each with 64 characters', async () => {
  const many = await answer(toJson(Object.fromEntries(names(1000).map((name) => [name, 1]))));
  expect([many.status, many.errors!.length, many.errors![63]!.field]).toEqual([422, 64, 'f63']);
  const { errors } = await answer(toJson({ prompt: 'x', T: 0, ['x'.repeat(1000)]: 1 }));
  expect(errors!.map(({ field }) => field)).toEqual(['x'.repeat(64), 'T']);
  const query = await fetch(`${service.url}/status?${names(1000).join('&')}`, key);
  expect((await query.json()).errors).toHaveLength(64);
});

test('a form has at most 64 fields and 1 MB of text', async () => {
  const tooLarge = { status: 413, code: 'too_large' };
  const invalid = { status: 422, code: 'invalid_input' };
  const multipart = (count: number) => toMultipart(names(count).map((name) => [`${TEXT}"${name}"`, 'x']));
  expect(await answer(multipart(64))).toMatchObject(invalid);
  expect(await answer(multipart(65))).toMatchObject(tooLarge);
  expect(await answer(toForm(names(64).join('&')))).toMatchObject(invalid);
  expect(await answer(toForm(names(65).join('&')))).toMatchObject(tooLarge);
  const text = (length: number) =>
    toMultipart([
      [`${TEXT}"a"`, 'x'.repeat(length)],
      [`${TEXT}"b"`, 'x'.repeat(500_000)],
    ]);
  expect(await answer(text(490_000))).toMatchObject(invalid);
  expect(await answer(text(510_000))).toMatchObject(tooLarge);
});

test('a choice that is not text is an error of its field', async () => {
  for (const sampler of [{ toString: 1, valueOf: 1 }, ['EulerEDMSampler'], 5])
    expect(await answer(toJson({ prompt: 'x', sampler, s_churn: 1 }))).toMatchObject({ status: 422 });
});

test.each([
  [
    '.NET',
    `Content-Type: image/png\r\nContent-Disposition: form-data; name=image; filename=a.png; filename*=utf-8''a.png`,
  ],
  ['only filename*', `${TEXT}"image"; filename*=UTF-8''a.png`],
  ['filename before name', `Content-Disposition: form-data; filename="a.png"; name="image"`],
  ['a further parameter', `${FILE}; size=7573`],
  ['no blanks', 'Content-Disposition:form-data;name="image";filename="a.png"'],
  ['an escaped quote', `${TEXT}"image"; filename="my \\"best\\" photo.png"`],
  ['a type without file name', `${TEXT}"image"\r\nContent-Type: image/png`],
])('multipart is read as this client writes it: %s', async (_name, headers) => {
  const { code, errors } = await answer(toMultipart([[headers, 'no picture']]));
  expect([code, errors]).toEqual(['image_rejected', [expect.objectContaining({ field: 'image' })]]);
});

test('multipart is read with a quoted boundary, a preamble and an epilogue', async () => {
  const { body } = toMultipart([[FILE, 'no picture']]);
  const whole = Buffer.concat([Buffer.from('preamble\r\n'), body as Buffer, Buffer.from('epilogue\r\n')]);
  expect(await answer({ type: `multipart/form-data; boundary="${BOUNDARY}"`, body: whole })).toMatchObject({
    code: 'image_rejected',
  });
});

test('multipart is read with blanks after a boundary', async () => {
  const { type, body } = toMultipart([[FILE, 'no picture']]);
  expect(await answer({ type, body: String(body).replaceAll(`${BOUNDARY}\r\n`, `${BOUNDARY} \t\r\n`) })).toMatchObject({
    code: 'image_rejected',
  });
});

test.each([
  ['no name', 'Content-Disposition: form-data; filename="a.png"'],
  ['an empty name', `${TEXT}""; filename="a.png"`],
  ['a name of two lines', `${TEXT}"ima\nge"; filename="a.png"`],
  ['no disposition', 'Content-Type: image/png'],
  ['another disposition', 'Content-Disposition: attachment; name="image"; filename="a.png"'],
  ['no header', ''],
  ['a line that is no header', `image\r\n${FILE}`],
  ['too many headers before it', `X: ${'x'.repeat(9000)}\r\n${FILE}`],
])('a part of multipart with %s is refused, not left out', async (_, headers) => {
  const prompt: [string, string] = [`${TEXT}"prompt"`, 'x'];
  const part: [string, string] = [headers, 'a picture'];
  for (const parts of [[prompt, part], [part, prompt], [part]])
    expect(await answer(toMultipart(parts))).toMatchObject({
      code: 'unreadable',
      detail: expect.stringContaining('Content-Disposition: form-data; name='),
    });
});

test('a part of multipart in quoted-printable is refused, since its text would be read as it is', async () => {
  const headers = `${TEXT}"prompt"\r\nContent-Transfer-Encoding: `;
  const detail = expect.stringContaining('must be 7bit, 8bit, binary or base64');
  const quoted = toMultipart([[`${headers}quoted-printable`, 'caf=C3=A9']]);
  expect(await answer(quoted)).toMatchObject({ code: 'unreadable', detail });
  expect(await answer(toMultipart([[`${headers}8Bit`, 'café']]))).toMatchObject({
    status: 200,
    input: { prompt: 'café' },
  });
});

test('an empty file is a broken picture, but absent if it has no file name, as a browser sends it', async () => {
  const withFile = (headers: string) =>
    answer(
      toMultipart([
        [`${TEXT}"prompt"`, 'x'],
        [headers, ''],
      ]),
    );
  expect(await withFile(FILE)).toMatchObject({ status: 422, code: 'image_rejected' });
  expect(await withFile(`${TEXT}"picture"; filename="a.png"`)).toMatchObject({ errors: [{ field: 'picture' }] });
  const unnamed = `${TEXT}"image"; filename=""\r\nContent-Type: application/octet-stream`;
  expect(await withFile(unnamed)).toMatchObject({ status: 200 });
});

test('incomplete multipart is refused, wherever it ends', async () => {
  const { type, body } = toMultipart([
    [`${TEXT}"prompt"`, 'x'],
    [FILE, 'no picture'],
  ]);
  for (let length = 0; length < body.length - 4; length += 7)
    expect(await answer({ type, body: body.slice(0, length) as Buffer })).toMatchObject({ code: 'unreadable' });
});

test('text that is not UTF-8 is refused in every content type', async () => {
  const latin1 = Buffer.from('café', 'latin1');
  for (const body of [
    toMultipart([[`${TEXT}"prompt"`, latin1]]),
    toForm('prompt=caf%E9'),
    { type: FORM_TYPE, body: Buffer.concat([Buffer.from('prompt='), latin1]) },
    { type: JSON_TYPE, body: Buffer.concat([Buffer.from('{"prompt":"'), latin1, Buffer.from('"}')]) },
  ])
    expect(await answer(body)).toMatchObject({ status: 400, code: 'unreadable', detail: 'the body is not UTF-8' });
  expect(await answer(toForm('prompt=%EF%BF%BD'))).toMatchObject({ status: 200 });
});

test.each([
  ['JSON as a form', toForm('{"prompt":"a cat"}'), 415, /looks like JSON.*application\/json/],
  ['multipart without its boundary', { type: 'multipart/form-data', body: 'x' }, 400, /has no boundary/],
])('%s is named', async (_, body, status, detail) => {
  expect(await answer(body)).toMatchObject({ status, detail: expect.stringMatching(detail) });
});

test('a compressed body is named', async () => {
  const headers = { ...key.headers, 'content-encoding': 'gzip' };
  const response = await post(toJson({ prompt: 'x' }), { ...key, headers });
  expect([response.status, (await response.json()).detail]).toEqual([
    415,
    expect.stringContaining('Content-Encoding: gzip'),
  ]);
});

const sockets: Socket[] = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});

/** Sends the beginning of a request, and waits until the kernel has all of it. */
async function begin(length: number, { value } = key, type = MULTIPART_TYPE): Promise<Socket> {
  const socket = connect(service.port, '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => undefined);
  const headers = `host: localhost\r\nauthorization: Bearer ${value}\r\ncontent-type: ${type}\r\n`;
  socket.write(`POST /img2vid HTTP/1.1\r\n${headers}content-length: ${length + 1000}\r\n\r\n`);
  await new Promise((resolve) => socket.write(Buffer.alloc(length, 1), resolve));
  return socket;
}

test('unfinished uploads of an API key are limited to 64 MB, and stop nobody else', async () => {
  const picture = toMultipart([[FILE, Buffer.alloc(20_000_000, 1)]]);
  const other = await service.key();
  await Promise.all([1, 2, 3].map(() => begin(20_000_000)));
  await vi.waitFor(async () => expect(await answer(picture)).toMatchObject({ status: 429, code: 'too_many_uploads' }), {
    timeout: 20_000,
  });
  expect((await post(picture, other)).status).toBe(422);
  for (const socket of sockets) socket.destroy();
  await vi.waitFor(async () => expect(await answer(picture)).toMatchObject({ status: 422 }));
}, 60_000);

test('a client that disconnects within a body is counted as 499 and is no error in the log', async () => {
  service.logged.length = 0;
  const types = { [JSON_TYPE]: 50, [FORM_TYPE]: 900_000, [MULTIPART_TYPE]: 5_000_000 };
  for (const [type, length] of Object.entries(types)) (await begin(length, key, type)).destroy();
  const disconnected = () => service.logged.filter(({ status }) => status === 499);
  await vi.waitFor(() => expect(disconnected().length).toBeGreaterThanOrEqual(3));
  expect(service.logged.filter(({ level }) => Number(level) > 20)).toEqual([]);
  const metrics = await (await fetch(`${service.url}/metrics`, key)).text();
  expect(metrics).toMatch(/requests_total\{method="POST",route="\/img2vid",status="499"\} [1-9]/);
});
