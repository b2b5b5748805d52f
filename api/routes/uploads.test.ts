/** How long an uploaded picture is kept, and how much of them a key may have. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { HOUR } from '../../core/time.ts';
import { sample } from '../../test/support/malicious-pictures.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { createUploadSweeper } from '../tasks/upload-sweeper.ts';

let service: TestService;
let key: Awaited<ReturnType<TestService['key']>>;
beforeEach(async () => {
  service = await testService({ MAX_UPLOADS_MB: '1' });
  key = await service.key();
});
afterEach(async () => {
  vi.restoreAllMocks();
  await service.close();
});

async function upload(bytes: number, fields: Record<string, string> = {}) {
  const jpeg = await sample().jpeg().toBuffer();
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append('image', new Blob([Buffer.concat([jpeg, Buffer.alloc(bytes - jpeg.length)])]), 'photo.jpg');
  const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body, headers: key.headers });
  return { ...(await response.json()), status: response.status, retryAfter: response.headers.get('retry-after') };
}
const isKept = (id: string) => service.bucket.has(`tasks/${id}/upload`);
const uploadBytes = async () => (await service.store.getKey(key.id))!.upload_bytes;
const isGone = (id: string) =>
  vi.waitFor(async () => expect([await isKept(id), await uploadBytes()]).toEqual([false, 0]));
const cancel = (id: string) => fetch(`${service.url}/cancel?id=${id}`, { method: 'POST', headers: key.headers });

test('an upload is deleted when its task is canceled', async () => {
  const { id } = await upload(100_000);
  expect([await isKept(id), await uploadBytes()]).toEqual([true, 100_000]);
  await cancel(id);
  await isGone(id);
  await vi.waitFor(async () => expect((await service.store.get(id))!.image_key).toBeNull());
});

test('an upload is kept while a job runs, and deleted when the task fails', async () => {
  const { id } = await upload(100_000);
  const { id: jobId } = await service.take(id);
  expect(await isKept(id)).toBe(true);
  service.report(jobId, { error: '{"code":"internal","message":"x","retryable":true}' });
  await isGone(id);
});

test('an upload is deleted when its task succeeds; the still remains, for still_of too', async () => {
  const { id } = await upload(100_000);
  const { id: jobId } = await service.take(id);
  service.report(jobId, { output: await service.finish(id, jobId) });
  await isGone(id);
  expect(await service.bucket.has(`tasks/${id}/still.png`)).toBe(true);
  const another = await service.post(
    { still_of: id },
    { headers: { ...key.headers, 'content-type': 'application/json' } },
  );
  expect(another.status).toBe(202);
});

test('an upload whose deletion fails is deleted later', async () => {
  const { id } = await upload(100_000);
  await vi.waitUntil(async () => (await service.store.get(id))!.job_id);
  const remove = vi.spyOn(service.bucket, 'delete').mockRejectedValueOnce(new Error('the bucket is down'));
  await cancel(id);
  await vi.waitUntil(() => remove.mock.calls.length > 0);
  await isGone(id);
});

test('a key’s uploads of active tasks are limited: beyond it an upload is 429 until a task ends', async () => {
  const first = await upload(600_000);
  const second = await upload(600_000);
  expect([second.status, second.code, second.retryAfter]).toEqual([429, 'uploads_full', '10']);
  expect(second.detail).toBe(
    'the active tasks of this API key may have at most 1 MB of uploaded pictures; wait for one to end',
  );
  expect((await upload(600_000, { prompt: 'a picture that is not used is not stored' })).status).toBe(202);
  expect((await upload(400_000)).status).toBe(202);
  await cancel(first.id);
  await vi.waitFor(async () => expect(await uploadBytes()).toBe(400_000));
  expect((await upload(600_000)).status).toBe(202);
});

test('of two uploads at the same time that exceed the limit together, one is refused and not kept', async () => {
  vi.spyOn(service.store, 'getKey').mockResolvedValue(await service.store.getKey(key.id)); // the early check lets both pass
  const removed = vi.spyOn(service.store, 'removeUpload');
  const statuses = (await Promise.all([upload(600_000), upload(600_000)])).map(({ status }) => status);
  vi.mocked(service.store.getKey).mockRestore();
  expect(statuses.sort()).toEqual([202, 429]);
  const [[refused]] = removed.mock.calls as [[string]];
  expect([await isKept(refused), await uploadBytes()]).toEqual([false, 600_000]);
});

test('an upload whose task was never stored is deleted after an hour, and no other', async () => {
  const stored = await upload(100_000);
  vi.spyOn(service.store, 'insert').mockRejectedValueOnce(new Error('the process dies'));
  vi.spyOn(service.store, 'getOwn').mockRejectedValueOnce(new Error('the process is dead'));
  const begun = vi.spyOn(service.store, 'addUpload');
  expect((await upload(100_000)).status).toBe(503);
  const orphan = begun.mock.calls[0]![0];
  const sweep = async () => {
    const sweeper = createUploadSweeper(service);
    const read = vi.spyOn(service.store, 'listUploads');
    sweeper.wake();
    await vi.waitUntil(() => read.mock.calls.length > 0);
    await sweeper.stop();
    read.mockRestore();
  };
  await sweep();
  expect([await isKept(orphan), await isKept(stored.id)]).toEqual([true, true]);
  service.clock.ahead += HOUR + 1000;
  await sweep();
  expect([await isKept(orphan), await isKept(stored.id)]).toEqual([false, true]);
  expect(await service.store.listUploads(service.now())).toEqual([]);
});
