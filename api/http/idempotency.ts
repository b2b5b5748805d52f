/** The header Idempotency-Key: a retry of a request with the same key returns the task that the first one created. */
import { createHash } from 'node:crypto';
import type { Context } from 'hono';
import type { Request } from '../../core/parameters.ts';
import type { Task } from '../store/task.ts';
import { invalidInput, Problem } from './problem.ts';

export const IDEMPOTENCY_KEY = /^[!-~]{1,255}$/;

export type Idempotency = Pick<Task, 'idempotency_key' | 'idempotency_hash'>;

export const NO_KEY: Idempotency = { idempotency_key: null, idempotency_hash: null };

/**
 * @returns the client's key, if there is one, and a hash of the request: its parsed parameters without defaults and random seed, in any
 * order and content type, and its picture
 * @throws Problem 422
 */
export function readIdempotency(c: Context, request: Request, image: Uint8Array | undefined): Idempotency {
  const key = c.req.header('idempotency-key');
  if (key === undefined) return NO_KEY;
  if (!IDEMPOTENCY_KEY.test(key))
    throw invalidInput([
      { field: 'Idempotency-Key', message: 'must be 1 to 255 visible ASCII characters, without spaces' },
    ]);
  return { idempotency_key: key, idempotency_hash: requestHash(request, image) };
}

/** The hash does not depend on the order of the parameters, which another version of the parser may change. */
export function requestHash(request: Request, image: Uint8Array | undefined): string {
  const sorted = Object.entries(request).sort(([a], [b]) => (a < b ? -1 : 1)); // the values are text and numbers
  const picture = image && createHash('sha256').update(image).digest('hex');
  return createHash('sha256')
    .update(JSON.stringify([sorted, picture]))
    .digest('hex');
}

export const conflict = ({ id, created_at }: Pick<Task, 'id' | 'created_at'>) =>
  new Problem(
    'idempotency_conflict',
    `this Idempotency-Key belongs to task ${id} of ${new Date(created_at).toISOString()}, created with other parameters or another picture; use a new key`,
  );
