/** Error responses of the access check, for any endpoint. */
import { Problem } from '../http/problem.ts';
import { problem, retryLater } from './parts.ts';

const forbiddenHost = new Problem(
  403,
  'forbidden_host',
  'without API keys this service answers only to localhost, 127.0.0.1 and [::1]',
);

export const tooManyRequests = new Problem(429, 'too_many_requests', 'this key has 1200 requests a minute');

/** Of an endpoint that needs an API key. */
export const KEYED_REFUSALS = {
  401: problem(
    'No API key, or one that is not valid',
    new Problem(401, 'unauthorized', 'send an API key: Authorization: Bearer i2v_…'),
  ),
  403: problem(
    'The API key lacks the scope; without keys: the request comes from another machine or web page',
    new Problem(403, 'insufficient_scope', 'this API key has not the scope submit'),
    forbiddenHost,
  ),
  429: retryLater('Too many requests with this API key', tooManyRequests),
  503: retryLater(
    'The store is unavailable; try again',
    new Problem(503, 'unavailable', 'API keys can’t be looked up now; try again'),
  ),
};

/** Of an endpoint that needs none. */
export const PUBLIC_REFUSALS = {
  403: problem('Without API keys: the request comes from another machine', forbiddenHost),
};
