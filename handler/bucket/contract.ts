/** What every bucket must do, as tests: each implementation's own test file calls this. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Bucket } from './bucket.ts';

export interface Opened {
  bucket: Bucket;
  /** afterwards nothing of it is left */
  close: () => Promise<void>;
}

/** Keys that could lead out of the bucket, or that not every store can hold. */
const REFUSED = [
  '../x',
  'a//b',
  '/a',
  'a/',
  'a/../b',
  'a/..',
  './a',
  'a/./b',
  '',
  '.',
  '..',
  '.hidden',
  'a/.hidden',
  'a\\b',
  '..\\x',
  'a b',
  'a\nb',
  'a\0',
  'a%2fb',
  '%2e%2e/x',
  'ü',
  'a'.repeat(513),
];

/**
 * @param name of the implementation
 * @param open makes an empty bucket
 */
export function contract(name: string, open: () => Promise<Opened>) {
  describe(`${name}: what every bucket does`, () => {
    let bucket: Bucket;
    let close: () => Promise<void>;
    let local: string; // a folder for files that are put
    beforeEach(async () => {
      ({ bucket, close } = await open());
      local = await mkdtemp(join(tmpdir(), 'bucket-contract-'));
    });
    afterEach(async () => {
      await rm(local, { recursive: true });
      await close();
    });

    const text = async (key: string) => (await bucket.get(key))?.toString('utf8');

    test('put, then get: the same bytes', async () => {
      const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i % 256);
      await bucket.put('tasks/1/still.png', bytes);
      const got = await bucket.get('tasks/1/still.png');
      expect(Buffer.isBuffer(got)).toBe(true);
      expect(Buffer.compare(got!, Buffer.from(bytes))).toBe(0);
    });

    test('a string is put as UTF-8', async () => {
      await bucket.put('a', 'größer ≥ 1');
      expect(await text('a')).toBe('größer ≥ 1');
    });

    test('an empty object is an object', async () => {
      await bucket.put('a', '');
      expect(await bucket.get('a')).toEqual(Buffer.alloc(0));
      expect(await bucket.has('a')).toBe(true);
    });

    test('put replaces', async () => {
      await bucket.put('a', 'a long first one');
      await bucket.put('a', 'short');
      expect(await text('a')).toBe('short');
    });

    test('who reads while another writes sees one whole object', async () => {
      const bodies = ['a', 'b', 'c'].map((letter, i) => letter.repeat(200_000 + 1000 * i));
      await bucket.put('a', bodies[0]!);
      const writes = Promise.all(Array.from({ length: 12 }, (_, i) => bucket.put('a', bodies[i % 3]!)));
      const reads = await Promise.all(Array.from({ length: 24 }, () => text('a')));
      await writes;
      expect(reads.every((read) => bodies.includes(read!))).toBe(true);
      expect(bodies).toContain(await text('a'));
    });

    test('what is missing is undefined', async () => {
      await bucket.put('tasks/1/still.png', 'x');
      for (const key of ['none', 'tasks/1/none', 'tasks/none/still.png', 'tasks/1/still.png/below']) {
        expect(await bucket.get(key), key).toBeUndefined();
        expect(await bucket.has(key), key).toBe(false);
      }
    });

    test('a folder is no object', async () => {
      await bucket.put('tasks/1/still.png', 'x');
      for (const key of ['tasks', 'tasks/1']) {
        expect(await bucket.get(key), key).toBeUndefined();
        expect(await bucket.has(key), key).toBe(false);
      }
    });

    test('has', async () => {
      await bucket.put('tasks/1/still.png', 'x');
      expect(await bucket.has('tasks/1/still.png')).toBe(true);
    });

    test('delete takes one object', async () => {
      await bucket.put('a/b', '1');
      await bucket.put('a/c', '2');
      await bucket.delete('a/b');
      expect(await bucket.has('a/b')).toBe(false);
      expect(await text('a/c')).toBe('2');
    });

    test('delete takes all below a folder, and nothing beside it', async () => {
      const below = ['tasks/1/upload', 'tasks/1/job/video-1.mp4', 'tasks/1/job/grid.mp4'];
      const beside = ['tasks/10/upload', 'tasks/1-/upload', 'tasks/2/upload', 'other'];
      for (const key of [...below, ...beside]) await bucket.put(key, 'x');
      await bucket.delete('tasks/1');
      for (const key of below) expect(await bucket.has(key), key).toBe(false);
      for (const key of beside) expect(await bucket.has(key), key).toBe(true);
    });

    test('deleting nothing is no error', async () => {
      await bucket.delete('none');
      await bucket.delete('none/below');
    });

    test('a key may be used again after its deletion', async () => {
      await bucket.put('a/b', '1');
      await bucket.delete('a');
      expect(await bucket.create('a/b', '2')).toBe(true);
      expect(await text('a/b')).toBe('2');
    });

    test('putFile copies a file', async () => {
      const path = join(local, 'video.mp4');
      await writeFile(path, 'the film');
      await bucket.putFile('tasks/1/job/video-1.mp4', path);
      await writeFile(path, 'changed since');
      expect(await text('tasks/1/job/video-1.mp4')).toBe('the film');
    });

    test('putFile of no file rejects, and leaves what was there', async () => {
      await bucket.put('a', 'before');
      await expect(bucket.putFile('a', join(local, 'none'))).rejects.toThrow();
      await expect(bucket.putFile('b', join(local, 'none'))).rejects.toThrow();
      expect(await text('a')).toBe('before');
      expect(await bucket.has('b')).toBe(false);
    });

    test('create makes an object once', async () => {
      expect(await bucket.create('a/b', 'first')).toBe(true);
      expect(await bucket.create('a/b', 'second')).toBe(false);
      expect(await text('a/b')).toBe('first');
    });

    test('create does not replace what was put', async () => {
      await bucket.put('a', 'put');
      expect(await bucket.create('a', 'created')).toBe(false);
      expect(await text('a')).toBe('put');
    });

    test('of 20 that create at once one wins, and its object it is', async () => {
      const wins = await Promise.all(
        Array.from({ length: 20 }, (_, i) => bucket.create('tasks/1/result.json', `${i}`)),
      );
      expect(wins.filter(Boolean)).toHaveLength(1);
      expect(await text('tasks/1/result.json')).toBe(`${wins.indexOf(true)}`);
    });

    test('a link is an address of its own for each key', async () => {
      const [a, b] = await Promise.all(
        ['tasks/1/a.mp4', 'tasks/1/b.mp4'].map((key) => bucket.link(key, 2_000_000_000)),
      );
      expect(new URL(a!).pathname).toMatch(/tasks\/1\/a\.mp4$/);
      expect(new URL(b!).pathname).toMatch(/tasks\/1\/b\.mp4$/);
      expect(new URL(a!).search).not.toBe(new URL(b!).search);
    });

    test.each(REFUSED)('the key %j is refused', async (key) => {
      const path = join(local, 'file');
      await writeFile(path, 'x');
      const uses = {
        put: () => bucket.put(key, 'x'),
        putFile: () => bucket.putFile(key, path),
        create: () => bucket.create(key, 'x'),
        get: () => bucket.get(key),
        has: () => bucket.has(key),
        delete: () => bucket.delete(key),
        link: () => bucket.link(key, 2_000_000_000),
      };
      for (const [use, call] of Object.entries(uses)) await expect(call(), use).rejects.toThrow(/bucket key/);
    });
  });
}
