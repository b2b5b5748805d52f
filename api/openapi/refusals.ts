/** How any path that wants an API key may refuse. */
import type { Examples } from './examples.ts';
import { problem, text } from './parts.ts';

const retryAfter = { 'Retry-After': { description: 'In so many seconds again', schema: text } };

export const keyedRefusals = ({ problems }: Pick<Examples, 'problems'>) => ({
  401: problem('No API key, or one that is not valid', problems.unauthorized),
  403: problem(
    'The API key has not the scope; without keys: not from this machine, or from another web page',
    problems.scope,
    problems.host,
  ),
  429: { ...problem('Too many requests with this API key', problems.requests), headers: retryAfter },
  503: { ...problem('The store can’t be asked; try again', problems.store), headers: retryAfter },
});

export type Keyed = ReturnType<typeof keyedRefusals>;
