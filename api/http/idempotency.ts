/** The header Idempotency-Key: a request that is sent again with it gives the task that it gave at first. */
import { createHash } from 'node:crypto';
import type { Context } from 'hono';
import type { Request } from '../../core/parameters.ts';
import type { Task } from '../store/task.ts';
import { Problem } from './problem.ts';
import { invalid } from './read-body.ts';

export const KEY = /^[!-~]{1,255}$/;

export type Idempotency = Pick<Task, 'idempotency_key' | 'idempotency_hash'>;

export const NO_KEY: Idempotency = { idempotency_key: null, idempotency_hash: null };

/**
 * The caller's key, if it gave one, and a hash of what is asked for: the parameters as they were understood, in any order and form,
 * before defaults and a random seed, and the picture that came with them.
 * @throws Problem 422
 */
export function readIdempotency(c: Context, request: Request, image: Uint8Array | undefined): Idempotency {
  const key = c.req.header('idempotency-key');
  if (key === undefined) return NO_KEY;
  if (!KEY.test(key)) {
    const message = 'must be 1 to 255 visible ASCII characters, without spaces';
    invalid([{ field: 'Idempotency-Key', message }]);
  }
  return { idempotency_key: key, idempotency_hash: requestHash(request, image) };
}

/** The same for the same parameters in any order, also where a later version of this program orders them otherwise. */
export function requestHash(request: Request, image: Uint8Array | undefined): string {
  const sorted = Object.entries(request).sort(([a], [b]) => (a < b ? -1 : 1)); // the values are text and numbers
  const picture = image && createHash('sha256').update(image).digest('hex');
  return createHash('sha256')
    .update(JSON.stringify([sorted, picture]))
    .digest('hex');
}

/** @throws Problem 409 if the key's task came from another request */
export function checkSame(earlier: Task, { idempotency_hash }: Idempotency): void {
  if (earlier.idempotency_hash === idempotency_hash) return;
  const created = new Date(earlier.created_at).toISOString();
  const detail = `this Idempotency-Key stands for task ${earlier.id} of ${created}, which other parameters or another picture made; take a new key`;
  throw new Problem(409, 'idempotency_conflict', detail);
}
