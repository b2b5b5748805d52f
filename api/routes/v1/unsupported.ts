import { endpoint } from '../../http/endpoint.ts';
import { Problem } from '../../http/problem.ts';

/** What OpenAI's API can do with videos, and this service can't. */
const PATHS = [
  '/v1/videos/:id/remix',
  '/v1/videos/edits',
  '/v1/videos/extensions',
  '/v1/videos/characters',
  '/v1/videos/characters/:id',
];
const MESSAGE = 'remixes, edits, extensions and characters are not supported; create a new video with POST /v1/videos';

export const unsupported = (['GET', 'POST'] as const).map((method) =>
  endpoint({
    method,
    path: PATHS,
    scope: 'read',
    handle: () => () => {
      throw new Problem('not_found', MESSAGE);
    },
  }),
);
