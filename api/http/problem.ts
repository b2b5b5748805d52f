/** Errors as callers see them: RFC 9457, application/problem+json. */
import { STATUS_CODES } from 'node:http';
import type { Context } from 'hono';
import type { PROBLEMS, ProblemCode } from '../../core/problems.ts';
import type { FieldNote } from '../../core/request.ts';

type StatusOf<C extends ProblemCode> = (typeof PROBLEMS)[C]['status'];

export interface ProblemOptions {
  /** every wrong field, with what is allowed */
  errors?: FieldNote[];
  headers?: Record<string, string>;
  cause?: unknown;
}

/** Thrown by routes; rendered by the app. Everything in it but the cause is meant for the caller. */
export class Problem<C extends ProblemCode = ProblemCode> extends Error {
  readonly errors: FieldNote[] | undefined;
  readonly headers: Record<string, string>;

  /** @param code one word for programs, of PROBLEMS */
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

export function renderProblem(c: Context, problem: Problem): Response {
  const headers = { 'content-type': 'application/problem+json', ...problem.headers };
  return c.body(JSON.stringify(bodyOf(problem)), problem.status, headers);
}

export const bodyOf = ({ status, code, detail, errors }: Problem) => ({
  type: 'about:blank',
  title: STATUS_CODES[status],
  status,
  detail,
  code,
  ...(errors && { errors }),
});
