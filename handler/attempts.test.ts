import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Bucket } from '../core/bucket/bucket.ts';
import { diskBucket } from '../core/bucket/disk.ts';
import { MINUTE } from '../core/time.ts';
import { beginAttempt, clearAttempts } from './attempts.ts';

const TASK = '01a206ec-8c81-72d2-88c2-373f04644e4a';
let folder: string;
let bucket: Bucket;
let now = 1_000_000;
const begin = (job = 'job-1') => beginAttempt(bucket, TASK, job);
const places = async () => (await readdir(join(folder, 'objects/tasks', TASK)).catch(() => [])).sort();

beforeEach(async () => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  vi.spyOn(Date, 'now').mockImplementation(() => now);
  folder = await mkdtemp(join(tmpdir(), 'attempts-'));
  bucket = await diskBucket(folder, { publicUrl: '' });
});
afterEach(async () => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  await rm(folder, { recursive: true });
});

/** An attempt whose worker is killed: it writes no more heartbeats. */
async function die(job?: string) {
  await begin(job);
  vi.clearAllTimers();
  now += 3 * MINUTE;
}

test('an attempt that ends frees its slot', async () => {
  const end = await begin();
  expect(await places()).toEqual(['attempt-1.json']);
  await end();
  expect(await places()).toEqual([]);
});

test('after the third death the task fails with out_of_memory', async () => {
  for (let death = 1; death <= 3; death++) await die();
  await expect(begin()).rejects.toMatchObject({ code: 'out_of_memory', data: { retryable: false } });
});

test('after two deaths a third attempt runs, and its result frees all slots', async () => {
  await die('job-1');
  await die('job-2');
  const end = await begin('job-3');
  expect(await places()).toEqual(['attempt-1.json', 'attempt-2.json', 'attempt-3.json']);
  await end();
  expect((await clearAttempts(bucket, TASK)).sort()).toEqual(['job-1', 'job-2']);
  expect(await places()).toEqual([]);
});

test('a result frees the slots of living workers and of those that have just died', async () => {
  const end = await begin();
  vi.clearAllTimers(); // the other worker has just been killed
  await begin();
  expect(await clearAttempts(bucket, TASK)).toEqual(['job-1', 'job-1']);
  expect(await places()).toEqual([]);
  await end();
  expect(await places()).toEqual([]);
});

test('an attempt that fails keeps the slots of earlier deaths', async () => {
  await die();
  await die();
  await (await begin())();
  await die();
  await expect(begin()).rejects.toMatchObject({ code: 'out_of_memory' });
});

test('living workers do not count as deaths, however many and however long', async () => {
  const ends = await Promise.all(Array.from({ length: 20 }, () => begin()));
  for (let minute = 0; minute < 10; minute++) {
    now += MINUTE / 2;
    await vi.advanceTimersByTimeAsync(MINUTE / 2);
    await vi.waitFor(async () => {
      const slots = await Promise.all([1, 2, 3].map((n) => bucket.get(`tasks/${TASK}/attempt-${n}.json`)));
      expect(slots.every((slot) => JSON.parse(String(slot)).alive_at === now)).toBe(true);
    });
  }
  const late = await begin('late');
  await Promise.all([...ends, late].map((end) => end()));
  expect(await places()).toEqual([]);
});
