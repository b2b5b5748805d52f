/**
 * Where pictures and videos lie. Keys are paths with `/`:
 *
 *   tasks/<task id>/upload                 the picture that came with a request
 *                   imagine.json           which Midjourney bridges were asked: intent first, then the bridge's id
 *                   imagine-ask-2.json …   who may ask the second one, and so on
 *                   imagine-1..4.png       its four pictures
 *                   still.png              the still, unfitted
 *                   <job id>/video-1.mp4 … grid.mp4
 *                   attempt-1..3.json      workers that are at it, or have died over it
 *                   result.json            created once, by the first job to finish: its output, or an error that won't go away
 */

/** Each method but `link` may throw StorageError. */
export interface Bucket {
  /** Writes a whole object; whoever reads it sees all or nothing. */
  put(key: string, body: Uint8Array | string): Promise<void>;
  /** Writes an object from a local file. */
  putFile(key: string, path: string): Promise<void>;
  /**
   * Writes an object unless there is one; false if there was one of somebody else's. Where it throws, it may have been written.
   */
  create(key: string, body: string): Promise<boolean>;
  /** The object's bytes, or undefined if there is none. */
  get(key: string): Promise<Buffer | undefined>;
  has(key: string): Promise<boolean>;
  /** Deletes an object, or all that lies below a folder; nothing there is no error. */
  delete(key: string): Promise<void>;
  /**
   * An address from which anybody may read the object until it expires.
   * @param expires seconds since 1970
   */
  link(key: string, expires: number): Promise<string>;
}

/**
 * Thrown when the store refuses, or can't be reached for minutes. Its message is one line that says what is wrong and what to do,
 * without secrets, links or keys.
 */
export class StorageError extends Error {
  constructor(
    message: string,
    /** the store's own word, such as AccessDenied, or the network's, such as ECONNREFUSED */
    readonly code: string,
    /** how often it was tried */
    readonly attempts: number,
  ) {
    super(message);
    this.name = 'StorageError';
  }
}

const SEGMENT = /^[A-Za-z0-9_-][A-Za-z0-9._-]*$/;

/** Whether a key is one of ours: plain segments, no way out of the bucket. */
export const isBucketKey = (key: string) =>
  key.length <= 512 && key.split('/').every((segment) => SEGMENT.test(segment));

/** What may be served to a browser, by the key's ending; a caller's upload never is. */
export function contentType(key: string): 'video/mp4' | 'image/png' | undefined {
  if (key.endsWith('.mp4')) return 'video/mp4';
  if (key.endsWith('.png')) return 'image/png';
  return undefined;
}

/** JSON that lies in the bucket, or undefined. */
export async function getJson(bucket: Bucket, key: string): Promise<unknown> {
  const bytes = await bucket.get(key);
  return bytes && JSON.parse(bytes.toString('utf8'));
}
