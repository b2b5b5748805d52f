/** How POST /img2vid checks the pictures of several clients: what each may use, and what is refused before. */
import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { findSandbox } from '../../core/picture/picture.ts';
import { sample } from '../../test/support/malicious-pictures.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

vi.mock('node:child_process', { spy: true });

let service: TestService;
beforeEach(async () => {
  await findSandbox(); // so that a test sees only its own decoders start
  service = await testService({ PRICE_PER_GPU_SECOND: '0.0003' });
  vi.mocked(spawn).mockClear();
});
afterEach(() => service.close());

type Owner = Awaited<ReturnType<TestService['key']>>;

async function upload({ headers }: Owner, bytes: Uint8Array, signal?: AbortSignal) {
  const body = new FormData();
  body.append('image', new Blob([bytes as BlobPart]), 'photo.jpg');
  const response = await fetch(`${service.url}/img2vid`, { method: 'POST', body, headers, signal: signal ?? null });
  return { ...(await response.json()), status: response.status, headers: response.headers };
}
const decoders = () => vi.mocked(spawn).mock.results.map(({ value }) => value as ReturnType<typeof spawn>);
const isAlive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

const eventually = (condition: () => boolean) => vi.waitUntil(condition);

/** Uploads a picture whose decoder is stopped. */
async function uploadSlowly(key: Owner, bytes: Uint8Array) {
  const before = decoders().length;
  const controller = new AbortController();
  const answer = upload(key, bytes, controller.signal).catch(() => undefined);
  await eventually(() => decoders().length > before);
  const decoder = decoders()[before]!;
  decoder.kill('SIGSTOP');
  return { decoder, answer, hangUp: () => controller.abort() };
}

test('a key has one picture checked at a time, and another key does not wait', async () => {
  const picture = await sample().jpeg().toBuffer();
  const [one, other] = [await service.key(), await service.key()];
  const { decoder, answer } = await uploadSlowly(one, picture);
  const more = [upload(one, picture), upload(one, picture)];
  expect((await upload(other, picture)).status).toBe(202);
  expect((await upload(other, picture)).status).toBe(202);
  expect(decoders()).toHaveLength(3);
  decoder.kill('SIGCONT');
  expect((await Promise.all([answer, ...more])).map((answer) => answer?.status)).toEqual([202, 202, 202]);
});

test('a picture is 503 while a hundred of the same key wait, and clients that hang up leave the queue', async () => {
  const picture = await sample().jpeg().toBuffer();
  const key = await service.key();
  const { decoder, hangUp, answer } = await uploadSlowly(key, picture);
  const controller = new AbortController();
  const others = Array.from({ length: 101 }, () => upload(key, picture, controller.signal));
  for (const other of others) other.catch(() => undefined);
  const { status, code, detail, headers } = await Promise.race(others);
  expect([status, code, headers.get('retry-after')]).toEqual([503, 'unavailable', '5']);
  expect(detail).toBe('too many pictures are being checked; try again');

  controller.abort();
  const disconnected = () => service.logged.filter(({ msg }) => msg === 'client disconnected').length;
  await eventually(() => disconnected() === 100);
  hangUp();
  await answer;
  await eventually(() => !isAlive(decoder.pid!));
  expect((await upload(key, picture)).status).toBe(202);
  expect(decoders()).toHaveLength(2);
  const levels = service.logged.filter(({ msg }) => msg !== 'too many pictures are being checked; try again');
  expect(levels.filter(({ level }) => Number(level) >= 50)).toEqual([]);
});

test('a decoder that is killed from outside is 503, because the picture may be good', async () => {
  const { decoder, answer } = await uploadSlowly(await service.key(), await sample().jpeg().toBuffer());
  decoder.kill('SIGKILL');
  expect(await answer).toMatchObject({ status: 503, code: 'unavailable' });
});

test('a request that the key’s budget or limits refuse costs no decoder and no write', async () => {
  const notPicture = Buffer.from('refused for the key, so nobody finds out');
  const picture = await sample().jpeg().toBuffer();
  const refused = {
    budget_spent: [{ budget: 0 }, 402],
    too_many_open: [{ max_active: 1 }, 429],
    too_many_submissions: [{ submissions_per_minute: 1 }, 429],
  } as const;
  for (const [code, [limits, status]] of Object.entries(refused)) {
    const key = await service.key(limits);
    if (status === 429) expect((await upload(key, picture)).status).toBe(202);
    const before = await readdir(join(service.folder, 'bucket'), { recursive: true });
    vi.mocked(spawn).mockClear();
    const answer = await upload(key, notPicture);
    expect([answer.status, answer.code]).toEqual([status, code]);
    expect(answer.headers.has('ratelimit')).toBe(true);
    expect(spawn).not.toHaveBeenCalled();
    expect(await readdir(join(service.folder, 'bucket'), { recursive: true })).toEqual(before);
  }
});
