/**
 * Where pictures and videos are stored. Keys are paths with `/`:
 *
 *   tasks/<task id>/upload                 the picture that came with a request
 *                   imagine.json           which Midjourney bridges were asked: intent first, then the bridge's id
 *                   imagine-ask-2.json …   the claim to ask the second bridge, and so on
 *                   imagine-1..4.png       the four pictures of the imagine
 *                   still.png              the still, unfitted
 *                   <job id>/video-1.mp4 … grid.mp4
 *                   attempt-1..3.json      attempt slots: workers that run the task, or died on it
 *                   result.json            created once, by the first job to finish: its output, or an error that is final
 */

import { SECOND } from '../time.ts';

/** Each method except `link` may throw StorageError. */
export interface Bucket {
  /** Writes a whole object; a concurrent reader sees all of it or nothing. */
  put(key: string, body: Uint8Array | string): Promise<void>;
  /** Writes an object unless the key is taken. @returns false if another writer's object is there. After a throw it may exist. */
  create(key: string, body: string): Promise<boolean>;
  /** The object's bytes, or undefined if there is none. @param limit at most this many bytes, from the first one; > 0 */
  get(key: string, limit?: number): Promise<Buffer | undefined>;
  has(key: string): Promise<boolean>;
  /** Deletes an object and everything below it as a folder. A missing object is no error. */
  delete(key: string): Promise<void>;
  /**
   * A signed URL. Anyone who has it can read the object until it expires.
   * @param expires seconds since 1970
   */
  link(key: string, expires: number): Promise<string>;
}

/** Pauses before each retry, in milliseconds: 2 minutes in all. */
export const RETRY_DELAYS = [0.5, 1, 2, 4, 8, 12, 15, 18, 20, 20, 20].map((seconds) => seconds * SECOND);

/**
 * Thrown when the store refuses a request, or stays unavailable for the whole retry budget. The message is one line that names the
 * problem and the remedy. It contains no secrets, links or keys.
 */
export class StorageError extends Error {
  constructor(
    message: string,
    /** the store's error code, such as AccessDenied, the network's, such as ECONNREFUSED, or the disk's, such as ENOSPC */
    readonly code: string,
    /** how many times the request was sent */
    readonly attempts: number,
  ) {
    super(message);
    this.name = 'StorageError';
  }
}

const SEGMENT = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;

/** Whether a key is well-formed: at most 512 characters of plain segments, none of which leads out of the bucket. */
export const isBucketKey = (key: string) =>
  key.length <= 512 && key.split('/').every((segment) => SEGMENT.test(segment));

/** @throws Error unless the key is well-formed */
export function assertBucketKey(key: string): void {
  if (!isBucketKey(key)) throw new Error(`not a bucket key: ${JSON.stringify(key)}`);
}

/** The type an object is served with, by the key's ending. Undefined for all others: an upload is never shown by a browser. */
export function contentType(key: string): 'video/mp4' | 'image/png' | undefined {
  if (key.endsWith('.mp4')) return 'video/mp4';
  if (key.endsWith('.png')) return 'image/png';
  return undefined;
}

/** The JSON of an object, or undefined if there is none. */
export async function getJson(bucket: Bucket, key: string): Promise<unknown> {
  const bytes = await bucket.get(key);
  return bytes && JSON.parse(bytes.toString('utf8'));
}
