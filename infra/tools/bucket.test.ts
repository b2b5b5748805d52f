import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { buffer } from 'node:stream/consumers';
import {
  GetBucketCorsCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutBucketCorsCommand,
} from '@aws-sdk/client-s3';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { s3Client } from '../../core/bucket/s3.ts';
import { errorBody, type Fault, type S3Proxy, startS3Proxy } from '../simulators/s3-proxy.ts';
import { type LocalS3, s3Server, skipped, startS3 } from '../simulators/s3-server.ts';
import { main } from './bucket.ts';

/** Runs the command in this process. */
async function run(args: string[], env: NodeJS.ProcessEnv) {
  let [out, err] = ['', ''];
  const status = await main(args, {
    env,
    out: { write: (text) => (out += text) },
    err: { write: (text) => (err += text) },
  });
  return { status, out, err, lines: out.trimEnd().split('\n') };
}

test.each<[string[], NodeJS.ProcessEnv, number, RegExp]>([
  [[], {}, 2, /^no action is given; use one of setup, check\n$/],
  [['check', 'setup'], {}, 2, /^check: takes no arguments\n$/],
  [['check'], {}, 1, /^BUCKET_NAME is needed: without it the bucket is a folder, which needs no setup\n$/],
  [['check'], { BUCKET_NAME: 'films' }, 1, /^BUCKET_ACCESS_KEY_ID is needed for the bucket films\n$/],
  [
    ['setup'],
    { BUCKET_NAME: 'films', AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b', CORS_ORIGINS: '*' },
    1,
    /^CORS_ORIGINS must be http or https URLs, separated by commas\n$/,
  ],
  [['setup'], { RETAIN_DAYS: '0' }, 1, /^RETAIN_DAYS must be a whole number from 1 to 3650\n$/],
])('%j in %j ends with status %i and one line', async (args, env, expectedStatus, message) => {
  const { status, out, err } = await run(args, env);
  expect([status, out]).toEqual([expectedStatus, '']);
  expect(err).toMatch(message);
});

test('--help prints the usage', async () => {
  expect(await run(['--help'], {})).toMatchObject({
    status: 0,
    err: '',
    out: expect.stringContaining('RETAIN_DAYS (30)'),
  });
});

describe.skipIf(!s3Server)(`at a real store${skipped}`, () => {
  let store: LocalS3;
  beforeAll(async () => {
    store = await startS3();
  });
  afterAll(() => store?.stop());

  let proxy: S3Proxy;
  let options: Awaited<ReturnType<LocalS3['bucket']>>;
  beforeEach(async () => {
    options = await store.bucket();
    proxy = await startS3Proxy(store.endpoint);
  });
  afterEach(() => proxy.close());
  const environment = (more: NodeJS.ProcessEnv = {}) => ({
    BUCKET_NAME: options.bucket,
    BUCKET_ENDPOINT_URL: proxy.url,
    BUCKET_ACCESS_KEY_ID: options.accessKeyId,
    BUCKET_SECRET_ACCESS_KEY: options.secretAccessKey,
    ...more,
  });
  const client = () => s3Client(options);
  const faultIf = (when: (request: IncomingMessage) => boolean, fault: Fault) => {
    proxy.fault = (request) => (when(request) ? fault : undefined);
  };

  describe('check', () => {
    const STEPS = [
      'ok       writes (s3:PutObject)',
      'ok       reads (s3:GetObject)',
      'ok       creates an object once, also when five do at once (If-None-Match)',
      'ok       uploads in parts, and gives up an upload (s3:AbortMultipartUpload)',
      'ok       links open in a browser, also in parts',
      'ok       links that were changed are refused',
      'ok       nobody can read without a link',
      'ok       lists and deletes (s3:ListBucket, s3:DeleteObject)',
    ];

    test('every step passes at a complete store, and nothing is left behind', async () => {
      expect(await run(['check'], environment())).toMatchObject({ status: 0, err: '', lines: STEPS });
      const Bucket = options.bucket;
      expect((await client().send(new ListObjectsV2Command({ Bucket }))).Contents).toBeUndefined();
      expect((await client().send(new ListMultipartUploadsCommand({ Bucket }))).Uploads).toBeUndefined();
    });

    const denied = { status: 403, body: errorBody('AccessDenied') };
    const isLink = ({ url }: IncomingMessage) => url!.includes('X-Amz-Signature=');
    const cases: Record<string, [(request: IncomingMessage) => boolean, Fault, RegExp[]]> = {
      's3:PutObject': [
        ({ method, headers, url }) =>
          method === 'PUT' && !headers['if-none-match'] && !/\?partNumber|&partNumber/.test(url!),
        denied,
        [
          /^missing {2}writes \(s3:PutObject\): the access key may not s3:PutObject in the bucket/,
          /^missing {2}reads/,
          /^missing {2}links open/,
        ],
      ],
      's3:ListBucket': [
        ({ url }) => url!.includes('list-type=2'),
        denied,
        [/^missing {2}lists and deletes \(.*\): the access key may not s3:ListBucket/],
      ],
      's3:AbortMultipartUpload': [
        ({ method, url }) => method === 'DELETE' && url!.includes('uploadId='),
        denied,
        [/^missing {2}uploads in parts, .*: the access key may not s3:AbortMultipartUpload/],
      ],
      'conditional writes': [
        ({ headers }) => headers['if-none-match'] === '*',
        { status: 200, body: '' },
        [/^missing {2}creates .*: 5 of 5 created the same object; two jobs of one task/],
      ],
      'conditional writes that are refused': [
        ({ headers }) => headers['if-none-match'] === '*',
        { status: 501, body: errorBody('NotImplemented') },
        [/^missing {2}creates .*: 127\.0\.0\.1:\d+ does not support PutObject, or not with these options/],
      ],
      links: [
        isLink,
        { status: 401, body: '' },
        [/^missing {2}links open .*: a link answers with status 401; the store must support presigned/],
      ],
      Range: [
        (request) => isLink(request) && request.headers.range !== undefined,
        { status: 200, body: 'a film of 26 letters long.' },
        [/^missing {2}links open .*: no Range requests/],
      ],
      'verified links': [
        (request) =>
          isLink(request) &&
          request.headers.range === undefined &&
          proxy.requests.filter((asked) => asked.includes('X-Amz-Signature=')).length > 2,
        { status: 200, body: 'x' },
        [/^missing {2}links that were changed are refused: a link with another X-Amz-\w+ opens/],
      ],
    };
    test.each(Object.entries(cases))(
      'the steps that need %s fail where the store lacks it',
      async (_, [when, fault, expected]) => {
        faultIf(when, fault);
        const { status, err, lines } = await run(['check'], environment());
        expect([status, err]).toEqual([1, '']);
        const missing = lines.filter((text) => text.startsWith('missing'));
        expect(missing).toEqual(expected.map((pattern) => expect.stringMatching(pattern)));
        const { Contents = [] } = await client().send(new ListObjectsV2Command({ Bucket: options.bucket }));
        if (!lines.at(-1)!.startsWith('missing')) expect(Contents).toEqual([]);
      },
    );

    test('a public bucket passes, with a note', async () => {
      faultIf(({ url, headers }) => !url!.includes('?') && !headers.authorization, { status: 200, body: 'x' });
      const { status, lines } = await run(['check'], environment());
      expect(status).toBe(0);
      expect(lines[6]).toBe('note     the bucket is public: anyone who guesses a URL can read it without a link');
    });

    test('a store, bucket or key that is wrong ends the check with one line', async () => {
      const wrong = { ...environment(), BUCKET_NAME: 'no-such-bucket' };
      expect(await run(['check'], wrong)).toMatchObject({
        status: 1,
        out: '',
        err: `there is no bucket no-such-bucket at ${new URL(proxy.url).host} (BUCKET_NAME)\n`,
      });
    });
  });

  describe('setup', () => {
    test('setup lets the page read by CORS and keeps the rules of others', async () => {
      const Bucket = options.bucket;
      const theirs = { ID: 'theirs', AllowedMethods: ['PUT'], AllowedOrigins: ['https://theirs.example'] };
      await client().send(new PutBucketCorsCommand({ Bucket, CORSConfiguration: { CORSRules: [theirs] } }));
      await run(['setup'], environment({ PUBLIC_URL: 'https://old.example' }));
      const { status, lines } = await run(
        ['setup'],
        environment({ CORS_ORIGINS: 'https://a.example/page, http://localhost:5000' }),
      );
      expect(status).toBe(0);
      expect(lines[0]).toBe('ok       CORS: GET and HEAD, with Range, from https://a.example, http://localhost:5000');
      const { CORSRules } = await client().send(new GetBucketCorsCommand({ Bucket }));
      expect(CORSRules).toMatchObject([
        theirs,
        {
          ID: 'img2vid-page',
          AllowedMethods: ['GET', 'HEAD'],
          AllowedOrigins: ['https://a.example', 'http://localhost:5000'],
        },
      ]);
      const preflight = await fetch(`${options.endpoint}/${Bucket}/tasks/1/video-1.mp4`, {
        method: 'OPTIONS',
        headers: {
          origin: 'https://a.example',
          'access-control-request-method': 'GET',
          'access-control-request-headers': 'range',
        },
      });
      expect(preflight.headers.get('access-control-allow-origin')).toBe('https://a.example');
    });

    test('setup notes that a store has no lifecycle rules, and that no page is named', async () => {
      const { status, lines } = await run(['setup'], environment());
      expect(status).toBe(0);
      expect(lines).toEqual([
        'note     CORS: unchanged; set PUBLIC_URL or CORS_ORIGINS to let the page there read',
        expect.stringMatching(
          /^note {5}lifecycle: not supported \(.*GetBucketLifecycleConfiguration.*\); nothing is deleted automatically/,
        ),
      ]);
    });

    /** Lifecycle rules as a store keeps them; a real one with them was tried by hand. */
    const THEIRS =
      '<Rule><ID>theirs</ID><Status>Enabled</Status><Filter><Prefix>logs/</Prefix></Filter><Expiration><Days>7</Days></Expiration></Rule>';
    function lifecycle({
      rules,
      take = (xml: string) => xml,
    }: {
      rules: string;
      take?: (xml: string) => string | undefined;
    }) {
      const kept = { rules };
      proxy.fault = async (request) => {
        if (!request.url!.includes('lifecycle')) return undefined;
        if (request.method === 'PUT') {
          const body = await buffer(request);
          expect(request.headers['content-md5']).toBe(createHash('md5').update(body).digest('base64'));
          const taken = take(body.toString());
          if (taken === undefined) return { status: 400, body: errorBody('MalformedXML') };
          kept.rules = taken.match(/<Rule>.*<\/Rule>/s)?.[0] ?? '';
          return { status: 200, body: '' };
        }
        return kept.rules
          ? { status: 200, body: `<LifecycleConfiguration>${kept.rules}</LifecycleConfiguration>` }
          : { status: 404, body: errorBody('NoSuchLifecycleConfiguration') };
      };
      return kept;
    }
    const ids = ({ rules }: { rules: string }) => [...rules.matchAll(/<ID>(.*?)<\/ID>/g)].map(([, id]) => id);

    test('setup expires tasks and unfinished uploads and keeps the rules of others', async () => {
      const kept = lifecycle({ rules: THEIRS });
      await run(['setup'], environment());
      const { status, lines } = await run(['setup'], environment({ RETAIN_DAYS: '7' }));
      expect([status, lines[1]]).toEqual([
        0,
        'ok       lifecycle: tasks/ expires after 7 days, unfinished uploads after 1 day',
      ]);
      expect(ids(kept)).toEqual(['theirs', 'img2vid-retain', 'img2vid-uploads']);
      expect(kept.rules).toContain('<Prefix>logs/</Prefix>');
      expect(kept.rules).toMatch(/<Prefix>tasks\/<\/Prefix>/);
      expect(kept.rules).toMatch(/<DaysAfterInitiation>1</);
    });

    test.each([
      ['refuses', (xml: string) => (xml.includes('AbortIncomplete') ? undefined : xml)],
      ['drops', (xml: string) => xml.replace(/<AbortIncomplete.*<\/AbortIncompleteMultipartUpload>/s, '')],
    ])('setup expires tasks alone at a store that %s the rule for uploads', async (_, take) => {
      const kept = lifecycle({ rules: '', take });
      const { status, lines } = await run(['setup'], environment());
      expect([status, lines[1]]).toEqual([
        0,
        'ok       lifecycle: tasks/ expires after 30 days; unfinished uploads stay: the store has no rule for them',
      ]);
      expect(ids(kept)).toEqual(['img2vid-retain']);
    });

    test('setup writes nothing where the rules of others can’t be read', async () => {
      const denied = { status: 403, body: errorBody('AccessDenied') };
      faultIf(({ method, url }) => method === 'GET' && /cors|lifecycle/.test(url!), denied);
      const { status, lines } = await run(['setup'], environment({ PUBLIC_URL: 'https://a.example' }));
      expect(status).toBe(1);
      expect(lines).toEqual([
        expect.stringMatching(/^missing {2}CORS: the access key may not s3:GetBucketCORS in the bucket/),
        expect.stringMatching(
          /^missing {2}lifecycle: the access key may not s3:GetLifecycleConfiguration in the bucket/,
        ),
      ]);
      expect(proxy.requests.filter((asked) => asked.startsWith('PUT'))).toEqual([]);
    });
  });
});
