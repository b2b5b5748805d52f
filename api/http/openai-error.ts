/** Errors in OpenAI's form, which its clients read, on the paths below /v1. */
import type { FieldNote } from '../../core/invalid-request.ts';
import type { OpenAiError } from '../../core/openai-responses.ts';
import type { ProblemCode } from '../../core/problems.ts';

export const isOpenAiPath = (path: string) => /^\/v1(\/|$)/.test(path);

/** The clients have an exception class for each of these statuses, and none for ours. */
const STATUSES: Record<number, number> = { 402: 429, 422: 400 };
/** Codes that clients know; the others keep our names. */
const CODES: Partial<Record<ProblemCode, string>> = {
  unauthorized: 'invalid_api_key',
  budget_spent: 'insufficient_quota',
  too_many_requests: 'rate_limit_exceeded',
  too_many_submissions: 'rate_limit_exceeded',
  too_many_open: 'rate_limit_exceeded',
  too_many_uploads: 'rate_limit_exceeded',
  uploads_full: 'rate_limit_exceeded',
  too_many_guesses: 'rate_limit_exceeded',
};

interface Failure {
  code: ProblemCode;
  status: number;
  message: string;
  options: { errors?: FieldNote[] };
}

/**
 * @returns status, headers and body of the response. By default the clients repeat each request that gets 409 or 429; `x-should-retry`
 * stops those that would get the same again
 */
export function openAiError({ code, status: own, message, options: { errors } }: Failure) {
  const status = STATUSES[own] ?? own;
  const name = CODES[code] ?? code;
  const isFinal = status === 409 || code === 'budget_spent' || code === 'too_many_guesses';
  const body: OpenAiError = {
    error: { message, type: typeOf(status, name), param: errors?.[0]?.field ?? null, code: name },
  };
  return { status, headers: isFinal ? { 'x-should-retry': 'false' } : {}, body };
}

function typeOf(status: number, code: string) {
  if (code === 'insufficient_quota') return code;
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}
