/** The OpenAPI 3.1 document, made from the endpoints' definitions and the schemas that check requests. */
import type * as v from 'valibot';
import { jsonSchema } from '../../core/parameter-schema.ts';
import type { Endpoint } from '../http/endpoint.ts';
import { errorResponses, KEYED_ERRORS, PUBLIC_ERRORS } from './errors.ts';
import { events } from './events.ts';
import { type About, taskExamples } from './examples.ts';
import type { DocumentContext, Operation } from './parts.ts';
import { schemas } from './schemas.ts';

export function openApiDocument(about: About, endpoints: Endpoint[]) {
  const context = { ...about, tasks: taskExamples(about) };
  return {
    openapi: '3.1.0',
    info: {
      title: 'Text to Video API',
      version: '0.1.0',
      description:
        'A prompt or a picture becomes a video: POST /img2vid creates a task, GET /status shows its progress and, at the end, a link to an MP4. Every response has an X-Request-Id: the client’s own, if it is 1–64 letters, digits, dots, dashes or underscores.',
      license: { name: 'MIT', identifier: 'MIT' },
      'x-model': about.model,
    },
    servers: [{ url: about.publicUrl }],
    security: [{ key: [] }, {}],
    tags: [
      { name: 'tasks', description: 'Create a task, follow it, cancel and delete it' },
      { name: 'account', description: 'What the API key has spent' },
      { name: 'webhooks', description: 'Notifications that a task has ended' },
      { name: 'files', description: 'Pictures and videos' },
      { name: 'service', description: 'The service itself' },
    ],
    paths: paths(endpoints, context),
    webhooks: events(context),
    components: {
      securitySchemes: {
        key: { type: 'http', scheme: 'bearer', description: 'An API key; none is needed before the first is made' },
      },
      schemas: { ...schemas(about), ...Object.assign({}, ...endpoints.map((one) => one.schemas)) },
    },
  };
}

function paths(endpoints: Endpoint[], context: DocumentContext): Record<string, Record<string, Operation>> {
  const documented = endpoints.flatMap(({ method, path, scope, query, describe }) => {
    if (!describe) return [];
    const { parameters = [], responses, errors = [], ...operation } = describe(context);
    const described = {
      ...operation,
      ...(!scope && { security: [] }),
      parameters: [...Object.entries(query?.entries ?? {}).map(queryParameter), ...parameters],
      responses: { ...errorResponses([...(scope ? KEYED_ERRORS : PUBLIC_ERRORS), ...errors]), ...responses },
    };
    // a wildcard stands for a bucket key
    return [[String(path).replace('*', '{key}'), { [method.toLowerCase()]: described }] as const];
  });
  return Object.fromEntries(documented);
}

/** The parameter that a schema of the query checks; its metadata holds what the schema alone does not say. */
function queryParameter([name, entry]: [string, v.GenericSchema]) {
  const { description, examples, ...schema } = jsonSchema(entry) as { description?: string; examples?: unknown[] };
  return {
    name,
    in: 'query',
    required: entry.type !== 'optional',
    description,
    schema,
    ...(examples && { example: examples[0] }),
  };
}
