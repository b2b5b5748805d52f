/** Errors as callers see them: RFC 9457, application/problem+json. */
import { STATUS_CODES } from 'node:http';
import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import type { FieldNote } from '../handler/request.ts';

export interface ProblemOptions {
  /** every wrong field, with what is allowed */
  errors?: FieldNote[];
  headers?: Record<string, string>;
  cause?: unknown;
}

/** Thrown by routes; rendered by the app. Everything in it but the cause is meant for the caller. */
export class Problem extends Error {
  readonly errors: FieldNote[] | undefined;
  readonly headers: Record<string, string>;

  /** @param code one word for programs */
  constructor(
    readonly status: ContentfulStatusCode,
    readonly code: string,
    readonly detail: string,
    { errors, headers = {}, cause }: ProblemOptions = {},
  ) {
    super(detail, { cause });
    this.name = 'Problem';
    this.errors = errors;
    this.headers = headers;
  }
}

export function renderProblem(c: Context, { status, code, detail, errors, headers }: Problem): Response {
  const body = { type: 'about:blank', title: STATUS_CODES[status], status, detail, code, ...(errors && { errors }) };
  return c.body(JSON.stringify(body), status, { 'content-type': 'application/problem+json', ...headers });
}
