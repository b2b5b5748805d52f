/** Limits the memory of request bodies: without it, clients that never finish their uploads fill it. */
import type { HttpBindings } from '@hono/node-server';
import type { Context } from 'hono';
import { ClientDisconnected, Problem, unavailable } from './problem.ts';

/** Bytes of one API key's bodies: two of the largest, or three pictures as files. */
const MAX_KEY_BYTES = 64_000_000;
/** Bytes of all bodies in this process. */
const MAX_BYTES = 256_000_000;

declare module 'hono' {
  interface ContextVariableMap {
    /** releases the memory reserved for the request's body, before the response ends; undefined: the body was small */
    releaseBody: (() => void) | undefined;
  }
}

export const tooManyUploads = () =>
  new Problem(
    'too_many_uploads',
    `this API key may have at most ${MAX_KEY_BYTES / 1e6} MB of uploads in progress; wait for one to end`,
    {
      headers: { 'retry-after': '5' },
    },
  );

/**
 * @returns a function that counts the bytes of a request's body, until its response ends or `releaseBody` is called. It throws a Problem,
 * 429 if the bodies of the API key have too many, 503 if all bodies have too many, or ClientDisconnected
 */
export function createBodyBudget() {
  let total = 0;
  const byKey = new Map<string, number>();

  return function reserve(c: Context, bytes: number): void {
    const { outgoing } = c.env as HttpBindings;
    const { id } = c.get('key');
    const held = byKey.get(id) ?? 0;
    if (outgoing.closed) throw new ClientDisconnected();
    if (held + bytes > MAX_KEY_BYTES) throw tooManyUploads();
    if (total + bytes > MAX_BYTES) throw unavailable('too many uploads are in progress; try again');
    byKey.set(id, held + bytes);
    total += bytes;

    let isReleased = false;
    const release = () => {
      if (isReleased) return;
      isReleased = true;
      const left = byKey.get(id)! - bytes;
      if (left > 0) byKey.set(id, left);
      else byKey.delete(id);
      total -= bytes;
    };
    c.set('releaseBody', release);
    outgoing.once('close', release);
  };
}
