/** The bucket at an S3 store. Its links lead to the store itself. */
import { createHash, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
// biome-ignore-start lint/style/noRestrictedImports: This module is the only importer of the S3 client.
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { getSignedUrl, S3RequestPresigner } from '@aws-sdk/s3-request-presigner';
// biome-ignore-end lint/style/noRestrictedImports: The imports of the S3 client end here.
import { DAY, SECOND } from '../time.ts';
import {
  assertBucketKey,
  type Bucket,
  contentDisposition,
  contentType,
  type LinkOptions,
  RETRY_DELAYS,
  StorageError,
} from './bucket.ts';
import { isRetryable, toStorageError } from './s3-errors.ts';

const PART_BYTES = 8 * 2 ** 20;
/** Seconds; S3 allows no more. */
const MAX_LINK_SECONDS = (7 * DAY) / SECOND;

export interface S3Options {
  bucket: string;
  /** the store's URL, without the bucket; AWS's own if absent */
  endpoint?: string | undefined;
  region: string;
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string | undefined;
}

/** Times are in milliseconds. */
export interface S3Tuning {
  /** how long after its first failure a request may be retried, however long each attempt took; default 2 minutes */
  retryBudget?: number | undefined;
  wait?: (time: number) => Promise<unknown>;
  /** how long a connection may take to open, and how long it may be silent */
  timeouts?: { connection: number; silence: number };
  /** milliseconds since 1970 */
  now?: () => number;
}

/** Every call survives an outage of the store of one minute, unless `tuning` has a smaller retry budget. */
export function s3Bucket(options: S3Options, tuning: S3Tuning = {}): Bucket {
  const { bucket: Bucket } = options;
  const { now = Date.now } = tuning;
  const client = s3Client(options, tuning);
  let presigner: ReturnType<typeof createPresigner> | undefined;

  /** The parameters that name an object in a request. */
  const locate = (key: string) => {
    assertBucketKey(key);
    return { Bucket, Key: key };
  };

  async function get(key: string, limit?: number): Promise<Buffer | undefined> {
    const Range = limit === undefined ? undefined : `bytes=0-${limit - 1}`;
    try {
      const { Body } = await client.send(new GetObjectCommand({ ...locate(key), Range })).catch(ifMissing);
      return Body && Buffer.from(await Body.transformToByteArray());
    } catch (error) {
      if (hasCode(error, 'InvalidRange')) return Buffer.alloc(0); // an empty object has no first byte
      throw error;
    }
  }

  return {
    put: async (key, body) => putObject(client, locate(key), body),

    create: async (key, body) => createObject(client, locate(key), body),

    get,

    async has(key) {
      // Not by HEAD: its responses have no body, so a missing bucket would look like a missing object.
      return (await get(key, 1)) !== undefined;
    },

    async delete(key) {
      await client.send(new DeleteObjectCommand(locate(key)));
      for (let StartAfter: string | undefined; ; ) {
        const page = await client.send(new ListObjectsV2Command({ Bucket, Prefix: `${key}/`, StartAfter }));
        const Objects = (page.Contents ?? []).map(({ Key }) => ({ Key: Key! }));
        if (Objects.length > 0) {
          const Delete = { Objects, Quiet: true };
          const { Errors = [] } = await client.send(new DeleteObjectsCommand({ Bucket, Delete }));
          // Deleted one by one, they are retried, and fail with a reason.
          for (const { Key } of Errors) await client.send(new DeleteObjectCommand({ Bucket, Key: Key! }));
        }
        if (!page.IsTruncated || Objects.length === 0) return;
        StartAfter = Objects.at(-1)!.Key;
      }
    },

    async link(key, expires, options = {}) {
      assertBucketKey(key);
      presigner ??= createPresigner(client, Bucket);
      const second = Math.min(Math.floor(now() / SECOND), expires - 1); // a link that has expired is still signed, as expired
      const signingDate = new Date(second * SECOND);
      return (await presigner)(key, options, { signingDate, expiresIn: Math.min(expires - second, MAX_LINK_SECONDS) });
    },
  };
}

type ObjectName = { Bucket: string; Key: string };

/** Sends a large object in parts. */
async function putObject(client: S3Client, object: ObjectName, body: Uint8Array | string): Promise<void> {
  const mark = randomUUID();
  const params = { ...object, Body: body, ContentType: storedType(object.Key), Metadata: { mark } };
  const upload = new Upload({ client, params, partSize: PART_BYTES });
  try {
    await upload.done();
  } catch (error) {
    // If the response to the last request was lost, its retry finds no upload. The object's mark shows that it succeeded.
    if (hasCode(error, 'NoSuchUpload')) {
      const { Metadata } = await client.send(new HeadObjectCommand(object)).catch(() => ({ Metadata: undefined }));
      if (Metadata?.mark === mark) return;
    }
    // Upload leaves the parts in place when that request fails. If this fails too, the store's lifecycle rule removes them.
    const { uploadId: UploadId } = upload;
    if (UploadId) await client.send(new AbortMultipartUploadCommand({ ...object, UploadId })).catch(() => undefined);
    throw error;
  }
}

/** @returns false if another writer's object is there */
async function createObject(client: S3Client, object: ObjectName, body: string): Promise<boolean> {
  const mark = randomUUID();
  const written = { ...object, Body: body, ContentType: storedType(object.Key), Metadata: { mark } };
  try {
    await client.send(new PutObjectCommand({ ...written, IfNoneMatch: '*' }));
    return true;
  } catch (error) {
    if (!hasCode(error, 'PreconditionFailed')) throw error;
    // The object may be ours, written by an attempt whose response was lost. Its mark shows this. If the store keeps no metadata, equal
    // contents count, but only after a retry.
    const found = await client.send(new GetObjectCommand(object)).catch(ifMissing);
    if (found.Metadata?.mark) return found.Metadata.mark === mark;
    return error.attempts > 1 && (await found.Body?.transformToString()) === body;
  }
}

/**
 * Signs links (Signature Version 4, in the query) without a request to the store. `getSignedUrl` runs the SDK's whole middleware, and
 * a list of tasks has hundreds of links: it signs one, and the SDK's signer alone makes the others from that one's URL.
 */
async function createPresigner(client: S3Client, Bucket: string) {
  const Key = 'probe';
  const { protocol, hostname, port, origin, pathname, searchParams } = new URL(
    await getSignedUrl(client, new GetObjectCommand({ Bucket, Key })),
  );
  const folder = pathname.slice(0, -Key.length);
  const unsigned = Object.fromEntries([...searchParams].filter(([name]) => !name.startsWith('X-Amz-')));
  const address = { method: 'GET', protocol, hostname, ...(port && { port: Number(port) }) };
  const signer = new S3RequestPresigner(client.config);

  return async (key: string, link: LinkOptions, options: { signingDate: Date; expiresIn: number }): Promise<string> => {
    const path = folder + key;
    const query = {
      ...unsigned,
      'response-content-type': contentType(key) ?? 'application/octet-stream',
      'response-content-disposition': contentDisposition(key, link),
    };
    const signed = await signer.presign({ ...address, path, query, headers: {} }, options);
    const parameters = Object.entries(signed.query as Record<string, string>).sort(([a], [b]) => (a < b ? -1 : 1));
    const search = parameters.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
    return `${origin}${path}?${search.join('&')}`;
  };
}

/** A client that retries what may succeed later. It throws only StorageError when the store refuses. */
export function s3Client(
  { bucket, endpoint, region, sessionToken, ...keys }: S3Options,
  tuning: S3Tuning = {},
): S3Client {
  const { retryBudget = 120 * SECOND, wait = delay, now = Date.now } = tuning;
  const { timeouts = { connection: 10 * SECOND, silence: 30 * SECOND } } = tuning;
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true'; // the version is pinned to one for this Node
  const host = endpoint ? new URL(endpoint).host : `s3.${region}.amazonaws.com`;
  const client = new S3Client({
    region,
    credentials: { ...keys, ...(sessionToken && { sessionToken }) },
    // Only AWS is leaving the path style; all other stores support it.
    ...(endpoint && { endpoint, forcePathStyle: !/\.amazonaws\.com(\.cn)?$/.test(new URL(endpoint).hostname) }),
    // Other stores refuse AWS's recent checksums, or keep their framing as part of the object.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: timeouts.connection, socketTimeout: timeouts.silence },
    maxAttempts: 1, // the middleware `retry` below does that
  });

  // The SDK would take the store's clock for requests, but this machine's for links, which would then be invalid.
  Object.defineProperty(client.config, 'systemClockOffset', { get: () => now() - Date.now(), set: () => undefined });

  // A response is read to its end within an attempt, so that one that breaks off is retried like a lost connection.
  client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      const response = result.response as { body?: unknown };
      if (response.body instanceof Readable) response.body = Readable.from(await buffer(response.body));
      return result;
    },
    { name: 'readWhole', step: 'deserialize', priority: 'low' },
  );

  // Where S3 requires a checksum, older stores know only this one.
  client.middlewareStack.add(
    (next, { commandName = '' }) =>
      (args) => {
        const { headers, body } = args.request as { headers: Record<string, string>; body: string };
        if (/^(DeleteObjects|PutBucket\w+)Command$/.test(commandName))
          headers['content-md5'] = createHash('md5').update(body).digest('base64');
        return next(args);
      },
    { name: 'md5', step: 'build' },
  );

  client.middlewareStack.add(
    (next, { commandName = '' }) =>
      async (args) => {
        const request = commandName.replace(/Command$/, '');
        // The upload that is aborted has used its own retry budget.
        const delays = request === 'AbortMultipartUpload' ? RETRY_DELAYS.slice(0, 2) : RETRY_DELAYS;
        let failedAt: number | undefined; // milliseconds since 1970, of the first failure
        for (let attempts = 1; ; attempts++) {
          try {
            return await next(args);
          } catch (error) {
            failedAt ??= now();
            const time = delays[attempts - 1];
            if (time === undefined || now() - failedAt + time > retryBudget || !isRetryable(error))
              throw toStorageError(error, { request, attempts, bucket, host, region, now });
            await wait(time * (0.75 + Math.random() / 2)); // so that workers do not return all at once
          }
        }
      },
    { name: 'retry', step: 'build', priority: 'low' }, // each attempt is signed again after this
  );
  return client;
}

/** A picture's own type would let a browser show what a caller uploaded: an upload gets none. */
const storedType = (key: string) =>
  key.endsWith('.json') ? 'application/json' : (contentType(key) ?? 'application/octet-stream');

const hasCode = (error: unknown, code: string): error is StorageError =>
  error instanceof StorageError && error.code === code;

/** The result of reading a missing object. S3 answers a bare 404 only to HEAD; elsewhere it means that the endpoint may be wrong. */
function ifMissing(error: unknown): { Body?: undefined; Metadata?: undefined } {
  if (hasCode(error, 'NoSuchKey')) return {};
  throw error;
}
