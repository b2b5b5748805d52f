/**
 * Where pictures and videos are stored. Keys are paths with `/`:
 *
 *   tasks/<task id>/upload                 the picture that came with a request
 *                   imagine.json           which bridges were asked: intent first, then the bridge's id
 *                   imagine-ask-2.json …   the claim to ask the second bridge, and so on
 *                   imagine-answer.json    the answer of a bridge that answers with pictures, until they are saved
 *                   imagine-1..4.png       the pictures of the imagine; the first one is written last
 *                   still.png              the still, unfitted
 *                   still.jpg              the still, at most 1024 pixels wide and high
 *                   <job id>/video-1.mp4 … grid.mp4
 *                            video-1.jpg … its first frame
 *                            video-1.webp … its preview
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
   * @throws Error the file name is not plain
   */
  link(key: string, expires: number, options?: LinkOptions): Promise<string>;
}

/** What a browser does with a link. */
export interface LinkOptions {
  /** the name that the file is saved under, default the last part of its key: at most 100 ASCII letters, digits, `.`, `-` and `_` */
  filename?: string | undefined;
  /** saves the file instead of showing it */
  download?: boolean | undefined;
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

export const CONTENT_TYPES = {
  mp4: 'video/mp4',
  png: 'image/png',
  jpg: 'image/jpeg',
  webp: 'image/webp',
} as const;

/** The type an object is served with, by the key's ending. Undefined for all others: an upload is never shown by a browser. */
export const contentType = (key: string) =>
  CONTENT_TYPES[/\.(mp4|png|jpg|webp)$/.exec(key)?.[1] as keyof typeof CONTENT_TYPES];

/** The header of a link's response. @throws Error the file name is not plain */
export function contentDisposition(key: string, { filename = key.split('/').at(-1)!, download }: LinkOptions): string {
  if (!/^[\w-][\w.-]{0,99}$/.test(filename)) throw new Error(`not a file name: ${JSON.stringify(filename)}`);
  return `${download || !contentType(key) ? 'attachment' : 'inline'}; filename="${filename}"`;
}

/** The JSON of an object, or undefined if there is none. */
export async function getJson(bucket: Bucket, key: string): Promise<unknown> {
  const bytes = await bucket.get(key);
  return bytes && JSON.parse(bytes.toString('utf8'));
}
