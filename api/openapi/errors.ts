/** Error responses of the OpenAPI document. */
import { PROBLEMS } from '../../core/problems.ts';
import { forbiddenHost } from '../http/loopback-only.ts';
import { Problem, problemBody, unavailable } from '../http/problem.ts';
import { examplesOf, ref, responseHeader } from './parts.ts';

/** Of every endpoint without a scope. */
export const PUBLIC_ERRORS: Problem[] = [forbiddenHost()];

/** Of every endpoint that needs an API key, as `keys/access.ts` words them. */
export const KEYED_ERRORS: Problem[] = [
  new Problem(401, 'unauthorized', 'send an API key: Authorization: Bearer i2v_…'),
  new Problem(403, 'insufficient_scope', 'this API key lacks the scope submit'),
  forbiddenHost(),
  new Problem(429, 'too_many_requests', 'this key may send 1200 requests a minute'),
  unavailable('API keys can’t be looked up now; try again'),
];

/** One response for each status, with the errors as examples and their remedies as description. */
export function errorResponses(errors: Problem[]): Record<string, object> {
  const statuses = [...new Set(errors.map(({ status }) => status))];
  const responses = statuses.map((status) => {
    const problems = errors.filter((error) => error.status === status);
    const bodies = Object.fromEntries(problems.map((problem) => [problem.code, problemBody(problem)]));
    const response = {
      description: [...new Set(problems.map(({ code }) => PROBLEMS[code].remedy))].join('. '),
      ...((status === 429 || status === 503) && {
        headers: { 'Retry-After': responseHeader('Seconds until the next try') },
      }),
      content: { 'application/problem+json': { schema: ref('Problem'), examples: examplesOf(bodies) } },
    };
    return [status, response];
  });
  return Object.fromEntries(responses);
}
