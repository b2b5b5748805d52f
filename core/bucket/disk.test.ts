import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { bucketContract } from '../../test/contracts/bucket-contract.ts';
import { StorageError } from './bucket.ts';
import { diskBucket } from './disk.ts';

/** The errors of the next calls of writeFile. */
const failures: string[] = [];
vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<typeof import('node:fs/promises')>();
  const writeFile: typeof real.writeFile = async (...args) => {
    const code = failures.shift();
    if (code) throw Object.assign(new Error(code), { code, syscall: 'write' });
    return real.writeFile(...args);
  };
  return { ...real, writeFile };
});

const publicUrl = 'http://127.0.0.1:5000';
const makeFolder = () => mkdtemp(join(tmpdir(), 'disk-test-'));

bucketContract('diskBucket', async () => {
  const folder = await makeFolder();
  const bucket = await diskBucket(join(folder, 'bucket'), { publicUrl });
  return { bucket, close: () => rm(folder, { recursive: true }) };
});

let folder: string;
beforeEach(async () => {
  folder = await makeFolder();
});
afterEach(() => rm(folder, { recursive: true }));

test('a write leaves nothing in tmp/, whether it succeeds or fails', async () => {
  const bucket = await diskBucket(folder, { publicUrl });
  const left = () => readdir(join(folder, 'tmp'));

  await bucket.put('a', '1');
  await bucket.put('b', '2');
  await bucket.create('c', '3');
  expect(await left()).toEqual([]);

  expect(await bucket.create('a', '2')).toBe(false);
  await expect(bucket.put('a/below', 'a is no folder')).rejects.toThrow();
  await expect(bucket.put('../x', '1')).rejects.toThrow();
  expect(await left()).toEqual([]);
  expect((await readdir(join(folder, 'objects'))).sort()).toEqual(['a', 'b', 'c']);
});

test('on a full disk a write is repeated, for two minutes unless the retry budget is smaller', async () => {
  const pauses: number[] = [];
  const wait = async (ms: number) => pauses.push(ms);
  const bucket = await diskBucket(folder, { publicUrl, wait });
  failures.push('ENOSPC', 'EIO', 'EDQUOT');
  await bucket.put('a', '1');
  expect(pauses).toEqual([500, 1000, 2000]);
  expect(await bucket.get('a')).toEqual(Buffer.from('1'));

  pauses.length = 0;
  failures.push(...Array(50).fill('ENOSPC'));
  const error = await bucket.create('b', '2').catch((error) => error);
  expect(error).toBeInstanceOf(StorageError);
  expect(error).toMatchObject({ code: 'ENOSPC', message: expect.stringContaining('no space left') });
  expect(pauses.reduce((sum, ms) => sum + ms)).toBe(120_500);
  failures.length = 0;
  expect(await bucket.create('b', '2')).toBe(true);

  const hasty = await diskBucket(folder, { publicUrl, wait, retryBudget: 100 });
  failures.push('ENOSPC');
  await expect(hasty.put('c', '3')).rejects.toMatchObject({ code: 'ENOSPC', attempts: 1 });
  failures.push('ENOSPC');
  await expect(hasty.check()).rejects.toMatchObject({ code: 'ENOSPC' });
  expect(await readdir(join(folder, 'tmp'))).toEqual([]);
});

test('any other error of the disk is a storage error at once', async () => {
  const bucket = await diskBucket(folder, { publicUrl });
  await rm(join(folder, 'tmp'), { recursive: true });
  await writeFile(join(folder, 'tmp'), 'no folder');
  await expect(bucket.put('a', '1')).rejects.toThrow(StorageError);
  await expect(bucket.put('a', '1')).rejects.toMatchObject({ code: 'ENOTDIR', attempts: 1 });
});

test('writing and deleting a folder at the same time both succeed', async () => {
  const bucket = await diskBucket(folder, { publicUrl });
  const write = async (n: number) => {
    for (let i = 0; i < 30; i++) await bucket.put(`job/${n}-${i}`, 'x');
  };
  let isOver = false;
  const deleting = (async () => {
    while (!isOver) await bucket.delete('job');
  })();
  await Promise.all([0, 1, 2, 3].map(write));
  isOver = true;
  await deleting;
  await bucket.delete('job');
  expect(await bucket.has('job/0-0')).toBe(false);
});

test('the folder contains nothing but its own parts', async () => {
  const bucket = await diskBucket(join(folder, 'bucket'), { publicUrl });
  await bucket.put('link-secret', 'an object of this name is none of ours');
  await bucket.put('tmp/x', 'nor this');
  expect((await readdir(join(folder, 'bucket'))).sort()).toEqual(['link-secret', 'objects', 'tmp']);
  expect((await stat(join(folder, 'bucket', 'link-secret'))).size).toBe(32);
  expect(await readdir(folder)).toEqual(['bucket']);
});

test('file returns an object’s path and size', async () => {
  const bucket = await diskBucket(folder, { publicUrl });
  await bucket.put('tasks/1/a.mp4', 'film');
  expect(await bucket.file('tasks/1/a.mp4')).toMatchObject({
    path: join(folder, 'objects/tasks/1/a.mp4'),
    size: 4,
    modified: expect.any(Date),
  });
  for (const key of ['none', 'tasks/1', 'tasks/1/a.mp4/below', '../link-secret', '']) {
    expect(await bucket.file(key), key).toBeUndefined();
  }
});

test('two buckets of one folder share objects and secret', async () => {
  const [one, two] = await Promise.all([diskBucket(folder, { publicUrl }), diskBucket(folder, { publicUrl })]);
  const later = await diskBucket(folder, { publicUrl });
  await one!.put('a', '1');
  expect((await two!.get('a'))?.toString()).toBe('1');
  const wins = await Promise.all(Array.from({ length: 20 }, (_, i) => [one!, two!][i % 2]!.create('b', `${i}`)));
  expect(wins.filter(Boolean)).toHaveLength(1);

  const query = queryOf(await one!.link('a', 2_000_000_000));
  for (const bucket of [one!, two!, later]) expect(bucket.verify('a', query)).toBe(true);
  expect(await readdir(folder).then((names) => names.filter((name) => name.startsWith('link-secret')))).toEqual([
    'link-secret',
  ]);
});

const queryOf = (link: string) =>
  Object.fromEntries(new URL(link).searchParams) as Record<'expires' | 'signature', string>;

describe('links', () => {
  const EXPIRES = 2_000_000_000; // seconds
  const KEY = 'tasks/1/job/video-1.mp4';
  let now = 0;
  const open = (where = folder) => diskBucket(where, { publicUrl, now: () => now });
  beforeEach(() => {
    now = (EXPIRES - 3600) * 1000;
  });

  test('lead to the API’s /files', async () => {
    const link = new URL(await (await open()).link(KEY, EXPIRES));
    expect(link.origin).toBe(publicUrl);
    expect(link.pathname).toBe(`/files/${KEY}`);
    expect([...link.searchParams.keys()]).toEqual(['expires', 'signature']);
    expect(link.searchParams.get('expires')).toBe(String(EXPIRES));
  });

  test('are verified', async () => {
    const bucket = await open();
    expect(bucket.verify(KEY, queryOf(await bucket.link(KEY, EXPIRES)))).toBe(true);
  });

  test('are valid for their key, time and signature only', async () => {
    const bucket = await open();
    const query = queryOf(await bucket.link(KEY, EXPIRES));
    const { expires, signature } = query;
    const turned = `${signature[0] === 'A' ? 'B' : 'A'}${signature.slice(1)}`;
    const other = queryOf(await bucket.link('tasks/1/job/video-2.mp4', EXPIRES));
    const forged: Record<string, [key: string, query: { expires?: string; signature?: string }]> = {
      'another key': ['tasks/1/job/video-2.mp4', query],
      'a longer key': [`${KEY}x`, query],
      'a later time': [KEY, { expires: String(EXPIRES + 1), signature }],
      'the time written otherwise': [KEY, { expires: `0${EXPIRES}`, signature }],
      'a turned signature': [KEY, { expires, signature: turned }],
      'another link’s signature': [KEY, other],
      'a shorter signature': [KEY, { expires, signature: signature.slice(0, -1) }],
      'a longer signature': [KEY, { expires, signature: `${signature}A` }],
      'no signature': [KEY, { expires }],
      'an empty signature': [KEY, { expires, signature: '' }],
      'no time': [KEY, { signature }],
      'an empty time': [KEY, { expires: '', signature }],
      nothing: [KEY, {}],
    };
    for (const [what, [key, tried]] of Object.entries(forged)) expect(bucket.verify(key, tried), what).toBe(false);
  });

  test('expire', async () => {
    const bucket = await open();
    const query = queryOf(await bucket.link(KEY, EXPIRES));
    now = EXPIRES * 1000 - 1;
    expect(bucket.verify(KEY, query)).toBe(true);
    now = EXPIRES * 1000;
    expect(bucket.verify(KEY, query)).toBe(false);
  });

  test('of another folder are not valid', async () => {
    const one = await open(join(folder, 'one'));
    const two = await open(join(folder, 'two'));
    expect(two.verify(KEY, queryOf(await one.link(KEY, EXPIRES)))).toBe(false);
  });
});
