/** Malicious requests: each is refused with its code and leaves nothing behind. */

import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { maliciousPictures } from '../../test/support/malicious-pictures.ts';
import { refusedUrls } from '../../test/support/malicious-urls.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
let temporary: string;
beforeAll(async () => {
  service = await testService();
  temporary = await mkdtemp(join(tmpdir(), 'malicious-api-'));
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

test('malicious pictures are 422 image_rejected, and leave no task and no file', async () => {
  const pictures = (await maliciousPictures()).crafted.filter(({ bytes }, i) => i % 2 === 1 && bytes.length > 0);
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

test('one byte more than 20 MB is 413', async () => {
  expect(await upload(Buffer.alloc(20_000_001))).toMatchObject({ status: 413, code: 'too_large' });
});

test('a picture as the whole body is 415 with any content type', async () => {
  for (const type of ['image/png', 'image/svg+xml', 'application/octet-stream', 'text/html']) {
    const headers = { 'content-type': type };
    const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body: Buffer.alloc(9), headers });
    expect([response.status, (await response.json()).code], type).toEqual([415, 'unsupported_media_type']);
  }
});

test('forbidden URLs are 422, and no request is sent to them', async () => {
  expect(refusedUrls.length).toBeGreaterThan(150);
  const before = await tasks();
  for (const { url } of refusedUrls) {
    const response = await service.post({ image_url: url });
    const { code, errors } = await response.json();
    if (url.startsWith('data:image/')) {
      expect([response.status, code], url).toEqual([422, 'image_rejected']); // a picture, and a broken one
      continue;
    }
    expect([response.status, code], url).toEqual([422, 'invalid_input']);
    const message = expect.stringMatching(/^must (lead to a public address|be an http or https URL)/);
    expect(errors, url).toEqual([{ field: 'image_url', message }]);
  }
  expect(await tasks()).toBe(before);
});

describe('callbacks', () => {
  const running = async () => {
    const { id } = await (await service.post({ prompt: 'x' })).json();
    const job = await service.take(id);
    return { id, job, token: (await service.store.get(id))!.callback_token };
  };
  const callback = (token: string, body: string | object) =>
    fetch(`${service.url}/runpod/callback/${token}`, {
      method: 'POST',
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });

  test('a forged callback has no effect: tokens can’t be guessed, bodies are not trusted', async () => {
    const { id, job, token } = await running();
    for (const wrong of [
      `${token}x`,
      token.slice(1),
      token.toUpperCase(),
      id,
      job.id,
      '%00',
      '..%2F..',
      "' or 1=1 --",
      'ü',
    ])
      expect((await callback(encodeURIComponent(wrong), { id: job.id, status: 'FAILED' })).status, wrong).toBe(404);
    const forged = { status: 'COMPLETED', output: await service.finish(id, job.id), input: { task_id: id } };
    for (const body of [
      { id: job.id, ...forged },
      { id: 'another', ...forged },
      '{',
      '[]',
      'null',
      '"x"',
      { id: { $ne: 1 } },
    ]) {
      service.clock.ahead += 1001; // more than a second apart, each counts
      expect((await callback(token, body)).status).toBe(200);
    }
    expect(await service.status(id)).toMatchObject({ status: 'running' });
    await service.bucket.delete(`tasks/${id}/result.json`); // it would count
    service.report(job.id, { error: '{"code":"internal","message":"x","retryable":false}' });
    await service.until(id, ({ status }) => status === 'failed');
  });

  test('a replayed callback changes nothing, and asks RunPod at most once a second', async () => {
    const { id, job, token } = await running();
    service.report(job.id, { output: await service.finish(id, job.id) });
    const task = await service.until(id, ({ status }) => status === 'succeeded');
    let asked = 0;
    service.faults.runpod = ({ url }) => {
      if (url.includes(job.id)) asked++;
      return undefined;
    };
    service.clock.ahead += 1001;
    for (let i = 0; i < 20; i++) expect((await callback(token, { id: job.id, status: 'FAILED' })).status).toBe(200);
    const { finished_at, cost, videos } = await service.status(id);
    delete service.faults.runpod;
    expect([finished_at, cost, videos![0]!.sha256]).toEqual([task.finished_at, task.cost, task.videos![0]!.sha256]);
    expect(asked).toBeLessThanOrEqual(1);
  });
});

test('invalid headers are refused, and no response header repeats a client’s text', async () => {
  const raw = (header: string) =>
    new Promise<string>((resolve) => {
      let text = '';
      connect(service.port, '127.0.0.1', function (this: Socket) {
        this.write(`GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n${header}\r\n\r\n`);
        this.on('data', (data) => {
          text += data;
        }).on('close', () => resolve(text));
      });
    });
  for (const header of [
    'x-request-id: a\r\nset-cookie: b\0',
    'x-request-id: a\nset-cookie: b',
    'prefer: wait=1\rset-cookie: b',
    'a b: c',
  ]) {
    const answer = await raw(header);
    expect(answer.toLowerCase(), JSON.stringify(header)).not.toContain('set-cookie');
  }
  expect(await raw('x-request-id: a b<script>')).toMatch(/x-request-id: [\da-f-]{36}\r\n/);
  expect(await raw(`x-big: ${'x'.repeat(20_000)}`)).toMatch(/^HTTP\/1\.1 431 /);
  const both = await raw('content-length: 3\r\ntransfer-encoding: chunked');
  expect(both).toMatch(/^HTTP\/1\.1 400 /); // a proxy and we might disagree where the request ends
});

test.each([
  "?id=' or '1'='1",
  '?id=1;drop table tasks',
  '?id=%00',
  '?id=..%2F..%2Fetc%2Fpasswd',
  '?id[]=x',
  '?id=x&id=y',
  '?__proto__=x',
  '?constructor=x',
  "?status=queued' --",
  '?limit=1e3',
  '?limit=-1',
  '?limit=99999999999999999999',
  "?cursor=01a206ec-8c81-72d2-88c2-373f04644e4a' or 1=1",
  '?since=2026-01-01T00:00:00Z%0d%0aset-cookie:x',
])('query %s finds nothing and breaks nothing', async (query) => {
  const response = await fetch(`${service.url}/status${query}`);
  expect([404, 422]).toContain(response.status);
  expect(response.headers.has('set-cookie')).toBe(false);
  expect((await response.json()).code).toMatch(/^(not_found|invalid_input)$/);
  expect((await fetch(`${service.url}/status`)).status).toBe(200);
});
