/** Error responses: RFC 9457, application/problem+json, but on some paths in the form of their clients. */
import { STATUS_CODES } from 'node:http';
import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import type { FieldNote } from '../../core/invalid-request.ts';
import { PROBLEMS, type ProblemCode } from '../../core/problems.ts';
import { isMcpPath, jsonRpcError } from './json-rpc-error.ts';
import { isOpenAiPath, openAiError } from './openai-error.ts';

interface ProblemOptions {
  /** every invalid field, with the allowed values */
  errors?: FieldNote[];
  headers?: Record<string, string>;
  cause?: unknown;
}

/** Thrown by routes, rendered by the app. Clients see everything but the cause. */
export class Problem extends Error {
  constructor(
    readonly code: ProblemCode,
    detail: string,
    readonly options: ProblemOptions = {},
  ) {
    super(detail, options);
    this.name = 'Problem';
  }

  get status() {
    return PROBLEMS[this.code].status;
  }
}

/** The client has disconnected before its request was complete, so nobody reads the response. */
export class ClientDisconnected extends Error {
  constructor(options?: ErrorOptions) {
    super('client disconnected', options);
    this.name = 'ClientDisconnected';
  }
}

/** @returns a 422 that names every invalid field */
export function invalidInput(
  errors: FieldNote[],
  code: 'invalid_input' | 'image_rejected' | 'no_bridge' = 'invalid_input',
): Problem {
  const detail = errors.map(({ field, message }) => `${field}: ${message}`).join('; ');
  return new Problem(code, detail.length > 1000 ? `${detail.slice(0, 1000)}…` : detail, { errors });
}

/** @returns a 503 to retry in 5 s */
export const unavailable = (detail: string, cause?: unknown) =>
  new Problem('unavailable', detail, { headers: { 'retry-after': '5' }, cause });
export const bucketUnavailable = () => unavailable('the storage of pictures and videos can’t be reached; try again');
export const storeUnavailable = () => unavailable('the database can’t be used now; try again');

export function renderProblem(c: Context, problem: Problem): Response {
  if (isOpenAiPath(c.req.path)) {
    const { status, headers, body } = openAiError(problem);
    return c.json(body, status as ContentfulStatusCode, { ...problem.options.headers, ...headers });
  }
  const body = problemBody(problem);
  if (isMcpPath(c.req.path))
    return c.json(jsonRpcError(body, problem.options.cause), problem.status, problem.options.headers);
  const headers = { 'content-type': 'application/problem+json', ...problem.options.headers };
  return c.body(JSON.stringify(body), problem.status, headers);
}

export const problemBody = ({ status, code, message, options: { errors } }: Problem) => ({
  type: 'about:blank',
  title: STATUS_CODES[status],
  status,
  detail: message,
  code,
  ...(errors && { errors }),
});
