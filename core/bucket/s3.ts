/** The bucket at an S3 store. Its links lead to the store itself. */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
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
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { SECOND } from '../time.ts';
// biome-ignore-end lint/style/noRestrictedImports: The imports of the S3 client end here.
import { type Bucket, contentType, isBucketKey, StorageError } from './bucket.ts';
import { isRetryable, toStorageError } from './s3-errors.ts';
import { createPresigner } from './s3-presign.ts';

const MIB = 2 ** 20;
const PART = 8 * MIB;
const LONGEST_LINK = 7 * 24 * 3600; // seconds; S3 allows no more

/** Before each new try: 2 minutes in all. */
const WAITS = [0.5, 1, 2, 4, 8, 12, 15, 18, 20, 20, 20].map((seconds) => seconds * SECOND);
/** The default. */
const RETRY_BUDGET = 120 * SECOND;

export interface S3Options {
  bucket: string;
  /** the store's address, without the bucket; AWS's own if absent */
  endpoint?: string | undefined;
  region: string;
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string | undefined;
}

export interface S3Tuning {
  /** no new try is made later than this after the first failure, however long each took; milliseconds */
  retryBudget?: number | undefined;
  /** resolves after so many milliseconds */
  wait?: (time: number) => Promise<unknown>;
  /** how long a connection may take to be made, and be silent; milliseconds */
  timeouts?: { connection: number; silence: number };
  /** milliseconds since 1970 */
  now?: () => number;
}

/** Every call survives an outage of the store of one minute, unless `tuning` has a smaller retry budget. */
export function s3Bucket(options: S3Options, tuning: S3Tuning = {}): Bucket {
  const { bucket: Bucket } = options;
  const { now = Date.now } = tuning;
  const client = s3Client(options, tuning);

  /** What names an object in a request. */
  const place = (key: string) => {
    if (!isBucketKey(key)) throw new Error(`not a bucket key: ${JSON.stringify(key)}`);
    return { Bucket, Key: key };
  };

  let sign: ReturnType<typeof firstLink> | undefined;
  /** One by the SDK, which knows where each store keeps a bucket. It asks nobody. */
  async function firstLink() {
    const link = await getSignedUrl(client, new GetObjectCommand(place('probe')), { signingDate: new Date(now()) });
    return createPresigner(link, 'probe', options.secretAccessKey);
  }

  return {
    async put(key, body) {
      await client.send(new PutObjectCommand({ ...place(key), ...contents(key, body) }));
    },

    async putFile(key, path) {
      const object = place(key);
      const mark = randomUUID();
      const upload = new Upload({
        client,
        params: { ...object, Body: createReadStream(path), ContentType: storedType(key), Metadata: { mark } },
        partSize: PART,
      });
      try {
        await upload.done();
      } catch (error) {
        // Its last request may have done its work although the answer was lost: when it was sent again the upload was over.
        if (isCode(error, 'NoSuchUpload')) {
          const { Metadata } = await client.send(new HeadObjectCommand(object)).catch(() => ({ Metadata: undefined }));
          if (Metadata?.mark === mark) return;
        }
        // Upload itself leaves the parts there when that request fails. Where this fails too, the store's lifecycle rule clears up.
        const { uploadId: UploadId } = upload;
        if (UploadId)
          await client.send(new AbortMultipartUploadCommand({ ...object, UploadId })).catch(() => undefined);
        throw error;
      }
    },

    async create(key, body) {
      const object = place(key);
      const mark = randomUUID();
      const written = { ...contents(key, body), Metadata: { mark } };
      try {
        await client.send(new PutObjectCommand({ ...object, ...written, IfNoneMatch: '*' }));
        return true;
      } catch (error) {
        if (!isCode(error, 'PreconditionFailed')) throw error;
        // What is there may be ours: written by an earlier try whose answer was lost. Its mark tells; where the store keeps no marks,
        // its contents, and only after such a try.
        const found = await client.send(new GetObjectCommand(object)).catch(ifMissing);
        if (found.Metadata?.mark) return found.Metadata.mark === mark;
        return error.attempts > 1 && (await found.Body?.transformToString()) === body;
      }
    },

    async get(key) {
      const { Body } = await client.send(new GetObjectCommand(place(key))).catch(ifMissing);
      return Body && Buffer.from(await Body.transformToByteArray());
    },

    async has(key) {
      // Not by HEAD: its answers have no body, so a bucket that is missing would look like an object that is.
      try {
        await client.send(new GetObjectCommand({ ...place(key), Range: 'bytes=0-0' }));
        return true;
      } catch (error) {
        if (isCode(error, 'InvalidRange')) return true; // an empty object has no first byte
        ifMissing(error);
        return false;
      }
    },

    async delete(key) {
      await client.send(new DeleteObjectCommand(place(key)));
      const folder = { Bucket, Prefix: `${key}/` };
      for (let StartAfter: string | undefined; ; ) {
        const page = await client.send(new ListObjectsV2Command({ ...folder, ...(StartAfter && { StartAfter }) }));
        const Objects = (page.Contents ?? []).map(({ Key }) => ({ Key: Key! }));
        if (Objects.length > 0) {
          const { Errors = [] } = await client.send(
            new DeleteObjectsCommand({ Bucket, Delete: { Objects, Quiet: true } }),
          );
          // One by one they are tried again, or tell why not.
          for (const { Key } of Errors) await client.send(new DeleteObjectCommand({ Bucket, Key: Key! }));
        }
        if (!page.IsTruncated || Objects.length === 0) return;
        StartAfter = Objects.at(-1)!.Key;
      }
    },

    async link(key, expires) {
      place(key);
      sign ??= firstLink();
      const type = contentType(key);
      const second = Math.min(Math.floor(now() / SECOND), expires - 1); // one that has expired stays expired
      return (await sign)({
        key,
        query: {
          'response-content-type': type ?? 'application/octet-stream',
          'response-content-disposition': `${type ? 'inline' : 'attachment'}; filename="${key.split('/').at(-1)}"`,
        },
        date: new Date(second * SECOND),
        expiresIn: Math.min(expires - second, LONGEST_LINK),
      });
    },
  };
}

/**
 * A client that tries again what may pass, and throws nothing but StorageError when the store refuses.
 * @param tuning see there
 */
export function s3Client(
  { bucket, endpoint, region, sessionToken, ...keys }: S3Options,
  tuning: S3Tuning = {},
): S3Client {
  const { retryBudget = RETRY_BUDGET, wait = delay, now = Date.now } = tuning;
  const { timeouts = { connection: 10 * SECOND, silence: 30 * SECOND } } = tuning;
  process.env.AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED ??= 'true'; // the version is pinned to one for this Node
  const host = endpoint ? new URL(endpoint).host : `s3.${region}.amazonaws.com`;
  const client = new S3Client({
    region,
    credentials: { ...keys, ...(sessionToken && { sessionToken }) },
    // Stores that begin with the bucket's name in the host know it in the path, too; only AWS is leaving that.
    ...(endpoint && { endpoint, forcePathStyle: !/\.amazonaws\.com(\.cn)?$/.test(new URL(endpoint).hostname) }),
    // Other stores refuse the checksums that AWS's have learnt lately, or keep their framing as part of the object.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: timeouts.connection, socketTimeout: timeouts.silence },
    maxAttempts: 1, // `persist` does that
  });

  // The SDK would take the store's clock for requests, and keep this machine's for links, which would then not work.
  Object.defineProperty(client.config, 'systemClockOffset', { get: () => now() - Date.now(), set: () => undefined });

  // Answers are read to their end within a try, so that one that breaks off is tried again like a connection that does.
  client.middlewareStack.add(
    (next) => async (args) => {
      const result = await next(args);
      const response = result.response as { body?: unknown };
      if (response.body instanceof Readable) response.body = Readable.from(await buffer(response.body));
      return result;
    },
    { name: 'readWhole', step: 'deserialize', priority: 'low' },
  );

  // Where S3 wants a checksum, older stores know only this one.
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
        const waits = request === 'AbortMultipartUpload' ? WAITS.slice(0, 2) : WAITS; // the upload itself was patient already
        let failing: number | undefined; // since when; milliseconds since 1970
        for (let attempts = 1; ; attempts++) {
          try {
            return await next(args);
          } catch (error) {
            failing ??= now();
            const time = waits[attempts - 1];
            if (time === undefined || now() - failing + time > retryBudget || !isRetryable(error))
              throw toStorageError(error, { request, attempts, bucket, host, region, now });
            await wait(time * (0.75 + Math.random() / 2)); // so that workers don't come back all at once
          }
        }
      },
    { name: 'persist', step: 'build', priority: 'low' }, // each try is signed anew after this
  );
  return client;
}

/** A picture's type would let a browser show what a caller has uploaded: it gets none. */
const storedType = (key: string) =>
  key.endsWith('.json') ? 'application/json' : (contentType(key) ?? 'application/octet-stream');

const contents = (key: string, body: Uint8Array | string) => {
  const Body = typeof body === 'string' ? Buffer.from(body) : body;
  return { Body, ContentLength: Body.length, ContentType: storedType(key) };
};

const isCode = (error: unknown, code: string): error is StorageError =>
  error instanceof StorageError && error.code === code;

/** What is read of an object that is not there. A bare 404 is none of S3's answers, but to HEAD: the address may be wrong. */
function ifMissing(error: unknown): { Body?: undefined; Metadata?: undefined } {
  if (isCode(error, 'NoSuchKey')) return {};
  throw error;
}
