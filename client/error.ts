import type { ProblemCode } from '../core/problems.ts';
import type { FieldNote } from '../core/request.ts';
import type { Again } from './events.js';

const AGAIN = [429, 502, 503, 504];

/** Thrown where the API refuses a request or can't be reached. Its message is for people. */
export class ApiError extends Error {
  /** of the answer; 0 where there was none */
  readonly status: number;
  /** one word for programs; `unreachable`: there was no answer, `unexpected`: one that is not the API's, such as a proxy's */
  readonly code: ProblemCode | 'unreachable' | 'unexpected';
  /** every wrong field, with what is allowed */
  readonly errors: FieldNote[];
  /** when another attempt may succeed; seconds */
  readonly retryAfter: number | undefined;
  /** whether the same request may succeed when it is sent again, and the least pause before that; seconds */
  again: Again;

  constructor(
    message: string,
    told: Partial<Pick<ApiError, 'status' | 'code' | 'errors' | 'retryAfter' | 'cause'>> = {},
  ) {
    super(message, { cause: told.cause });
    this.name = 'ApiError';
    this.status = told.status ?? 0;
    this.code = told.code ?? 'unreachable';
    this.errors = told.errors ?? [];
    this.retryAfter = told.retryAfter;
    this.again = this.status === 0 || AGAIN.includes(this.status) ? { after: this.retryAfter ?? 0 } : false;
  }
}

/** What an answer that is no success says. */
export async function readError(response: Response): Promise<ApiError> {
  const { status, statusText } = response;
  const isOurs = response.headers.get('content-type')?.startsWith('application/problem+json');
  const { detail, code, errors } = isOurs
    ? await response.json()
    : { detail: `an unexpected answer: ${status} ${statusText}`.trim(), code: 'unexpected', errors: [] };
  return new ApiError(detail, { status, code, errors, retryAfter: secondsOf(response.headers.get('retry-after')) });
}

/** @param header seconds, or a date */
function secondsOf(header: string | null): number | undefined {
  if (header === null) return undefined;
  if (/^\d+$/.test(header)) return Number(header);
  const ms = Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, Math.ceil(ms / 1000));
}
