import type { Context } from 'hono';
import { StorageError } from '../../core/bucket/bucket.ts';
import { InvalidRequest } from '../../core/invalid-request.ts';
import { StoreError } from '../store/store.ts';
import { bucketUnavailable, invalidInput, Problem, storeUnavailable } from './problem.ts';

/** What a client learns of an error. The log gets those that are not the client's. */
export function toProblem(c: Context, error: unknown): Problem {
  const log = c.get('log');
  const path = c.req.routePath; // the route's pattern, because the URL may hold a token
  if (error instanceof Problem) {
    if (error.status >= 500) log.error({ error: error.cause, path }, error.message);
    return error;
  }
  if (error instanceof InvalidRequest) return invalidInput(error.errors);
  if (error instanceof StorageError) {
    log.error({ error, path }, 'bucket unavailable');
    return bucketUnavailable();
  }
  if (error instanceof StoreError) {
    log.error({ error, path }, 'store unavailable');
    return storeUnavailable();
  }
  log.error({ error, path }, 'request failed');
  return new Problem('internal', 'internal error; it has been logged');
}
