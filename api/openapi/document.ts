/** The OpenAPI 3.1 document, made from the schemas that check the requests. */
import { accountPaths, announcements } from './account.ts';
import { examples } from './examples.ts';
import type { About } from './parts.ts';
import { keyedRefusals } from './refusals.ts';
import { schemas } from './schemas.ts';
import { servicePaths } from './service.ts';
import { taskPaths } from './tasks.ts';

export function openApiDocument(about: About) {
  const shown = examples(about);
  const keyed = keyedRefusals(shown);
  return {
    openapi: '3.1.0',
    info: {
      title: 'Text to Video API',
      version: '0.1.0',
      description:
        'A prompt or a picture becomes a video: POST /img2vid gives a task, GET /status tells how it is doing and, at the end, a link to an MP4. Every answer has an X-Request-Id: the caller’s own, if it is 1–64 letters, digits, dots, dashes or underscores.',
      license: { name: 'MIT', identifier: 'MIT' },
      'x-model': about.model,
    },
    servers: [{ url: about.publicUrl }],
    security: [{ key: [] }, {}],
    tags: [
      { name: 'tasks', description: 'Create a task, follow it, cancel and delete it' },
      { name: 'account', description: 'What the API key has spent' },
      { name: 'webhooks', description: 'How ends are announced' },
      { name: 'files', description: 'Pictures and videos' },
      { name: 'service', description: 'The service itself' },
    ],
    paths: { ...taskPaths(shown, keyed), ...accountPaths(shown, keyed), ...servicePaths(shown, keyed) },
    webhooks: announcements(shown),
    components: {
      securitySchemes: {
        key: { type: 'http', scheme: 'bearer', description: 'An API key; none is needed before the first is made' },
      },
      schemas: schemas(about),
    },
  };
}
