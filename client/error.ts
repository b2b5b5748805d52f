import type { ProblemCode } from '../core/problems.ts';
import type { FieldNote } from '../core/request.ts';
import { parseRetryAfter } from '../core/retry-after.js';
import { SECOND } from '../core/time.ts';

const RETRYABLE_STATUSES = [429, 502, 503, 504];

/** Thrown where the API refuses a request or cannot be reached. Its message is for people. */
export class ApiError extends Error {
  /** HTTP status; 0 where there was no response */
  readonly status: number;
  /** for programs; `unreachable`: no response, `unexpected`: a response from something else, such as a proxy */
  readonly code: ProblemCode | 'unreachable' | 'unexpected';
  /** every wrong field, with what is allowed */
  readonly errors: FieldNote[];
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

/** The error that an unsuccessful response stands for. */
export async function readError(response: Response): Promise<ApiError> {
  const { status, statusText, headers } = response;
  const isProblem = headers.get('content-type')?.startsWith('application/problem+json');
  const { detail, code, errors } = isProblem
    ? await response.json()
    : { detail: `an unexpected response: ${status} ${statusText}`.trim(), code: 'unexpected', errors: [] };
  const pause = parseRetryAfter(headers.get('retry-after'));
  const retryAfter = pause === undefined ? undefined : Math.ceil(pause / SECOND);
  return new ApiError(detail, { status, code, errors, retryAfter });
}
