/** Limits the memory of request bodies: without it, clients that never finish their uploads fill it. */
import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';
import { ClientDisconnected, Problem, unavailable } from './problem.ts';

/** Bytes of one API key's bodies: three of the largest. */
const MAX_KEY_BYTES = 64_000_000;
/** Bytes of all bodies in this process. */
const MAX_BYTES = 256_000_000;

declare module 'hono' {
  interface ContextVariableMap {
    /** gives back what the body of the request has reserved, before the response ends; undefined: it was small */
    releaseBody: (() => void) | undefined;
  }
}

export const tooManyUploads = () =>
  new Problem('too_many_uploads', `uploads in progress with this API key: at most ${MAX_KEY_BYTES / 1e6} MB`, {
    headers: { 'retry-after': '5' },
  });

/**
 * @returns a function that opens the account of one request's body. The account is closed with the response, or by `releaseBody`.
 * It is a function that counts more bytes, and throws a Problem, 429 if the key's bodies have too many, 503 if all bodies have too many,
 * or ClientDisconnected
 */
export function createBodyBudget() {
  let total = 0;
  const byKey = new Map<string, number>();

  return (c: Context): ((bytes: number) => void) => {
    const { outgoing } = c.env as HttpBindings;
    const { id } = c.get('key');
    let held = 0;
    const add = (bytes: number) => {
      const sum = (byKey.get(id) ?? 0) + bytes;
      if (sum > 0) byKey.set(id, sum);
      else byKey.delete(id);
      total += bytes;
      held += bytes;
    };
    const release = () => add(-held);
    c.set('releaseBody', release);
    outgoing.once('close', release);
    return (bytes) => {
      if (outgoing.closed) throw new ClientDisconnected();
      if ((byKey.get(id) ?? 0) + bytes > MAX_KEY_BYTES) throw tooManyUploads();
      if (total + bytes > MAX_BYTES) throw unavailable('too many uploads are in progress; try again');
      add(bytes);
    };
  };
}
