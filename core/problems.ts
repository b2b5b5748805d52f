/** The error codes of the API. */
import { MAX_PICTURE_PIXELS, PICTURE_TYPES_TEXT } from './picture/limits.ts';

/** Every code that a problem may have, its status, and what a caller can do about it: the documentation's table. */
export const PROBLEMS = {
  unreadable: {
    status: 400,
    remedy: 'Send well-formed UTF-8 of the content type that is named: JSON must be one object',
  },
  unauthorized: {
    status: 401,
    remedy: 'Send a valid API key, `Authorization: Bearer i2v_…`; whoever runs the service makes them',
  },
  budget_spent: {
    status: 402,
    remedy:
      'Wait for the next month, ask for a larger budget, or make a smaller clip: `dry_run` tells what it may cost',
  },
  forbidden_host: {
    status: 403,
    remedy: 'Without API keys the service answers to `localhost`, `127.0.0.1` and `[::1]` only; elsewhere make a key',
  },
  forbidden_origin: {
    status: 403,
    remedy: 'Without API keys no other web page may use the service; make a key, and name the page in CORS_ORIGINS',
  },
  insufficient_scope: { status: 403, remedy: 'Use an API key that has the scope which the answer names' },
  link_invalid: { status: 403, remedy: 'Ask for the task once more: its links are signed anew at each read' },
  not_found: { status: 404, remedy: 'Check the address and the id; the tasks of another API key count as absent, too' },
  method_not_allowed: { status: 405, remedy: 'Use a method that the header `Allow` names' },
  ended: { status: 409, remedy: 'Nothing: the task is over, and shows how' },
  not_ended: { status: 409, remedy: 'Cancel the task first, or wait for its end' },
  idempotency_conflict: {
    status: 409,
    remedy: 'Take a new `Idempotency-Key` for each clip; the old one stands for the task that the answer names',
  },
  too_large: { status: 413, remedy: 'Send a picture of at most 20 MB, and at most 1 MB of anything else' },
  unsupported_media_type: {
    status: 415,
    remedy: 'Send JSON, an urlencoded form or multipart; the header `Accept` lists them',
  },
  range_not_satisfiable: {
    status: 416,
    remedy: 'Ask for a part that the file has; the header `Content-Range` tells its size',
  },
  invalid_input: { status: 422, remedy: 'Correct what `errors` names: each field with what is allowed' },
  image_rejected: {
    status: 422,
    remedy: `Send a whole ${PICTURE_TYPES_TEXT} of at most ${MAX_PICTURE_PIXELS / 1e6} megapixels`,
  },
  no_bridge: { status: 422, remedy: 'Send a picture, `image_url` or `still_of`: this service makes none from prompts' },
  too_many_requests: {
    status: 429,
    remedy: 'Wait as long as `Retry-After` says; follow tasks by events instead of asking often',
  },
  too_many_submissions: { status: 429, remedy: 'Wait as long as `Retry-After` says' },
  too_many_open: { status: 429, remedy: 'Wait for one of your tasks to end, or cancel one' },
  too_many_guesses: { status: 429, remedy: 'Check the API key, and wait a minute' },
  internal: { status: 500, remedy: 'Tell whoever runs the service the answer’s `X-Request-Id`: their log has more' },
  unavailable: {
    status: 503,
    remedy: 'Try again as `Retry-After` says; with an `Idempotency-Key` nothing is made or paid twice',
  },
} as const;
export type ProblemCode = keyof typeof PROBLEMS;
