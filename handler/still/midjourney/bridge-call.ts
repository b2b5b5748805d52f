/** A bridge's JSON over HTTP: one timeout, one reading of statuses, for all bridges. */
import { ofetch } from 'ofetch';
import * as v from 'valibot';
import { deadline } from '../../../core/deadline.ts';
import { JobError } from '../../../core/job.ts';
import { SECOND } from '../../../core/time.ts';
import { type BridgeErrorCode, bridgeError, codeOf } from './bridge.ts';

export const CALL_TIMEOUT = 30 * SECOND;

/** An answer with another status than 2xx. */
export class BadStatus extends Error {
  constructor(
    readonly status: number,
    answer: unknown,
    /** milliseconds that the server asks to wait */
    readonly retryAfter: number | undefined,
  ) {
    super(`status ${status}: ${shown(answer)}`);
    this.name = 'BadStatus';
  }
}

const STATUSES: Partial<Record<number, BridgeErrorCode>> = {
  400: 'invalid_input',
  401: 'no_credit',
  402: 'no_credit',
  403: 'no_credit',
  413: 'invalid_input',
  422: 'invalid_input',
  429: 'rate_limited',
};

/** Statuses that say only that something is wrong with the request; the words with it say what. */
const VAGUE = [400, 403, 422];

export interface CallOptions {
  /** sent as a POST */
  body?: object;
  query?: Record<string, string | number>;
  signal?: AbortSignal;
}

export type Call = (path: string, options?: CallOptions) => Promise<unknown>;

/**
 * Calls a bridge; never twice, for an imagine is a payment, and looks are repeated by whoever waits.
 * @param said finds the bridge's own words in a refusal
 * @param statuses what statuses mean at this bridge, in whatever words
 */
export function createCall({
  baseUrl,
  headers,
  said,
  statuses = {},
}: {
  baseUrl: string;
  headers: Record<string, string>;
  said: (answer: unknown) => string | undefined;
  statuses?: Partial<Record<number, BridgeErrorCode>>;
}): Call {
  return async (path, { body, query, signal = new AbortController().signal } = {}) => {
    const limited = deadline(signal, CALL_TIMEOUT);
    try {
      const response = await ofetch.raw(path, {
        baseURL: baseUrl,
        headers,
        method: body ? 'POST' : 'GET',
        ...(body && { body }),
        ...(query && { query }),
        retry: 0,
        redirect: 'manual', // it would carry the key and the prompt elsewhere
        ignoreResponseError: true,
        signal: limited.signal,
      });
      const { status, _data: answer } = response;
      if (status >= 200 && status < 300) return answer;
      const error = new BadStatus(status, answer, retryAfter(response.headers));
      if (status >= 500 || status === 408) throw error; // it may have been taken
      const words = said(answer);
      const code = statuses[status] ?? STATUSES[status] ?? 'upstream_error';
      const isClear = statuses[status] !== undefined || !VAGUE.includes(status);
      throw bridgeError(isClear ? code : codeOf(words ?? '', code), words, error);
    } finally {
      limited.clear();
    }
  };
}

/** How long the server that said this asks to wait, in milliseconds. */
export function getRetryAfter(error: unknown): number | undefined {
  if (error instanceof BadStatus) return error.retryAfter;
  return error instanceof JobError && error.cause instanceof BadStatus ? error.cause.retryAfter : undefined;
}

/** Retry-After: seconds, or a date. */
function retryAfter(headers: Headers): number | undefined {
  const text = headers.get('retry-after');
  if (!text) return undefined;
  const ms = /^\d+$/.test(text.trim()) ? Number(text) * SECOND : Date.parse(text) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/** The status of a call that was refused, if it was one. */
export const statusOf = (error: unknown) =>
  error instanceof JobError && error.cause instanceof BadStatus ? error.cause.status : undefined;

/** A look at an imagine of which the bridge knows nothing. It may have been paid for. */
export const forgottenImagine = (cause?: unknown) =>
  new JobError('lost', 'the Midjourney bridge has forgotten the prompt', { cause });

/** @throws JobError upstream_error, its cause telling what was answered instead */
export function parse<S extends v.GenericSchema>(schema: S, answer: unknown): v.InferOutput<S> {
  const { success, output } = v.safeParse(schema, answer);
  if (success) return output;
  throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
}

export const unexpectedAnswer = (answer: unknown) => new Error(`an answer of unknown form: ${shown(answer)}`);

const shown = (answer: unknown) => String(JSON.stringify(answer)).slice(0, 500);

/** A stand-in on this machine has no rate limit. */
export const pollInterval = (ms: number, baseUrl: string) =>
  /^(127(\.\d+){3}|localhost|\[::1\])$/.test(new URL(baseUrl).hostname) ? Math.min(200, ms) : ms;

/** 0–1, of a bridge's percentage, whether it is a number, '37' or '37%'. */
export const toFraction = (percentage: unknown) =>
  Math.min(1, Math.max(0, Number.parseFloat(String(percentage)) / 100 || 0));
