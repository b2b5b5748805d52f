import { inspect } from 'node:util';
import { GetObjectCommand, HeadObjectCommand, ListMultipartUploadsCommand } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { errorBody, type S3Proxy, startS3Proxy } from '../../infra/simulators/s3-proxy.ts';
import { type LocalS3, s3Server, skipped, startS3 } from '../../infra/simulators/s3-server.ts';
import { bucketContract, linkContract } from '../../test/contracts/bucket-contract.ts';
import { type Bucket, StorageError } from './bucket.ts';
import { type S3Options, type S3Tuning, s3Bucket, s3Client } from './s3.ts';

const MIB = 2 ** 20;

describe.skipIf(!s3Server)(`at a real store${skipped}`, () => {
  let store: LocalS3;
  beforeAll(async () => {
    store = await startS3();
  });
  afterAll(() => store?.stop());

  const close = async () => undefined; // stopping the store removes all buckets
  bucketContract('s3Bucket', async () => ({ bucket: s3Bucket(await store.bucket()), close }));
  linkContract('s3Bucket', async (now) => ({ bucket: s3Bucket(await store.bucket(), { now }), close }));

  test('objects have their types, and an upload one that no browser shows', async () => {
    const options = await store.bucket();
    const bucket = s3Bucket(options);
    const types = {
      'tasks/1/job/video-1.mp4': 'video/mp4',
      'tasks/1/still.png': 'image/png',
      'tasks/1/still.jpg': 'image/jpeg',
      'tasks/1/job/video-1.webp': 'image/webp',
      'tasks/1/result.json': 'application/json',
      'tasks/1/upload': 'application/octet-stream',
    };
    for (const [key, type] of Object.entries(types)) {
      await bucket.put(key, 'x');
      const { ContentType, ContentEncoding } = await s3Client(options).send(
        new HeadObjectCommand({ Bucket: options.bucket, Key: key }),
      );
      expect([ContentType, ContentEncoding], key).toEqual([type, undefined]);
      const shown = await fetch(await bucket.link(key, Math.floor(Date.now() / 1000) + 60));
      expect(shown.headers.get('content-type'), key).toBe(key.endsWith('.json') ? 'application/octet-stream' : type);
      const place = /\.(mp4|png|jpg|webp)$/.test(key) ? 'inline' : 'attachment';
      expect(shown.headers.get('content-disposition'), key).toBe(`${place}; filename="${key.split('/').at(-1)}"`);
    }
  });

  describe('through a proxy that injects faults', () => {
    let proxy: S3Proxy;
    let options: S3Options;
    let bucket: Bucket; // through the proxy
    let direct: Bucket;
    let waited: number[]; // milliseconds
    const BYTES = Buffer.alloc(17 * MIB, 'film'); // three parts
    beforeAll(async () => {});
    beforeEach(async () => {
      proxy = await startS3Proxy(store.endpoint);
      options = await store.bucket();
      direct = s3Bucket(options);
      waited = [];
      bucket = open();
    });
    afterEach(() => proxy.close());

    const open = (more: Partial<S3Options> = {}, tuning: S3Tuning = {}) =>
      s3Bucket(
        { ...options, endpoint: proxy.url, ...more },
        { wait: async (time) => waited.push(time), timeouts: { connection: 1000, silence: 1000 }, ...tuning },
      );
    const seconds = () => waited.reduce((sum, time) => sum + time, 0) / 1000;
    const text = async (key: string) => (await direct.get(key))?.toString();
    const unfinished = async () =>
      (await s3Client(options).send(new ListMultipartUploadsCommand({ Bucket: options.bucket }))).Uploads ?? [];

    test('every call survives an outage of one minute', async () => {
      await direct.put('a', 'before');
      await direct.put('b/c', 'before');
      const calls: Record<string, () => Promise<unknown>> = {
        get: () => bucket.get('a'),
        has: () => bucket.has('a'),
        put: () => bucket.put('d', 'new'),
        'put in parts': () => bucket.put('e', BYTES),
        create: () => bucket.create('f', 'new'),
        delete: () => bucket.delete('b'),
      };
      for (const [name, call] of Object.entries(calls)) {
        waited = [];
        proxy.fault = () => (seconds() < 60 ? 'reset' : undefined);
        await call();
        expect(seconds(), name).toBeGreaterThan(60);
      }
      expect(await Promise.all(['a', 'b/c', 'd', 'e', 'f'].map(text))).toEqual([
        'before',
        undefined,
        'new',
        BYTES.toString(),
        'new',
      ]);
    });

    test('a call fails after two minutes, and names the store', async () => {
      proxy.fault = () => 'reset';
      const error = await bucket.get('a').catch((error) => error);
      expect(error).toBeInstanceOf(StorageError);
      expect(error.message).toMatch(
        new RegExp(
          `^the bucket’s store at ${new URL(proxy.url).host} can’t be reached \\(ECONNRESET\\), 12 times in a row$`,
        ),
      );
      expect(seconds()).toBeGreaterThan(85);
      expect(seconds()).toBeLessThan(155);
    });

    test('a smaller retry budget makes a call fail sooner', async () => {
      proxy.fault = () => 'reset';
      let clock = 0;
      const wait = async (time: number) => (clock += time);
      const hasty = open({}, { retryBudget: 8000, wait, now: () => clock });
      await expect(hasty.get('a')).rejects.toThrow(/can’t be reached/);
      expect(clock).toBeGreaterThan(3000);
      expect(clock).toBeLessThanOrEqual(10_000);
    });

    test.each([
      [503, 'SlowDown'],
      [500, 'InternalError'],
      [429, undefined],
      [400, 'RequestTimeout'],
      [409, 'ConditionalRequestConflict'],
      [502, undefined], // an error page of a proxy
    ])('status %s %s twice: a third try', async (status, code) => {
      proxy.fault = () =>
        proxy.requests.length <= 2 ? { status, body: code ? errorBody(code) : '<html>no</html' } : undefined;
      expect(await bucket.create('a', 'x')).toBe(true);
      expect(proxy.requests).toHaveLength(3);
      expect(await text('a')).toBe('x');
    });

    test('a response that breaks off is read again', async () => {
      await direct.put('a', BYTES);
      proxy.fault = () => (proxy.requests.length <= 2 ? 'truncate' : undefined);
      expect((await bucket.get('a'))!.equals(BYTES)).toBe(true);
      expect(proxy.requests).toHaveLength(3);
    });

    test('a store that accepts connections but never answers is a TimeoutError', async () => {
      const impatient = { timeouts: { connection: 1000, silence: 30 } };
      proxy.fault = () => 'hang';
      await expect(open({}, impatient).put('a', 'x')).rejects.toThrow(/does not answer in time, 12 times in a row$/);
      proxy.requests.length = 0;
      proxy.fault = () => (proxy.requests.length === 1 ? 'hang' : undefined);
      await open({}, { timeouts: { connection: 1000, silence: 300 } }).put('a', 'x');
      expect(await text('a')).toBe('x');
    });

    test('a silent store is not retried longer than an unreachable one', async () => {
      let clock = Date.now();
      proxy.fault = () => {
        clock += 30_000;
        return 'hang';
      };
      const tuning = {
        wait: async (time: number) => (clock += time),
        timeouts: { connection: 1000, silence: 30 },
        now: () => clock,
      };
      const start = clock;
      await expect(open({}, tuning).get('a')).rejects.toThrow(/does not answer in time, [45] times in a row$/);
      expect(clock - start).toBeLessThan(200_000);
    });

    test('requests have no checksums or framing that only AWS supports', async () => {
      const carried = new Set<string>();
      proxy.fault = ({ headers, url }) => {
        for (const name of Object.keys(headers)) if (!url!.includes('?delete')) carried.add(name);
        if (headers['content-encoding']) carried.add(`content-encoding: ${headers['content-encoding']}`);
        return undefined;
      };
      await bucket.put('a', 'x');
      await bucket.create('b', 'x');
      await bucket.put('c.mp4', BYTES);
      await bucket.get('a');
      expect([...carried].filter((name) => /checksum|trailer|content-encoding|decoded/.test(name))).toEqual([]);
    });

    test('an upload whose connection breaks once is complete', async () => {
      const cut = new Set<string>();
      proxy.fault = ({ url }) => (cut.size === cut.add(url!).size ? undefined : 'reset'); // each request fails once
      await bucket.put('a.mp4', BYTES);
      expect((await direct.get('a.mp4'))!.equals(BYTES)).toBe(true);
      expect(cut.size).toBeGreaterThan(4);
    });

    test('an upload that fails leaves no parts, and keeps the old object', async () => {
      await direct.put('a.mp4', 'before');
      for (const request of [/partNumber=2/, /^POST .*uploadId=/]) {
        proxy.requests.length = 0;
        proxy.fault = ({ method, url }) => (request.test(`${method} ${url}`) ? 'reset' : undefined);
        await expect(bucket.put('a.mp4', BYTES)).rejects.toThrow(StorageError);
        await expect(bucket.put('b.mp4', BYTES)).rejects.toThrow(StorageError);
        expect(proxy.requests.some((asked) => asked.startsWith('PUT') && asked.includes('partNumber=1'))).toBe(true);
        expect(await text('a.mp4')).toBe('before');
        expect(await direct.has('b.mp4')).toBe(false);
        expect(await unfinished()).toEqual([]);
      }
    });

    test('an upload whose last response is lost has succeeded', async () => {
      proxy.fault = ({ method, url }) => {
        if (method !== 'POST' || !/uploadId=/.test(url!)) return undefined;
        return proxy.dropped.length === 0 ? 'drop' : { status: 404, body: errorBody('NoSuchUpload') }; // as some stores answer the retry
      };
      await bucket.put('a.mp4', BYTES);
      expect(proxy.dropped).toHaveLength(1);
      expect((await direct.get('a.mp4'))!.equals(BYTES)).toBe(true);
    });

    test('an upload that another process aborts has failed', async () => {
      await direct.put('a.mp4', BYTES);
      proxy.fault = ({ method, url }) =>
        method === 'POST' && /uploadId=/.test(url!) ? { status: 404, body: errorBody('NoSuchUpload') } : undefined;
      await expect(bucket.put('a.mp4', BYTES)).rejects.toThrow(/NoSuchUpload/);
      expect(await unfinished()).toEqual([]);
    });

    test('create whose response is lost has won, unless another writer was faster', async () => {
      proxy.fault = () => (proxy.dropped.length ? undefined : 'drop');
      expect(await bucket.create('a', 'mine')).toBe(true);
      expect(proxy.dropped).toHaveLength(1);
      expect(await bucket.create('a', 'mine')).toBe(false); // another call with the same contents

      proxy.requests.length = 0;
      proxy.fault = async () => {
        if (proxy.requests.length > 1) return undefined;
        await direct.create('b', 'the same');
        return 'reset';
      };
      expect(await bucket.create('b', 'the same')).toBe(false);
    });

    test('without metadata the contents decide, but only after a lost response', async () => {
      proxy.change = (headers) => delete headers['x-amz-meta-mark'];
      proxy.fault = () => (proxy.dropped.length ? undefined : 'drop');
      expect(await bucket.create('a', 'mine')).toBe(true);
      expect(await bucket.create('a', 'mine')).toBe(false);

      proxy.requests.length = 0;
      proxy.fault = async () => {
        if (proxy.requests.length > 1) return undefined;
        await direct.create('b', 'another’s');
        return 'reset';
      };
      expect(await bucket.create('b', 'mine')).toBe(false);
    });

    test('objects that a bulk request can’t delete are deleted one by one', async () => {
      for (const key of ['a/1', 'a/2', 'a/3']) await direct.put(key, 'x');
      proxy.fault = ({ method }) =>
        method === 'POST'
          ? {
              status: 200,
              body: `<DeleteResult>${['a/1', 'a/2', 'a/3'].map((key) => `<Error><Key>${key}</Key><Code>InternalError</Code></Error>`).join('')}</DeleteResult>`,
            }
          : undefined;
      await bucket.delete('a');
      for (const key of ['a/1', 'a/2', 'a/3']) expect(await direct.has(key), key).toBe(false);
      proxy.fault = ({ method, url }) =>
        method === 'DELETE' && url!.includes('b/1')
          ? { status: 403, body: errorBody('AccessDenied') }
          : method === 'POST'
            ? {
                status: 200,
                body: '<DeleteResult><Error><Key>b/1</Key><Code>AccessDenied</Code></Error></DeleteResult>',
              }
            : undefined;
      await direct.put('b/1', 'x');
      await expect(bucket.delete('b')).rejects.toThrow(/may not s3:DeleteObject/);
    });

    describe('an error is one line, immediate, and without secrets', () => {
      const HOUR = 3600_000;
      const cases: Record<string, [() => Bucket, RegExp]> = {
        'the secret': [
          () => open({ secretAccessKey: 'not-the-secret' }),
          /^127\.0\.0\.1:\d+ refuses the signature: .*BUCKET_SECRET_ACCESS_KEY/,
        ],
        'the key’s id': [
          () => open({ accessKeyId: 'nobody' }),
          /^127\.0\.0\.1:\d+ does not know the access key \(BUCKET_ACC/,
        ],
        'the bucket': [
          () => open({ bucket: 'no-such-bucket' }),
          /^there is no bucket no-such-bucket at 127\.0\.0\.1:\d+/,
        ],
        'a clock that is slow': [
          () => open({}, { now: () => Date.now() - HOUR }),
          /^this machine’s clock is (59|60) minutes behind the clock of 127\.0\.0\.1:\d+$/,
        ],
        'a clock that is fast': [
          () => open({}, { now: () => Date.now() + 5 * HOUR }),
          /^this machine’s clock is 5 hours ahead of the clock of 127\.0\.0\.1:\d+$/,
        ],
      };
      test.each(Object.entries(cases))('%s', async (_, [openWrong, message]) => {
        const wrong = openWrong();
        const calls: Record<string, () => Promise<unknown>> = {
          get: () => wrong.get('a'),
          has: () => wrong.has('a'),
          put: () => wrong.put('a', 'x'),
          'put in parts': () => wrong.put('a', BYTES),
          create: () => wrong.create('a', 'x'),
          delete: () => wrong.delete('a'),
          'get again': () => wrong.get('a'), // by default the SDK corrects its clock after the first error
        };
        for (const [name, call] of Object.entries(calls)) await saysOnly(call, message, name);
      });

      const answers: [status: number, body: string, RegExp, headers?: Record<string, string>][] = [
        [
          403,
          errorBody('AccessDenied'),
          /^the access key may not s3:GetObject in the bucket bucket-\d+ at 127\.0\.0\.1:\d+ \(or /,
        ],
        [403, '', /may not s3:GetObject/],
        [507, errorBody('XMinioStorageFull'), /has no space left, or its quota is used up$/],
        [403, errorBody('QuotaExceeded'), /has no space left, or its quota is used up$/],
        [400, errorBody('ExpiredToken'), /AWS_SESSION_TOKEN/],
        [
          400,
          errorBody('AuthorizationHeaderMalformed', '<Region>eu-central-1</Region>'),
          /us-east-1 \(BUCKET_REGION\), but in eu-central-1$/,
        ],
        [
          301,
          errorBody('PermanentRedirect'),
          /is not in the region us-east-1 \(BUCKET_REGION\), but in eu-west-1$/,
          { 'x-amz-bucket-region': 'eu-west-1' },
        ],
        [501, errorBody('NotImplemented'), /does not support GetObject, or not with these options$/],
        [418, errorBody('IAmATeapot'), /answered 418 IAmATeapot to GetObject$/],
        [405, '<html>not here</html>', /answered 405 without a code to GetObject$/],
        [404, '<html>not here</html>', /answered 404 NotFound to GetObject$/],
        [404, '', /answered 404 NotFound to GetObject$/],
      ];
      test.each(answers)('status %s %s', async (status, body, message, headers) => {
        proxy.fault = () => ({ status, body, headers });
        await saysOnly(() => bucket.get('a'), message, 'get');
      });

      async function saysOnly(call: () => Promise<unknown>, message: RegExp, name: string) {
        proxy.requests.length = 0;
        const error = (await call().catch((error) => error)) as Error;
        expect(error, name).toBeInstanceOf(StorageError);
        expect(error.message, name).toMatch(message);
        expect(waited, name).toEqual([]);
        expect(proxy.requests.length, name).toBe(1);
        const shown = inspect(error, { depth: 9, showHidden: true });
        for (const secret of [options.secretAccessKey, 'not-the-secret', 'secret-of-the-body', 'Signature='])
          expect(shown, name).not.toContain(secret);
      }
    });

    test('a URL of another kind of server is explained', async () => {
      proxy.fault = ({ method }) => (method === 'GET' ? { status: 200, body: 'hello <' } : { status: 204, body: '' });
      await expect(bucket.delete('a')).rejects.toThrow(/^127\.0\.0\.1:\d+ does not answer like an S3 store/);
    });

    test('a programming error is thrown unchanged', async () => {
      await expect(bucket.put('a', undefined as never)).rejects.toThrow(TypeError);
      expect(proxy.requests).toEqual([]);
    });
  });
});

describe('links, which need no request', () => {
  const KEYS = { accessKeyId: 'id', secretAccessKey: 'secret' };
  const NOW = Date.UTC(2026, 0, 1);
  const EXPIRES = NOW / 1000 + 3600;
  const linkOf = async (options: Partial<S3Options>, expires = EXPIRES) =>
    new URL(
      await s3Bucket({ bucket: 'films', region: 'eu-central-1', ...KEYS, ...options }, { now: () => NOW }).link(
        'a/b.mp4',
        expires,
      ),
    );

  test.each([
    [undefined, 'https://films.s3.eu-central-1.amazonaws.com/a/b.mp4'],
    ['https://s3.eu-central-1.amazonaws.com', 'https://films.s3.eu-central-1.amazonaws.com/a/b.mp4'],
    [
      'https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com',
      'https://0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com/films/a/b.mp4',
    ],
    ['https://s3.us-west-004.backblazeb2.com', 'https://s3.us-west-004.backblazeb2.com/films/a/b.mp4'],
    ['http://127.0.0.1:9000', 'http://127.0.0.1:9000/films/a/b.mp4'],
    ['https://store.example/s3/v1', 'https://store.example/s3/v1/films/a/b.mp4'],
  ])('at %s', async (endpoint, expected) => {
    const { origin, pathname } = await linkOf({ endpoint });
    expect(origin + pathname).toBe(expected);
  });

  test('are valid until the given time, and a week at most', async () => {
    expect((await linkOf({})).searchParams.get('X-Amz-Expires')).toBe('3600');
    expect((await linkOf({}, EXPIRES + 365 * 86_400)).searchParams.get('X-Amz-Expires')).toBe('604800');
  });

  test('can be signed as expired', async () => {
    const { searchParams } = await linkOf({}, NOW / 1000 - 60);
    expect([searchParams.get('X-Amz-Date'), searchParams.get('X-Amz-Expires')]).toEqual(['20251231T235859Z', '1']);
  });

  test('contain the session token', async () => {
    expect((await linkOf({ sessionToken: 'token' })).searchParams.get('X-Amz-Security-Token')).toBe('token');
  });

  test.each([
    ['films', undefined],
    ['films.of.2026', undefined],
    ['films', 'https://store.example:8443/s3/v1'],
    ['films', 'http://127.0.0.1:9000'],
  ])('are, for bucket %s at %s, what the SDK would sign', async (bucket, endpoint) => {
    for (const keys of [KEYS, { accessKeyId: 'ID/+=', secretAccessKey: 's/+=ö', sessionToken: 'a/b+c==' }]) {
      const options = { bucket, endpoint, region: 'eu-central-1', ...keys };
      let now = NOW;
      const ours = s3Bucket(options, { now: () => now });
      const client = s3Client(options);
      for (const [key, later, seconds] of [
        ['tasks/a/still.png', 0, 3600],
        ['tasks/a/job-1.b/video-1.mp4', 86_399_000, 60],
        ['tasks/a/upload', 86_400_000, 604_800], // the next day's key
        ['tasks/a/still.png', 0, 1],
      ] as const) {
        now = NOW + later;
        const name = key.split('/').at(-1);
        const command = new GetObjectCommand({
          Bucket: bucket,
          Key: key,
          ResponseContentType: { png: 'image/png', mp4: 'video/mp4' }[name!.slice(-3)] ?? 'application/octet-stream',
          ResponseContentDisposition: `${name === 'upload' ? 'attachment' : 'inline'}; filename="${name}"`,
        });
        const theirs = await getSignedUrl(client, command, { expiresIn: seconds, signingDate: new Date(now) });
        expect(await ours.link(key, now / 1000 + seconds)).toBe(theirs);
      }
    }
  });
});
