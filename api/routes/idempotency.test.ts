import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { StorageError } from '../../core/bucket/bucket.ts';
import { DAY, SECOND } from '../../core/time.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { requestHash } from '../http/idempotency.ts';

let service: TestService;
beforeEach(async () => {
  service = await testService({ TASK_DEADLINE_SECONDS: '2592000' });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await service.close();
});

async function send(body: BodyInit, key = 'key-1', type?: string) {
  const headers = { 'idempotency-key': key, ...(type && { 'content-type': type }) };
  const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body, headers });
  const answer = await response.json();
  return {
    status: response.status as number,
    replayed: response.headers.get('idempotency-replayed'),
    location: response.headers.get('location'),
    answer,
    id: answer.id as string,
  };
}
const json = (body: object, key?: string) => send(JSON.stringify(body), key, 'application/json');
const picture = (background = '#369') =>
  sharp({ create: { width: 96, height: 64, channels: 3, background } })
    .png()
    .toBuffer();
const form = (bytes: Uint8Array, fields: Record<string, string> = {}) => {
  const data = new FormData();
  for (const [name, value] of Object.entries(fields)) data.append(name, value);
  data.append('image', new File([bytes as BlobPart], bytes.length > 0 ? 'a.png' : '')); // a browser's empty input has no name
  return data;
};
const objects = () => readdir(join(service.folder, 'bucket/objects/tasks')).catch(() => []);
const tasks = async () => (await service.store.list({ owner: 'local', limit: 100 })).map(({ id }) => id);

test('a retry with the same parameters, in any content type, returns the same task in its current state', async () => {
  const first = await json({ prompt: 'a lighthouse', T: 5, cond_aug: 0.5 });
  expect(first).toMatchObject({ status: 202, replayed: null, location: `/status?id=${first.id}` });
  const repeats = [
    await json({ cond_aug: 0.5, T: 5, prompt: ' a lighthouse ' }),
    await json({ prompt: 'a lighthouse', T: 5, cond_aug: 0.5, eta: 1 }), // which belongs to another sampler
    await send(new URLSearchParams({ T: '5', prompt: 'a lighthouse', cond_aug: '5e-1', seed: '' })),
    await send(form(new Uint8Array(), { prompt: 'a lighthouse', T: '5.0', cond_aug: '.5' })),
  ];
  for (const repeat of repeats)
    expect(repeat).toMatchObject({ status: 202, replayed: 'true', location: first.location, id: first.id });
  expect(repeats[0]!.answer.input).toEqual(first.answer.input); // the seed too
  expect(await tasks()).toEqual([first.id]);

  const job = await service.take(first.id);
  service.report(job.id, { output: await service.finish(first.id, job.id) });
  const ended = await service.until(first.id, ({ status }) => status === 'succeeded');
  const { status, replayed, answer } = await json({ prompt: 'a lighthouse', T: 5, cond_aug: 0.5 });
  expect([status, replayed, answer.status]).toEqual([202, 'true', 'succeeded']);
  expect(answer.finished_at).toBe(ended.finished_at);
});

test('the hash does not depend on the order of the parameters', () => {
  expect(requestHash({ T: 5, prompt: 'x' }, undefined)).toBe(requestHash({ prompt: 'x', T: 5 }, undefined));
});

test('other parameters or another picture are a conflict', async () => {
  const first = await send(form(await picture(), { fit: 'contain' }));
  const others = [
    form(await picture('#963'), { fit: 'contain' }),
    form(await picture(), { fit: 'stretch' }),
    form(await picture(), { fit: 'contain', T: '14' }), // which is what it has by default
    form(await picture(), { fit: 'contain', seed: String(first.answer.input.seed) }),
    form(await picture(), { fit: 'contain', prompt: 'x' }),
    new URLSearchParams({ fit: 'contain', prompt: 'x' }),
  ];
  for (const other of others) {
    const { status, answer, replayed } = await send(other);
    expect([status, answer.code, replayed]).toEqual([409, 'idempotency_conflict', null]);
    expect(answer.detail).toContain(`belongs to task ${first.id} of ${first.answer.created_at}`);
  }
  expect((await send(others[0]!, 'key-2')).status).toBe(202);
  expect(await tasks()).toHaveLength(2);
  expect(await objects()).toHaveLength(2);
});

test('of simultaneous requests with a picture, one creates the task and nothing remains of the others', async () => {
  const bytes = await picture();
  const results = await Promise.all(Array.from({ length: 6 }, () => send(form(bytes))));
  const ids = await tasks();
  expect(ids).toHaveLength(1);
  expect(results.map(({ status, id }) => [status, id])).toEqual(Array(6).fill([202, ids[0]]));
  expect(results.filter(({ replayed }) => replayed === 'true')).toHaveLength(5);
  expect(await objects()).toEqual(ids);
  expect(await service.bucket.get(`tasks/${ids[0]}/upload`)).toEqual(bytes);

  const put = vi.spyOn(service.disk, 'put');
  expect(await send(form(bytes))).toMatchObject({ replayed: 'true', id: ids[0] });
  expect(put).not.toHaveBeenCalled();

  const mixed = await Promise.all(Array.from({ length: 6 }, (_, i) => json({ prompt: 'x', T: 1 + (i % 2) }, 'key-2')));
  expect(mixed.map(({ status }) => status).sort()).toEqual([202, 202, 202, 409, 409, 409]);
  expect(await tasks()).toHaveLength(2);
});

test('a key is free again a day after its task’s creation', async () => {
  const first = await json({ prompt: 'x' });
  const created = Date.parse(first.answer.created_at);
  service.clock.ahead = created + DAY - Date.now() - 10 * SECOND;
  expect(await json({ prompt: 'x' })).toMatchObject({ replayed: 'true', id: first.id });
  service.clock.ahead += 10 * SECOND;
  const results = await Promise.all(Array.from({ length: 5 }, () => json({ prompt: 'y' }))); // at once
  const [id, ...more] = new Set(results.map(({ id }) => id));
  expect(more).toEqual([]);
  expect(results.filter(({ status, replayed }) => status === 202 && replayed === null)).toHaveLength(1);
  expect(await tasks()).toEqual([id, first.id]);
  expect(await service.status(first.id)).toMatchObject({ id: first.id, input: { prompt: 'x' } });
  expect((await json({ prompt: 'x' })).status).toBe(409);
});

test.each([
  ['', 'empty'],
  ['two words', 'a space'],
  ['k'.repeat(256), 'too long'],
  ['schlüssel', 'not ASCII'],
])('the key %j is refused: %s', async (key) => {
  const { status, answer } = await json({ prompt: 'x' }, key);
  expect(status).toBe(422);
  expect(answer.errors).toEqual([
    { field: 'Idempotency-Key', message: 'must be 1 to 255 visible ASCII characters, without spaces' },
  ]);
  expect(await tasks()).toEqual([]);
});

test('a request that is refused or can’t be stored uses up no key', async () => {
  const refused = [
    await json({ prompt: 'x', T: 0 }),
    await json({ still_of: '01a206ec-8c81-72d2-88c2-373f04644e4a' }),
    await send(form(Buffer.from('no picture'))),
    await send('{', 'key-1', 'application/json'),
  ];
  expect(refused.map(({ status }) => status)).toEqual([422, 422, 422, 400]);
  const bytes = await picture();
  service.faults.bucket = new StorageError('away', 'ECONNREFUSED', 1);
  expect((await send(form(bytes))).status).toBe(503);
  delete service.faults.bucket;
  const insert = vi.spyOn(service.store, 'insert').mockRejectedValueOnce(new Error('the disk is full'));
  expect((await send(form(bytes))).status).toBe(503);
  expect(await objects()).toEqual([]);
  insert.mockRestore();
  expect(await json({ prompt: 'k'.repeat(255) }, 'k'.repeat(255))).toMatchObject({ status: 202 });
  expect(await send(form(bytes))).toMatchObject({ status: 202, replayed: null });
});

test('a task whose confirmation by the store is lost counts, and keeps its picture', async () => {
  const { insert } = service.store;
  vi.spyOn(service.store, 'insert').mockImplementationOnce(async (...given) => {
    await insert(...given);
    throw new Error('connection reset');
  });
  const bytes = await picture();
  const { status, id } = await send(form(bytes));
  expect(status).toBe(202);
  expect(await service.bucket.get(`tasks/${id}/upload`)).toEqual(bytes);
  expect(await send(form(bytes))).toMatchObject({ replayed: 'true', id });
});

test('a retry returns the same task even when its sources are gone', async () => {
  const { id: source } = await json({ prompt: 'x' });
  await service.bucket.put(`tasks/${source}/imagine-1.png`, await picture());
  const first = await json({ still_of: source }, 'key-2');
  await service.bucket.delete(`tasks/${source}`);
  expect(await json({ still_of: source }, 'key-2')).toMatchObject({ status: 202, replayed: 'true', id: first.id });
  expect((await json({ still_of: source }, 'key-3')).status).toBe(422);
});
