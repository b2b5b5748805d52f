/** The tests that every bucket must pass: each implementation's own test file calls this. */
import { createHash, randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Bucket, LinkOptions } from '../../core/bucket/bucket.ts';

export interface Opened {
  bucket: Bucket;
  /** removes the bucket */
  close: () => Promise<void>;
}

/** Keys that could lead out of the bucket, or that not every store supports. */
const INVALID_KEYS = [
  ...['', '.', '..', '../x', 'a/../b', 'a/..', './a', 'a/./b', '.hidden', 'a/.hidden'],
  ...['a//b', '/a', 'a/', 'a\\b', '..\\x', 'a b', 'a\nb', 'a\0', 'a%2fb', '%2e%2e/x', 'ü', 'a'.repeat(513)],
];

/** What the tests of one bucket share: the bucket is a new one for each test. */
type Harness = Opened & { text: (key: string) => Promise<string | undefined> };

/**
 * @param name of the implementation
 * @param open makes an empty bucket
 */
export function bucketContract(name: string, open: () => Promise<Opened>) {
  describe(`${name}: what every bucket does`, () => {
    const harness = {} as Harness;
    beforeEach(async () => {
      const opened = await open();
      const text = async (key: string) => (await opened.bucket.get(key))?.toString('utf8');
      Object.assign(harness, opened, { text });
    });
    afterEach(() => harness.close());
    testReads(harness);
    testWrites(harness);
    testDeletes(harness);
    testCreates(harness);
    testKeys(harness);
  });
}

function testReads(harness: Harness) {
  test('get returns the bytes that were put', async () => {
    const bytes = Uint8Array.from({ length: 1000 }, (_, i) => i % 256);
    await harness.bucket.put('tasks/1/still.png', bytes);
    expect(await harness.bucket.get('tasks/1/still.png', 24)).toEqual(Buffer.from(bytes.subarray(0, 24)));
    expect(await harness.bucket.get('tasks/1/still.png', bytes.length + 1)).toEqual(Buffer.from(bytes));
    expect(await harness.bucket.get('none', 24)).toBeUndefined();
    const got = await harness.bucket.get('tasks/1/still.png');
    expect(Buffer.isBuffer(got)).toBe(true);
    expect(Buffer.compare(got!, Buffer.from(bytes))).toBe(0);
  });

  test('a read during writes returns one whole object', async () => {
    const bodies = ['a', 'b', 'c'].map((letter, i) => letter.repeat(200_000 + 1000 * i));
    await harness.bucket.put('a', bodies[0]!);
    const writes = Promise.all(Array.from({ length: 12 }, (_, i) => harness.bucket.put('a', bodies[i % 3]!)));
    const reads = await Promise.all(Array.from({ length: 24 }, () => harness.text('a')));
    await writes;
    expect(reads.every((read) => bodies.includes(read!))).toBe(true);
    expect(bodies).toContain(await harness.text('a'));
  });

  test('get of a missing object is undefined', async () => {
    await harness.bucket.put('tasks/1/still.png', 'x');
    for (const key of ['none', 'tasks/1/none', 'tasks/none/still.png', 'tasks/1/still.png/below']) {
      expect(await harness.bucket.get(key), key).toBeUndefined();
      expect(await harness.bucket.has(key), key).toBe(false);
    }
  });

  test('a folder is not an object', async () => {
    await harness.bucket.put('tasks/1/still.png', 'x');
    for (const key of ['tasks', 'tasks/1']) {
      expect(await harness.bucket.get(key), key).toBeUndefined();
      expect(await harness.bucket.has(key), key).toBe(false);
    }
  });
}

function testWrites(harness: Harness) {
  test('a string is put as UTF-8', async () => {
    await harness.bucket.put('a', 'größer ≥ 1');
    expect(await harness.text('a')).toBe('größer ≥ 1');
  });

  test('an empty object is an object', async () => {
    await harness.bucket.put('a', '');
    expect(await harness.bucket.get('a')).toEqual(Buffer.alloc(0));
    expect(await harness.bucket.get('a', 24)).toEqual(Buffer.alloc(0));
    expect(await harness.bucket.has('a')).toBe(true);
  });

  test('put replaces an object', async () => {
    await harness.bucket.put('a', 'a long first one');
    await harness.bucket.put('a', 'short');
    expect(await harness.text('a')).toBe('short');
  });

  test('a large object is put whole, under several keys at once', async () => {
    const bytes = randomBytes(21 * 2 ** 20 + 1);
    const keys = ['tasks/1/job/video-1.mp4', 'tasks/1/job/video-2.mp4'];
    await Promise.all(keys.map((key) => harness.bucket.put(key, bytes)));
    for (const key of keys) expect(sha256((await harness.bucket.get(key))!), key).toBe(sha256(bytes));
  });
}

function testDeletes(harness: Harness) {
  test('delete removes one object', async () => {
    await harness.bucket.put('a/b', '1');
    await harness.bucket.put('a/c', '2');
    await harness.bucket.delete('a/b');
    expect(await harness.bucket.has('a/b')).toBe(false);
    expect(await harness.text('a/c')).toBe('2');
  });

  test('delete removes everything below a folder, and nothing else', async () => {
    const below = ['tasks/1/upload', 'tasks/1/job/video-1.mp4', 'tasks/1/job/grid.mp4'];
    const others = ['tasks/10/upload', 'tasks/1-/upload', 'tasks/2/upload', 'other'];
    for (const key of [...below, ...others]) await harness.bucket.put(key, 'x');
    await harness.bucket.delete('tasks/1');
    for (const key of below) expect(await harness.bucket.has(key), key).toBe(false);
    for (const key of others) expect(await harness.bucket.has(key), key).toBe(true);
  });

  test('delete removes more than a thousand objects', async () => {
    const keys = Array.from({ length: 1005 }, (_, i) => `tasks/1/${i % 3}/${1000 + i}`).sort();
    const toWrite = [...keys];
    const writers = Array.from({ length: 16 }, async () => {
      for (let key = toWrite.pop(); key; key = toWrite.pop()) await harness.bucket.put(key, key);
    });
    await Promise.all(writers);
    await harness.bucket.delete('tasks/1');
    const edges = [...keys.slice(0, 10), ...keys.slice(-20)]; // stores list a thousand at a time
    for (const key of edges) expect(await harness.bucket.has(key), key).toBe(false);
  });

  test('deleting a missing object is no error', async () => {
    await harness.bucket.delete('none');
    await harness.bucket.delete('none/below');
  });

  test('a key can be used again after its deletion', async () => {
    await harness.bucket.put('a/b', '1');
    await harness.bucket.delete('a');
    expect(await harness.bucket.create('a/b', '2')).toBe(true);
    expect(await harness.text('a/b')).toBe('2');
  });
}

function testCreates(harness: Harness) {
  test('create writes an object once', async () => {
    expect(await harness.bucket.create('a/b', 'first')).toBe(true);
    expect(await harness.bucket.create('a/b', 'second')).toBe(false);
    expect(await harness.text('a/b')).toBe('first');
  });

  test('create is false for an existing object with the same contents', async () => {
    expect(await harness.bucket.create('a', 'same')).toBe(true);
    expect(await harness.bucket.create('a', 'same')).toBe(false);
  });

  test('create does not replace an object', async () => {
    await harness.bucket.put('a', 'put');
    expect(await harness.bucket.create('a', 'created')).toBe(false);
    expect(await harness.text('a')).toBe('put');
  });

  test('of 20 concurrent creates one wins, and its contents are stored', async () => {
    const wins = await Promise.all(
      Array.from({ length: 20 }, (_, i) => harness.bucket.create('tasks/1/result.json', `${i}`)),
    );
    expect(wins.filter(Boolean)).toHaveLength(1);
    expect(await harness.text('tasks/1/result.json')).toBe(`${wins.indexOf(true)}`);
  });
}

function testKeys(harness: Harness) {
  test('each key has its own link', async () => {
    const [a, b] = await Promise.all(
      ['tasks/1/a.mp4', 'tasks/1/b.mp4'].map((key) => harness.bucket.link(key, 2_000_000_000)),
    );
    expect(new URL(a!).pathname).toMatch(/tasks\/1\/a\.mp4$/);
    expect(new URL(b!).pathname).toMatch(/tasks\/1\/b\.mp4$/);
    expect(new URL(a!).search).not.toBe(new URL(b!).search);
  });

  test.each(INVALID_KEYS)('the key %j is refused', async (key) => {
    const uses = {
      put: () => harness.bucket.put(key, 'x'),
      create: () => harness.bucket.create(key, 'x'),
      get: () => harness.bucket.get(key),
      has: () => harness.bucket.has(key),
      delete: () => harness.bucket.delete(key),
      link: () => harness.bucket.link(key, 2_000_000_000),
    };
    for (const [use, call] of Object.entries(uses)) await expect(call(), use).rejects.toThrow(/bucket key/);
  });
}

/**
 * The tests that links must pass, where a server serves them.
 * @param open makes an empty bucket that signs with this clock, in milliseconds since 1970
 */
export function linkContract(name: string, open: (now: () => number) => Promise<Opened>) {
  describe(`${name}: what every link does`, () => {
    const KEY = 'tasks/1/job/video-1.mp4';
    const CONTENTS = 'the film, 26 letters long.';
    let bucket: Bucket;
    let close: () => Promise<void>;
    let clock: number; // milliseconds
    beforeEach(async () => {
      clock = Date.now();
      ({ bucket, close } = await open(() => clock));
      await bucket.put(KEY, CONTENTS);
    });
    afterEach(() => close());
    const inAnHour = () => Math.floor(Date.now() / 1000) + 3600; // seconds

    test('a link opens with the object’s type and name', async () => {
      const response = await fetch(await bucket.link(KEY, inAnHour()));
      expect(response.status).toBe(200);
      expect(response.headers.get('content-type')).toBe('video/mp4');
      expect(response.headers.get('content-disposition')).toBe('inline; filename="video-1.mp4"');
      expect(response.headers.get('content-encoding')).toBeNull();
      expect(await response.text()).toBe(CONTENTS);
    });

    test('a link can give the file another name, and make browsers save it', async () => {
      const disposition = async (options: LinkOptions, init?: RequestInit) =>
        (await fetch(await bucket.link(KEY, inAnHour(), options), init)).headers.get('content-disposition');
      const filename = 'a-lighthouse_at.dawn-23.mp4';
      expect(await disposition({ filename })).toBe(`inline; filename="${filename}"`);
      expect(await disposition({ filename, download: true })).toBe(`attachment; filename="${filename}"`);
      const part = { headers: { range: 'bytes=4-7' } };
      expect(await disposition({ download: true }, part)).toBe('attachment; filename="video-1.mp4"');
    });

    test.each(['a"b', 'a b', 'a;b', 'a\r\nset-cookie: b', '../a', '.a', 'ä', 'a%0a', 'a'.repeat(101)])(
      'a link with the file name %j is refused',
      async (filename) => {
        await expect(bucket.link(KEY, inAnHour(), { filename })).rejects.toThrow(/not a file name/);
      },
    );

    test('a link supports range requests', async () => {
      const response = await fetch(await bucket.link(KEY, inAnHour()), { headers: { range: 'bytes=4-7' } });
      expect(response.status).toBe(206);
      expect(response.headers.get('content-range')).toBe('bytes 4-7/26');
      expect(await response.text()).toBe('film');
    });

    test('a link does not open after its expiry', async () => {
      const end = Math.floor(clock / 1000) - 1;
      const late = await bucket.link(KEY, end); // signed when it had already expired
      clock -= 3600_000;
      const early = await bucket.link(KEY, end);
      clock = Date.now();
      for (const link of [late, early]) await expectRefused(link, 'expired');
    });

    test('a link does not open another object, nor with any parameter changed or missing', async () => {
      await bucket.put('tasks/1/job/video-2.mp4', CONTENTS);
      const link = new URL(await bucket.link(KEY, inAnHour(), { filename: 'clip-23.mp4', download: true }));
      const other = new URL(link);
      other.pathname = other.pathname.replace('video-1', 'video-2');
      await expectRefused(other.href, 'another key');
      for (const [part, value] of link.searchParams) {
        const changed = new URL(link);
        changed.searchParams.set(part, (value[0] === '7' ? '8' : '7') + value.slice(1));
        await expectRefused(changed.href, `${part} changed`);
        const without = new URL(link);
        without.searchParams.delete(part);
        await expectRefused(without.href, `without ${part}`);
      }
      await expectRefused(link.origin + link.pathname, 'unsigned');
    });

    async function expectRefused(link: string, what: string) {
      const response = await fetch(link);
      expect(response.status, what).toBeGreaterThanOrEqual(400);
      expect(response.status, what).toBeLessThan(500);
      expect(await response.text(), what).not.toContain(CONTENTS);
    }
  });
}

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
