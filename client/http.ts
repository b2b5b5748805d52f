/** One request to the API, sent again where that may help. */

import { SECOND } from '../core/time.ts';
import { ApiError, readError } from './error.ts';

/** Until an answer begins, beside what the request asks to wait; an upload is 20 MB. */
const TIMEOUT = 120 * SECOND;
/** Pauses before the next attempts begin with this and double; up to half of each is left to chance. */
const SHORTEST = 0.5 * SECOND;
/** A server that wants to be left alone for longer is not asked again. */
const LONGEST = 60 * SECOND;

export interface CallOptions extends Omit<RequestInit, 'signal'> {
  signal?: AbortSignal | undefined;
  /** attempts after the first */
  retries?: number;
  /** seconds that the answer may take because the request says so */
  wait?: number;
}

/**
 * @returns the answer, a success
 * @throws ApiError; or the signal's reason
 */
export async function call(send: typeof fetch, address: string, options: CallOptions): Promise<Response> {
  const { retries = 0, wait = 0, signal, ...init } = options;
  for (let attempt = 0; ; attempt++) {
    try {
      return await once(send, address, init, TIMEOUT + wait * SECOND, signal);
    } catch (error) {
      if (!(error instanceof ApiError) || error.again === false || attempt >= retries) throw error;
      const pause = Math.max(SHORTEST * 2 ** attempt * (1 - Math.random() / 2), error.again.after * SECOND);
      if (pause > LONGEST) throw error;
      await pauseFor(pause, signal);
    }
  }
}

async function once(
  send: typeof fetch,
  address: string,
  init: RequestInit,
  timeout: number,
  signal: AbortSignal | undefined,
): Promise<Response> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeout);
  let response: Response;
  try {
    response = await send(address, { ...init, signal: AbortSignal.any([late.signal, ...(signal ? [signal] : [])]) });
  } catch (cause) {
    signal?.throwIfAborted();
    const { origin } = new URL(address);
    const why = late.signal.aborted ? `no answer within ${timeout / SECOND} s` : reasonOf(cause);
    throw new ApiError(`${origin} can’t be reached: ${why}`, { cause });
  } finally {
    clearTimeout(timer);
  }
  if (response.ok) return response;
  throw await readError(response);
}

/** fetch says only that it failed; why stands deeper. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  const { code, message: deeper } = (cause ?? {}) as { code?: string; message?: string };
  return code ?? deeper ?? message;
}

/** @throws the signal's reason, as soon as it aborts */
function pauseFor(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const over = () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', over);
      if (signal?.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(over, ms);
    signal?.addEventListener('abort', over);
    if (signal?.aborted) over();
  });
}
