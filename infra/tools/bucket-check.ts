/** `npm run bucket -- check`: whether the bucket can do all that the service does with it. */
import assert, { AssertionError } from 'node:assert';
import { randomBytes, randomUUID } from 'node:crypto';
import { AbortMultipartUploadCommand, CreateMultipartUploadCommand, type S3Client } from '@aws-sdk/client-s3';
import { type Bucket, StorageError } from '../../core/bucket/bucket.ts';
import type { S3Options } from '../../core/bucket/s3.ts';
import { MINUTE, SECOND } from '../../core/time.ts';

const VIDEO = Buffer.from('a film of 26 letters long.');
/** Larger than one part of an upload. Bytes. */
const LARGE = 9 * 2 ** 20;
const LINK_LIFETIME = 10 * MINUTE;
const LINK_TIMEOUT = 30 * SECOND;

/** Prints the outcome of one step: it works, it works but the operator should know something, or it does not. */
export type Report = (state: 'ok' | 'note' | 'missing', text: string) => void;

export interface S3Access {
  s3: S3Options;
  client: S3Client;
  bucket: Bucket;
}

/** @throws StorageError where nothing at all works: wrong store, bucket or keys */
export async function checkBucket({ s3, client, bucket }: S3Access, report: Report): Promise<void> {
  const folder = `tasks/check-${randomUUID()}`;
  const key = `${folder}/video-1.mp4`;
  /** @param work may return a note for the operator */
  const step = async (name: string, work: () => Promise<unknown>) => {
    try {
      const note = await work();
      if (typeof note === 'string') report('note', note);
      else report('ok', name);
    } catch (error) {
      if (!(error instanceof StorageError) && !(error instanceof AssertionError)) throw error;
      report('missing', `${name}: ${error.message}`);
    }
  };

  await bucket.get(key).catch((error) => {
    if (!isDenied(error)) throw error; // one line is enough where every step would fail
  });
  try {
    await step('writes (s3:PutObject)', () => bucket.put(key, VIDEO));
    await step('reads (s3:GetObject)', async () => assert(isVideo(await bucket.get(key)), 'other bytes came back'));
    await step('creates an object once, also when five do at once (If-None-Match)', () => createsOnce(bucket, folder));
    await step('uploads in parts, and gives up an upload (s3:AbortMultipartUpload)', async () => {
      await uploadsLargeFile(bucket, `${folder}/large`);
      const object = { Bucket: s3.bucket, Key: `${folder}/given-up` };
      const { UploadId } = await client.send(new CreateMultipartUploadCommand(object));
      await client.send(new AbortMultipartUploadCommand({ ...object, UploadId: UploadId! }));
    });
    const link = new URL(await bucket.link(key, Math.floor((Date.now() + LINK_LIFETIME) / SECOND)));
    await step('links open in a browser, also in parts', () => linkOpens(link));
    await step('links that were changed are refused', () => changedLinksAreRefused(link));
    await step('nobody can read without a link', () => isPrivate(link));
  } finally {
    await step('lists and deletes (s3:ListBucket, s3:DeleteObject)', async () => {
      await bucket.delete(folder);
      assert(!(await bucket.has(key)), 'the deleted object still exists');
    });
  }
}

export const isDenied = (error: unknown): error is StorageError =>
  error instanceof StorageError && ['AccessDenied', 'Forbidden'].includes(error.code);

const isVideo = (bytes: Buffer | undefined) => bytes?.equals(VIDEO);

async function createsOnce(bucket: Bucket, folder: string) {
  const consequence = 'two jobs of one task would both believe that theirs is the result';
  const wins = await Promise.all(Array.from({ length: 5 }, (_, i) => bucket.create(`${folder}/created`, `${i}`)));
  const count = wins.filter(Boolean).length;
  assert(count === 1, `${count} of 5 created the same object; ${consequence}`);
  assert(!(await bucket.create(`${folder}/created`, 'again')), `an existing object was replaced; ${consequence}`);
}

async function uploadsLargeFile(bucket: Bucket, key: string) {
  const bytes = randomBytes(LARGE);
  await bucket.put(key, bytes);
  assert((await bucket.get(key))?.equals(bytes), 'other bytes came back');
}

async function linkOpens(link: URL) {
  const response = await read(link);
  const isRunPod = /^s3api-.*\.runpod\.io$/.test(link.hostname);
  const reason = isRunPod
    ? 'RunPod’s own S3 (network volumes) has no links; use another store for the bucket'
    : `a link answers with status ${response.status}; the store must support presigned URLs (Signature Version 4)`;
  assert(response.status === 200, reason);
  assert(isVideo(Buffer.from(await response.arrayBuffer())), 'a link returns other bytes');
  const { headers } = response;
  const encoding = headers.get('content-encoding');
  assert(encoding === null, `the object comes back with content encoding ${encoding}, which no browser plays`);
  const isMp4 = headers.get('content-type') === 'video/mp4';
  assert(isMp4, 'a link does not set the content type (response-content-type)');
  const isNamed = headers.get('content-disposition') === 'inline; filename="video-1.mp4"';
  assert(isNamed, 'a link does not set the file name (response-content-disposition)');
  const range = await read(link, { range: 'bytes=2-5' });
  const isPart = range.status === 206 && (await range.text()) === 'film';
  assert(isPart, 'no Range requests: a browser could not seek in a video');
}

async function changedLinksAreRefused(link: URL) {
  for (const [name, value] of link.searchParams) {
    if (!/^X-Amz-(Signature|Expires|Date)$/.test(name)) continue;
    const changed = new URL(link);
    changed.searchParams.set(name, (value[0] === '7' ? '8' : '7') + value.slice(1));
    assert((await read(changed)).status >= 400, `a link with another ${name} opens`);
  }
  const other = new URL(link);
  other.pathname = other.pathname.replace('video-1.mp4', 'created');
  assert((await read(other)).status >= 400, 'a link opens another object');
}

const isPrivate = async ({ origin, pathname }: URL): Promise<string | undefined> =>
  (await read(new URL(pathname, origin))).ok
    ? 'the bucket is public: anyone who guesses a URL can read it without a link'
    : undefined;

const read = (url: URL, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(url, { headers, redirect: 'manual', signal: AbortSignal.timeout(LINK_TIMEOUT) }).catch(() =>
    assert.fail(`a link to ${url.host} can’t be fetched`),
  );
