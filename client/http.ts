/** One request to the API, with retries, and its errors. */
import { parseRetryAfter } from '../core/retry-after.js';
import { SECOND } from '../core/time.ts';
import { sleep } from './sleep.js';
import type { ProblemCode } from './types.ts';

/** Until a response begins, and its JSON has arrived, plus the wait that the request asks for. An upload has up to 20 MB. */
const TIMEOUT = 120 * SECOND;
/** Pauses before retries begin with this and double. Up to half of each is random. */
const FIRST_PAUSE = 0.5 * SECOND;
/** A server that asks for a longer pause gets no retry. */
const MAX_PAUSE = 60 * SECOND;

const RETRYABLE_STATUSES = [429, 502, 503, 504];

/** Thrown where the API refuses a request or cannot be reached. Its message is for people. */
export class ApiError extends Error {
  /** HTTP status; 0 where there was no response */
  readonly status: number;
  /** for programs; `unreachable`: no response, `unexpected`: a response from something else, such as a proxy */
  readonly code: ProblemCode | 'unreachable' | 'unexpected';
  /** every wrong field, with what is allowed */
  readonly errors: { field: string; message: string }[];
  /** the pause that the server asks for before a retry; seconds */
  readonly retryAfter: number | undefined;
  /** whether the same request may succeed later */
  retryable: boolean;

  constructor(
    message: string,
    details: Partial<Pick<ApiError, 'status' | 'code' | 'errors' | 'retryAfter' | 'cause'>> = {},
  ) {
    super(message, { cause: details.cause });
    this.name = 'ApiError';
    this.status = details.status ?? 0;
    this.code = details.code ?? 'unreachable';
    this.errors = details.errors ?? [];
    this.retryAfter = details.retryAfter;
    this.retryable = this.status === 0 || RETRYABLE_STATUSES.includes(this.status);
  }
}

export interface CallOptions extends Omit<RequestInit, 'signal'> {
  signal?: AbortSignal | undefined;
  /** attempts after the first */
  retries?: number;
  /** seconds that the response may take because the request asks the server to wait */
  wait?: number;
}

/**
 * @param read reads a successful response. An answer that breaks off is requested again
 * @returns what `read` returns
 * @throws ApiError; or the signal's reason
 */
export async function call<T>(
  send: typeof fetch,
  url: string,
  options: CallOptions,
  read: (response: Response) => T | Promise<T>,
): Promise<T> {
  const { retries = 0, wait = 0, signal, ...init } = options;
  for (let attempt = 0; ; attempt++) {
    try {
      return await sendOnce(send, url, init, TIMEOUT + wait * SECOND, signal, read);
    } catch (error) {
      if (!(error instanceof ApiError && error.retryable) || attempt >= retries) throw error;
      const backoff = FIRST_PAUSE * 2 ** attempt * (1 - Math.random() / 2);
      const pause = Math.max(backoff, (error.retryAfter ?? 0) * SECOND);
      if (pause > MAX_PAUSE) throw error;
      await sleep(pause, signal);
    }
  }
}

async function sendOnce<T>(
  send: typeof fetch,
  url: string,
  init: RequestInit,
  timeout: number,
  signal: AbortSignal | undefined,
  read: (response: Response) => T | Promise<T>,
): Promise<T> {
  const timedOut = new AbortController();
  const timer = setTimeout(() => timedOut.abort(), timeout); // cleared below: AbortSignal.timeout would end the body, too
  try {
    const signals = [timedOut.signal, ...(signal ? [signal] : [])];
    const response = await send(url, { ...init, signal: AbortSignal.any(signals) });
    if (!response.ok) throw await readError(response);
    return await read(response);
  } catch (cause) {
    if (cause instanceof ApiError) throw cause;
    signal?.throwIfAborted();
    const reason = timedOut.signal.aborted ? `no response within ${timeout / SECOND} s` : reasonOf(cause);
    throw new ApiError(`${new URL(url).origin} can’t be reached: ${reason}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

/** Why fetch failed: its own message is always the same, the reason is in the cause. */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  const { code, message: deeper } = (cause ?? {}) as { code?: string; message?: string };
  return code ?? deeper ?? message;
}

export const hasType = ({ headers }: Response, type: string) => headers.get('content-type')?.startsWith(type);

/** The error that an unsuccessful response stands for. */
async function readError(response: Response): Promise<ApiError> {
  const problem = hasType(response, 'application/problem+json') ? parseObject(await response.text()) : undefined;
  return errorOf(response, problem?.detail ? problem : {});
}

/**
 * @param problem absent for a response that is not the API's
 * @returns the error of a response. A redirect is named: it can turn a POST into a GET, and loses the key at another origin
 */
export function errorOf(response: Response, problem: Problem = {}): ApiError {
  const { status, statusText, headers, redirected, url } = response;
  const type = headers.get('content-type');
  const {
    detail = `an unexpected response: ${[status, statusText, type].join(' ').trim()}`,
    code = 'unexpected',
    errors = [],
  } = problem;
  const pause = parseRetryAfter(headers.get('retry-after'));
  return new ApiError(redirected ? `${detail}; redirected to ${new URL(url).origin}` : detail, {
    status,
    code,
    errors,
    retryAfter: pause && Math.ceil(pause / SECOND),
  });
}
type Problem = { detail?: string } & Partial<Pick<ApiError, 'code' | 'errors'>>;

/** @returns the answer of the API. @param field that it always has. @throws ApiError it is something else */
export async function readAnswer<T extends object>(response: Response, field: keyof T & string): Promise<T> {
  const answer = parseObject(await response.text());
  if (!answer || !Object.hasOwn(answer, field)) throw errorOf(response);
  return answer as T;
}

/** @returns undefined: the text is no JSON, or not that of an object or array */
function parseObject(text: string): Problem | undefined {
  try {
    const value = JSON.parse(text);
    return Object(value) === value ? value : undefined;
  } catch {
    return undefined;
  }
}
