/** What strangers send to the front door: each is refused with its code, and nothing is left of it. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { refusedUrls } from '../handler/net/hostile.ts';
import { hostilePictures } from '../handler/still/hostile.ts';
import { type TestService, testService } from './testing.ts';

let service: TestService;
let temporary: string;
beforeAll(async () => {
  service = await testService();
  temporary = await mkdtemp(join(tmpdir(), 'hostile-api-'));
  vi.stubEnv('TMPDIR', temporary);
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await service.close();
  await rm(temporary, { recursive: true });
});

const objects = () => readdir(join(service.folder, 'bucket'), { recursive: true });
const tasks = async () => ((await (await fetch(`${service.url}/status`)).json()) as unknown[]).length;

/** Posts it as the file `image`; the type that the part claims is no proof of anything. */
async function upload(bytes: Uint8Array, type = 'image/png') {
  const data = new FormData();
  data.append('image', new Blob([bytes as BlobPart], { type }), 'photo.png');
  const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body: data });
  return { status: response.status, ...((await response.json()) as { code: string; errors?: { field: string }[] }) };
}

test('hostile pictures as uploads: 422 image_rejected, no task and no file', async () => {
  const pictures = (await hostilePictures()).crafted.filter(({ bytes }, i) => i % 2 === 1 && bytes.length > 0);
  expect(pictures.length).toBeGreaterThan(30);
  const before = [await tasks(), await objects()];
  const answers: Record<string, unknown> = {};
  const one = async ({ name, bytes }: (typeof pictures)[number]) => {
    const { status, code, errors } = await upload(bytes);
    answers[name] = [status, code, errors?.map(({ field }) => field)];
  };
  for (let i = 0; i < pictures.length; i += 2) await Promise.all(pictures.slice(i, i + 2).map(one));
  expect(answers).toEqual(Object.fromEntries(pictures.map(({ name }) => [name, [422, 'image_rejected', ['image']]])));
  expect([await tasks(), await objects()]).toEqual(before);
  expect(await readdir(temporary)).toEqual([]);
}, 60_000);

test('an empty file counts as none', async () => {
  expect(await upload(Buffer.alloc(0))).toMatchObject({ status: 422, code: 'invalid_input' });
});

test('one byte more than 20 MB: 413', async () => {
  expect(await upload(Buffer.alloc(20_000_001))).toMatchObject({ status: 413, code: 'too_large' });
});

test('a picture as the whole body: 415, by whatever type it goes', async () => {
  for (const type of ['image/png', 'image/svg+xml', 'application/octet-stream', 'text/html']) {
    const headers = { 'content-type': type };
    const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body: Buffer.alloc(9), headers });
    expect([response.status, (await response.json()).code], type).toEqual([415, 'unsupported_media_type']);
  }
});

test('addresses that may not be reached: 422, and nothing is asked', async () => {
  expect(refusedUrls.length).toBeGreaterThan(150);
  const before = await tasks();
  for (const { url } of refusedUrls) {
    const response = await service.post({ image_url: url });
    const { code, errors } = await response.json();
    expect([response.status, code], url).toEqual([422, 'invalid_input']);
    const message = expect.stringMatching(/^must (lead to a public address|be an http or https URL)/);
    expect(errors, url).toEqual([{ field: 'image_url', message }]);
  }
  expect(await tasks()).toBe(before);
});
