/** Pictures in the text of a request: the same limits, checks and storage as an upload. */
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
let png: Buffer;
beforeAll(async () => {
  service = await testService();
  const grey = { create: { width: 96, height: 64, channels: 3 as const, background: '#369' } };
  png = await sharp(grey).png().toBuffer();
});
afterAll(() => service.close());

const dataUrl = (bytes: Buffer, type = 'image/png') => `data:${type};base64,${bytes.toString('base64')}`;
async function send(values: object) {
  const response = await service.post(values);
  return { ...(await response.json()), status: response.status };
}
const sendText = async (body: string) => {
  const response = await fetch(`${service.url}/img2vid`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  });
  return { ...(await response.json()), status: response.status };
};

test('a picture as base64 or data URL is stored byte for byte, and animated like an upload', async () => {
  const base64 = png.toString('base64');
  const lines = base64.replace(/.{76}/g, '$&\r\n');
  const forms = [
    { image: base64 },
    { image: png.toString('base64url') },
    { image: lines },
    { image: dataUrl(png) },
    { image: dataUrl(png, 'image/png;name=a.png') },
    { image_url: dataUrl(png) },
    { image_url: ` ${dataUrl(png, '').replace('data', 'DATA')}`, image: 'photo.png' },
  ];
  for (const values of forms) {
    const { id, status, input, warnings } = await send({ ...values, T: 5 });
    expect([status, warnings], JSON.stringify(values)).toEqual([202, []]);
    expect(input).toMatchObject({ W: 768, H: 512 }); // its aspect ratio
    expect(input).not.toHaveProperty('image_url');
    const job = await service.take(id);
    expect(job.input.image_key).toBe(`tasks/${id}/upload`);
    expect(Buffer.from((await service.bucket.get(`tasks/${id}/upload`))!)).toEqual(png);
  }
  const form = await fetch(`${service.url}/img2vid`, { method: 'POST', body: new URLSearchParams({ image: base64 }) });
  expect(form.status).toBe(202);
});

test.each([
  ['PNG', 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='],
  ['GIF', 'R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=='],
  ['WebP', 'UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD-JaQAA3AAAAAA'],
])('base64 of a %s of one pixel is a picture, not the name of a file', async (_, image) => {
  expect(await send({ image })).toMatchObject({ status: 202, warnings: [] });
});

test('the same picture in JSON and as a file is the same request', async () => {
  const headers = { 'idempotency-key': 'one-picture' };
  const form = new FormData();
  form.append('image', new Blob([new Uint8Array(png)]), 'photo.png');
  form.append('seed', '23');
  const first = await (await fetch(`${service.url}/img2vid`, { method: 'POST', headers, body: form })).json();
  const body = { image: dataUrl(png), seed: 23 };
  const again = await service.post(body, { headers: { ...headers, 'content-type': 'application/json' } });
  expect([(await again.json()).id, again.headers.get('idempotency-replayed')]).toEqual([first.id, 'true']);
});

test('a picture near 20 MB fits into JSON, also with escapes; more is 413', async () => {
  const padded = (length: number) => Buffer.concat([png, Buffer.alloc(length - png.length)]);
  const large = padded(20_000_000);
  const text = JSON.stringify({ seed: 23, image: dataUrl(large), T: 5 });
  const { id, status, input } = await sendText(text.replaceAll('/', '\\/')); // as PHP escapes
  expect([status, input.seed, input.T]).toEqual([202, 23, 5]);
  expect((await service.bucket.get(`tasks/${id}/upload`))!.length).toBe(large.length);

  const tooLarge = await send({ image: dataUrl(padded(20_000_001)) });
  expect(tooLarge).toMatchObject({ status: 413, detail: 'image has more than 20 MB' });
  expect(await send({ image: 'A'.repeat(30_000_000) })).toMatchObject({ status: 413 });
});

test('long text that is no picture takes little time to refuse', async () => {
  const before = process.cpuUsage();
  for (const [piece, code] of [
    ['%22', 'invalid_input'],
    [' a', 'image_rejected'],
    ['\n', 'invalid_input'],
  ])
    expect(await send({ image: piece!.repeat(4_000_000) })).toMatchObject({ status: 422, code });
  const { user, system } = process.cpuUsage(before); // microseconds of this process, which also runs the service
  expect((user + system) / 1e6).toBeLessThan(1.7);
});

test('other text keeps its limit of 1 MB, however it is nested', async () => {
  const picture = png.toString('base64');
  const long = 'x'.repeat(1_000_001);
  const refusal = { status: 413, detail: 'the text of a request may have at most 1 MB, without a picture' };
  expect(await send({ prompt: long })).toMatchObject(refusal);
  expect(await send({ image: picture, prompt: long })).toMatchObject(refusal);
  expect(await send({ image: { image: long } })).toMatchObject(refusal);
  expect(await sendText(`{"image":"${picture}","T":${'['.repeat(1_000_001)}`)).toMatchObject(refusal);
  expect(await sendText(`{"image":""${'"'.repeat(20_000_000)}}`)).toMatchObject(refusal);
  expect(await sendText(`{"image":"${'A'.repeat(1_000_001)}`)).toMatchObject({ status: 413 }); // without an end
  expect(await sendText(`{"image":"${'\\x'.repeat(600_000)}"}`)).toMatchObject({ status: 400 });
});

test('an error names the field; nothing is stored of a refused picture', async () => {
  const broken = dataUrl(png.subarray(0, 60));
  const count = async () => (await (await fetch(`${service.url}/tasks`)).json()).length;
  const before = await count();
  for (const [values, code, field, message] of [
    [{ image: broken }, 'image_rejected', 'image', /not a complete picture/],
    [{ image_url: broken }, 'image_rejected', 'image_url', /not a complete picture/],
    [{ prompt: 'x', image: broken }, 'image_rejected', 'image', /not a complete picture/],
    [{ image: 'data:image/png;base64,A-' }, 'image_rejected', 'image', /not a complete picture/],
    [{ image: 'data:image/png;base64,%%' }, 'invalid_input', 'image', /^must be a data URL with base64/],
    [{ image_url: 'data:image/svg+xml,<svg/>' }, 'invalid_input', 'image_url', /^must be a data URL with base64/],
    [{ image: dataUrl(png), image_url: dataUrl(png) }, 'invalid_input', 'image', /^given more than once/],
    [{ image: `${'A'.repeat(200)}!` }, 'invalid_input', 'image', /^must be a file in multipart/],
  ] as const) {
    const answer = await send(values);
    expect(answer, JSON.stringify(values)).toMatchObject({ status: 422, code, errors: [{ field }] });
    expect(answer.errors[0].message).toMatch(message);
  }
  expect(await count()).toBe(before);
});

test('with another source before it, the picture is ignored, and a warning says so', async () => {
  const { status, input, warnings } = await send({ prompt: 'a lighthouse', image: dataUrl(png), T: 5 });
  expect([status, input.prompt]).toEqual([202, 'a lighthouse']);
  expect(warnings).toEqual([{ field: 'image', message: 'ignored, because prompt is given' }]);
});
