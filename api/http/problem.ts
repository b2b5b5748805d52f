/** Error responses: RFC 9457, application/problem+json. */
import { STATUS_CODES } from 'node:http';
import type { Context } from 'hono';
import type { PROBLEMS, ProblemCode } from '../../core/problems.ts';
import type { FieldNote } from '../../core/request.ts';

type StatusOf<C extends ProblemCode> = (typeof PROBLEMS)[C]['status'];

export interface ProblemOptions {
  /** every invalid field, with the allowed values */
  errors?: FieldNote[];
  headers?: Record<string, string>;
  cause?: unknown;
}

/** Thrown by routes, rendered by the app. Clients see everything but the cause. */
export class Problem<C extends ProblemCode = ProblemCode> extends Error {
  readonly errors: FieldNote[] | undefined;
  readonly headers: Record<string, string>;

  /** @param code a key of PROBLEMS, for programs */
  constructor(
    readonly status: StatusOf<C>,
    readonly code: C,
    readonly detail: string,
    { errors, headers = {}, cause }: ProblemOptions = {},
  ) {
    super(detail, { cause });
    this.name = 'Problem';
    this.errors = errors;
    this.headers = headers;
  }
}

/** @returns a 422 that names every invalid field */
export function invalidInput(
  errors: FieldNote[],
  code: 'invalid_input' | 'image_rejected' | 'no_bridge' = 'invalid_input',
): Problem {
  const detail = errors.map(({ field, message }) => `${field}: ${message}`).join('; ');
  return new Problem(422, code, detail.length > 1000 ? `${detail.slice(0, 1000)}…` : detail, { errors });
}

/** @returns a 503 to retry in 5 s */
export const unavailable = (detail: string, cause?: unknown) =>
  new Problem(503, 'unavailable', detail, { headers: { 'retry-after': '5' }, cause });
export const bucketUnavailable = () => unavailable('the pictures can’t be reached; try again');

export function renderProblem(c: Context, problem: Problem): Response {
  const headers = { 'content-type': 'application/problem+json', ...problem.headers };
  return c.body(JSON.stringify(problemBody(problem)), problem.status, headers);
}

/** The JSON of a problem. */
export const problemBody = ({ status, code, detail, errors }: Problem) => ({
  type: 'about:blank',
  title: STATUS_CODES[status],
  status,
  detail,
  code,
  ...(errors && { errors }),
});
