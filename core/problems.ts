/** The error codes of the API. */
import { MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, PICTURE_TYPES_TEXT } from './picture/limits.ts';

const PICTURE_SIZE = `${MAX_PICTURE_BYTES / 1e6} MB`;

/** Each code with its HTTP status and what a client can do about it: the documentation's table. */
export const PROBLEMS = {
  unreadable: { status: 400, remedy: 'Send well-formed UTF-8 of the declared content type; JSON must be one object' },
  unauthorized: {
    status: 401,
    remedy: 'Send a valid API key, `Authorization: Bearer i2v_…`; the operator creates keys',
  },
  budget_spent: {
    status: 402,
    remedy: 'Wait for the next month, get a larger budget, or request a smaller clip: `dry_run` returns the cost',
  },
  forbidden_host: {
    status: 403,
    remedy: 'Without API keys use `localhost`, `127.0.0.1` or `[::1]`; create a key for any other host',
  },
  forbidden_origin: {
    status: 403,
    remedy: 'Without API keys no other web page may use the service; create a key, and list the page in CORS_ORIGINS',
  },
  insufficient_scope: { status: 403, remedy: 'Use an API key with the scope that the response names' },
  link_invalid: { status: 403, remedy: 'Read the task again: each response has new links' },
  not_found: { status: 404, remedy: 'Check the URL and the id; tasks of another API key are not found either' },
  method_not_allowed: { status: 405, remedy: 'Use a method that the header `Allow` lists' },
  ended: { status: 409, remedy: 'Nothing: the task has already ended' },
  not_ended: { status: 409, remedy: 'Cancel the task first, or wait for its end' },
  idempotency_conflict: {
    status: 409,
    remedy: 'Send a new `Idempotency-Key` for each clip; this one belongs to the task that the response names',
  },
  too_large: {
    status: 413,
    remedy: `Send a picture of at most ${PICTURE_SIZE}, at most 1 MB of anything else, and at most 64 fields`,
  },
  unsupported_media_type: {
    status: 415,
    remedy: 'Send JSON, an urlencoded form or multipart, as the header `Accept` lists',
  },
  range_not_satisfiable: {
    status: 416,
    remedy: 'Request a range within the size that the header `Content-Range` states',
  },
  invalid_input: { status: 422, remedy: 'Correct the fields in `errors`; each message names the allowed values' },
  image_rejected: {
    status: 422,
    remedy: `Send a complete ${PICTURE_TYPES_TEXT} of at most ${MAX_PICTURE_PIXELS / 1e6} megapixels`,
  },
  no_bridge: { status: 422, remedy: 'Send a picture, `image_url` or `still_of`: this service accepts no prompts' },
  too_many_requests: {
    status: 429,
    remedy: 'Wait as long as `Retry-After` says; follow tasks by events instead of polling',
  },
  too_many_submissions: { status: 429, remedy: 'Wait as long as `Retry-After` says' },
  too_many_open: { status: 429, remedy: 'Wait for one of your tasks to end, or cancel one' },
  too_many_uploads: { status: 429, remedy: 'Wait for one of your uploads to end; send fewer at a time' },
  uploads_full: {
    status: 429,
    remedy: 'Wait for one of your tasks to end; the service then deletes its uploaded picture',
  },
  too_many_guesses: { status: 429, remedy: 'Check the API key, and wait a minute' },
  internal: { status: 500, remedy: 'Send the operator the value of `X-Request-Id`; the log has details under it' },
  unavailable: {
    status: 503,
    remedy: 'Wait as long as `Retry-After` says, then retry; with the same `Idempotency-Key` you do not pay twice',
  },
} as const;
export type ProblemCode = keyof typeof PROBLEMS;
