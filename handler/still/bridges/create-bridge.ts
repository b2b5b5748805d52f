/** What all bridges share: JSON over HTTP, the meaning of statuses, and the checks of what providers answer. */
import { createFetch } from 'ofetch';
import { Agent, fetch as undiciFetch } from 'undici';
import * as v from 'valibot';
import { JobError } from '../../../core/job.ts';
import { toBridgePrompt } from '../../../core/midjourney-prompt.ts';
import { MAX_PICTURE_BYTES } from '../../../core/picture/limits.ts';
import { redact } from '../../../core/redact.ts';
import { parseRetryAfter } from '../../../core/retry-after.js';
import { SECOND } from '../../../core/time.ts';
import {
  type Bridge,
  type BridgeErrorCode,
  type BridgeName,
  bridgeError,
  classifyMessage,
  type ImagineStatus,
} from './bridge.ts';

export const CALL_TIMEOUT = 30 * SECOND;

/** Bytes: four pictures in base64, and more. An endless answer would fill the memory. */
const MAX_ANSWER = 6 * MAX_PICTURE_BYTES;

/** Of an answer in the log: fields or items on each level, and characters. */
const MAX_SHAPE_PARTS = 10;
const MAX_SHAPE = 500;

export interface BridgeOptions {
  apiKey: string;
  /** default: the provider's public URL */
  baseUrl?: string | undefined;
}

/** One provider's API. Bodies and answers are JSON; `unexpectedAnswer` is for those that are not documented. */
interface BridgeDefinition {
  name: BridgeName;
  baseUrl: string;
  headers: Record<string, string>;
  /** milliseconds between two status requests, by the provider's rate limit */
  pollInterval: number;
  /** the provider's message in an error response */
  errorMessage(answer: unknown): string | undefined;
  /** what an error response means at this provider; its message is then ignored. undefined: as at the others */
  errorCode?(status: number, answer: unknown): BridgeErrorCode | undefined;
  imaginePath: string;
  imagineBody(prompt: string, ref: string): object;
  imagineHeaders?(ref: string): Record<string, string>;
  /**
   * @returns the imagine's id or its pictures, as Bridge.imagine; undefined for an unexpected answer
   * @throws JobError if the provider refuses with a status of 2xx
   */
  readImagine(answer: unknown): string | string[] | undefined;
  /** absent where the answer to an imagine has the pictures */
  status?: {
    /** @param id URI-encoded */
    path(id: string): string;
    read(answer: unknown): ImagineStatus;
  };
  /** default 4 */
  count?: number;
  /** default CALL_TIMEOUT */
  answerTimeout?: number;
  /** default: Midjourney's language */
  writePrompt?: Bridge['writePrompt'];
  unknownFlags?: NonNullable<Bridge['unknownFlags']>;
  extras?(call: Call): Pick<Bridge, 'find' | 'cancel' | 'picture'>;
}

export function createBridge(definition: BridgeDefinition): Bridge {
  const { name, baseUrl, headers, pollInterval, count = 4, answerTimeout = CALL_TIMEOUT } = definition;
  const { imaginePath, imagineBody, imagineHeaders, readImagine, status } = definition;
  const { host, hostname } = new URL(baseUrl);
  const isLoopback = /^(127(\.\d+){3}|localhost|\[::1\])$/.test(hostname); // a simulator, which has no rate limit
  const call = createCall(definition);
  const secrets = Object.values(headers).map((value) => value.replace(/^Bearer /, ''));
  /** A provider's message goes to the caller, and may repeat the operator's key. */
  const withoutKey = ({ code, message, cause }: JobError) => new JobError(code, redact(message, secrets), { cause });

  /** A bridge that stores pictures itself may give a path. */
  const toAbsolute = (url: string) =>
    !url.startsWith('data:') && URL.canParse(url, baseUrl) ? new URL(url, baseUrl).href : url;

  return {
    name,
    pollInterval: isLoopback ? Math.min(200, pollInterval) : pollInterval,
    count,
    answerTimeout,
    writePrompt: definition.writePrompt ?? toBridgePrompt,
    ...(definition.unknownFlags && { unknownFlags: definition.unknownFlags }),

    async imagine(prompt, ref) {
      try {
        const body = imagineBody(prompt, ref);
        const answer = await call(imaginePath, { body, headers: imagineHeaders?.(ref), timeout: answerTimeout });
        const result = readImagine(answer);
        if (!result) throw unexpectedAnswer(answer);
        return typeof result === 'string' ? result : result.map(toAbsolute);
      } catch (error) {
        throw error instanceof JobError ? withoutKey(error) : error;
      }
    },

    async getStatus(id, signal) {
      if (!status) throw unknownImagine();
      try {
        const result = status.read(await call(status.path(encodeURIComponent(id)), { signal }));
        if (result.status === 'failed') return { ...result, error: withoutKey(result.error) };
        if (result.status !== 'done') return result;
        return { ...result, pictures: result.pictures.map(toAbsolute), grid: result.grid && toAbsolute(result.grid) };
      } catch (error) {
        if (getStatusError(error)?.status === 404) throw unknownImagine(error);
        throw error instanceof JobError ? withoutKey(error) : error;
      }
    },

    trusts: (url) => url.host === host,
    ...definition.extras?.(call),
  };
}

/** An answer with another status than 2xx. */
class StatusError extends Error {
  constructor(
    readonly status: number,
    answer: unknown,
    /** milliseconds that the server asks to wait */
    readonly retryAfter: number | undefined,
  ) {
    super(`status ${status}: ${describeShape(answer)}`);
    this.name = 'StatusError';
  }
}

const ERROR_CODES: Partial<Record<number, BridgeErrorCode>> = {
  400: 'invalid_input',
  401: 'no_credit',
  402: 'no_credit',
  403: 'no_credit',
  413: 'invalid_input',
  422: 'invalid_input',
  429: 'rate_limited',
};

/** Statuses with several causes: the provider's message decides which error code they become. */
const VAGUE = [400, 403, 422];

interface CallOptions {
  /** sent as a POST */
  body?: object;
  headers?: Record<string, string> | undefined;
  /** milliseconds, default CALL_TIMEOUT */
  timeout?: number;
  signal?: AbortSignal;
}

/** @returns the answer's JSON, or a Blob. @throws JobError if the provider refused; any other error leaves open what it did */
type Call = (path: string, options?: CallOptions) => Promise<unknown>;

/** Node's own fetch gives up after five minutes, which a slow image server may need. Each call has its own time limit instead. */
const patient = new Agent({ headersTimeout: 0, bodyTimeout: 0, maxResponseSize: MAX_ANSWER });
const client = createFetch({ fetch: undiciFetch as unknown as typeof fetch, Headers });

/** Sends each request once: an imagine is a payment, and imagine.ts repeats status requests itself. */
function createCall({ baseUrl, headers, errorMessage, errorCode }: BridgeDefinition): Call {
  return async (path, { body, signal, headers: more, timeout: limit = CALL_TIMEOUT } = {}) => {
    const timeout = AbortSignal.timeout(limit);
    const response = await client
      .raw(path, {
        baseURL: baseUrl,
        dispatcher: patient,
        headers: { ...headers, ...more },
        ...(body && { method: 'POST', body }),
        retry: 0,
        redirect: 'manual', // it would send the key and the prompt elsewhere
        ignoreResponseError: true,
        signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
      })
      .catch((error) => {
        // This use of `timeout` also keeps Node 20 from collecting it, after which it would never fire.
        throw timeout.aborted ? new Error(`no answer within ${limit / SECOND} s`, { cause: error }) : error;
      });
    const { status, _data: answer } = response;
    if (status >= 200 && status < 300) return answer;
    const error = new StatusError(status, answer, parseRetryAfter(response.headers.get('retry-after')));
    if (status >= 500 || status === 408) throw error; // the provider may have accepted the request
    const message = errorMessage(answer) ?? '';
    const own = errorCode?.(status, answer);
    const code = own ?? ERROR_CODES[status] ?? 'upstream_error';
    throw bridgeError(!own && VAGUE.includes(status) ? classifyMessage(message, code) : code, message, error);
  };
}

const getStatusError = (error: unknown) =>
  error instanceof JobError && error.cause instanceof StatusError ? error.cause : undefined;

/** How long the provider that answered so asks to wait, in milliseconds. */
export const getRetryAfter = (error: unknown): number | undefined =>
  (error instanceof StatusError ? error : getStatusError(error))?.retryAfter;

/** The provider does not know the imagine, which may have been paid for. */
export const unknownImagine = (cause?: unknown) =>
  new JobError('lost', 'the bridge no longer knows the prompt', { cause });

/** @throws JobError upstream_error, with the answer’s shape in its cause */
export function parse<S extends v.GenericSchema>(schema: S, answer: unknown): v.InferOutput<S> {
  const { success, output } = v.safeParse(schema, answer);
  if (success) return output;
  throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
}

class UnexpectedAnswer extends Error {}

export const unexpectedAnswer = (answer: unknown) =>
  new UnexpectedAnswer(`an unexpected answer: ${describeShape(answer)}`);

/** Whether the provider's answer could not be read. */
export const isUnexpectedAnswer = (error: unknown): boolean =>
  error instanceof JobError && error.cause instanceof UnexpectedAnswer;

/** The names and types of an answer, for the log. Its texts may repeat the prompt, the key or a picture's link. */
function describeShape(answer: unknown, depth = 3): string {
  if (typeof answer === 'string') return `text(${answer.length})`;
  if (typeof answer !== 'object' || answer === null) return String(answer);
  if (answer instanceof Blob) return `bytes(${answer.size})`;
  if (depth === 0) return '…';
  const parts = Object.entries(answer)
    .slice(0, MAX_SHAPE_PARTS)
    .map(([name, part]) => {
      const shape = describeShape(part, depth - 1);
      if (Array.isArray(answer)) return shape;
      return `${/^[A-Za-z_]\w{0,30}$/.test(name) ? name : '…'}: ${shape}`;
    });
  return (Array.isArray(answer) ? `[${parts.join(', ')}]` : `{${parts.join(', ')}}`).slice(0, MAX_SHAPE);
}

/** 0–1, of a percentage such as 37, '37' or '37%'; 0 for anything else. */
export const toFraction = (percentage: unknown) =>
  Math.min(1, Math.max(0, Number.parseFloat(String(percentage)) / 100 || 0));

/** The status of an imagine that failed, by the provider's message. */
export const failed = (message: string | null | undefined): ImagineStatus => ({
  status: 'failed',
  error: bridgeError(classifyMessage(message ?? ''), message ?? ''),
});

/**
 * The status of a finished imagine.
 * @param pictures their URLs; only four count
 * @throws JobError upstream_error without pictures and grid
 */
export function done(
  answer: unknown,
  pictures: string[] | null | undefined,
  grid: string | null | undefined,
): ImagineStatus {
  const four = pictures?.length === 4 ? pictures : [];
  if (four.length === 0 && !grid) throw bridgeError('upstream_error', '', unexpectedAnswer(answer));
  return { status: 'done', pictures: four, grid: grid || undefined };
}
