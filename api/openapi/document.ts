/** The OpenAPI 3.1 document, made from the endpoints' definitions and the schemas that check requests. */
import { toJsonSchemaDefs } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import { jsonSchema, requestProperties } from '../../core/parameter-schema.ts';
import { PICTURE_LIMITS_TEXT, PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { PROBLEMS } from '../../core/problems.ts';
import { RESPONSES } from '../../core/responses.ts';
import { callsOf, type Endpoint } from '../http/endpoint.ts';
import { forbiddenHost } from '../http/loopback-only.ts';
import { isOpenAiPath, openAiError } from '../http/openai-error.ts';
import { Problem, problemBody, unavailable } from '../http/problem.ts';
import { type About, taskExamples, videoExamples } from './examples.ts';
import { content, type DocumentContext, json, type Operation, ref, responseHeader } from './parts.ts';

/** Of the service. */
export const VERSION = '0.1.0';

/** Errors of every endpoint that needs an API key, as `keys/access.ts` words them. */
const KEYED_ERRORS = [
  new Problem('unauthorized', 'send an API key: Authorization: Bearer i2v_…'),
  new Problem('insufficient_scope', 'this API key lacks the scope submit'),
  forbiddenHost(),
  new Problem('too_many_requests', 'this API key may send at most 1200 requests a minute'),
  unavailable('API keys can’t be looked up now; try again'),
];

export function openApiDocument(about: About, endpoints: Endpoint[]) {
  const tasks = taskExamples(about);
  const context = { ...about, tasks, videos: videoExamples(tasks) };
  return {
    openapi: '3.1.0',
    info: {
      title: 'Text to Video API',
      version: VERSION,
      description:
        'Makes a video from a prompt or a picture. POST /img2vid creates a task. GET /status shows its progress and, at the end, a link to an MP4. Every response has the header X-Request-Id. A client may choose its value: 1–64 letters, digits, dots, dashes or underscores.',
      license: { name: 'MIT', identifier: 'MIT' },
      'x-model': about.model,
    },
    servers: [{ url: about.publicUrl }],
    security: [{ key: [] }, {}],
    tags: [
      { name: 'tasks', description: 'Create a task, follow it, cancel and delete it' },
      { name: 'openai', description: 'The same tasks for clients of OpenAI’s videos API' },
      { name: 'account', description: 'What the API key has spent' },
      { name: 'webhooks', description: 'Notifications that a task has ended' },
      { name: 'files', description: 'Pictures and videos' },
      { name: 'service', description: 'The service itself' },
    ],
    paths: paths(endpoints, context),
    webhooks: webhooks(context),
    components: {
      securitySchemes: {
        key: { type: 'http', scheme: 'bearer', description: 'An API key; not needed while the service has no keys' },
      },
      schemas: {
        ...requestSchemas(about),
        ...toJsonSchemaDefs(RESPONSES, {
          errorMode: 'ignore',
          overrideRef: ({ referenceId }) => ref(referenceId).$ref,
        }),
      },
    },
  };
}

function paths(endpoints: Endpoint[], context: DocumentContext): Record<string, Record<string, Operation>> {
  const documented: Record<string, Record<string, Operation>> = {};
  for (const endpoint of endpoints) {
    const { scope, query, describe } = endpoint;
    if (!describe) continue;
    const { parameters = [], responses, errors = [], ...operation } = describe(context);
    const refusals = [...(scope ? KEYED_ERRORS : [forbiddenHost()]), ...errors];
    for (const { path, method, ...own } of callsOf(endpoint)) {
      const isAlias = path !== endpoint.path;
      const id = path
        .replace('*', '{key}') // a bucket key
        .replace(/:(\w+)/g, '{$1}');
      documented[id] ??= {};
      documented[id][method.toLowerCase()] = {
        ...operation,
        ...own,
        ...(isAlias && { description: `The same as ${endpoint.method} ${endpoint.path}. ${operation.description}` }),
        ...(!scope && { security: [] }),
        parameters: [...Object.entries(query?.entries ?? {}).map((entry) => parameter(entry, id)), ...parameters],
        responses: { ...errorResponses(refusals, path), ...responses },
      };
    }
  }
  return documented;
}

/** One response for each status, with the errors as examples and their remedies as description. */
function errorResponses(errors: Problem[], path: string): Record<string, object> {
  const isOpenAi = isOpenAiPath(path);
  const rendered = errors.map((problem) => ({
    code: problem.code,
    ...(isOpenAi ? openAiError(problem) : { status: problem.status, body: problemBody(problem) }),
  }));
  const responses = [...new Set(rendered.map(({ status }) => status))].map((status) => {
    const own = rendered.filter((error) => error.status === status);
    const bodies = Object.fromEntries(own.map(({ code, body }) => [code, body]));
    const response = {
      description: [...new Set(own.map(({ code }) => PROBLEMS[code].remedy))].join('. '),
      ...([429, 503].includes(status) && {
        headers: { 'Retry-After': responseHeader('Seconds to wait before a retry') },
      }),
      content: isOpenAi
        ? json(ref('OpenAiError'), bodies)
        : content('application/problem+json', ref('Problem'), bodies),
    };
    return [status, response];
  });
  return Object.fromEntries(responses);
}

/** The parameter that a schema of the query or path checks; its metadata holds what the schema alone does not say. */
function parameter([name, entry]: [string, v.GenericSchema], path: string) {
  const { description, examples, ...full } = jsonSchema(entry) as Record<string, unknown> & { examples?: unknown[] };
  const { pattern: _, maxLength: __, ...format } = full; // of a URL its format says enough, and generators of values follow a pattern first
  const schema = full.format === 'uri' ? format : full;
  return {
    name,
    in: path.includes(`{${name}}`) ? 'path' : 'query',
    required: entry.type !== 'optional',
    description,
    schema,
    ...(full.type === 'object' && { style: 'deepObject', explode: true }),
    ...(examples && { example: examples[0] }),
  };
}

/** What the service POSTs to webhook URLs. */
function webhooks({ tasks }: DocumentContext) {
  return {
    task: {
      post: {
        operationId: 'announcement',
        tags: ['webhooks'],
        summary: 'A task has started, goes on or has ended',
        description:
          'Signed as Standard Webhooks specifies, in the headers webhook-id, webhook-timestamp and webhook-signature. Without a 2xx response within 20 s the service tries again, up to ten attempts in all. task.progress gets one attempt.',
        requestBody: {
          required: true,
          content: json(ref('Event'), {
            succeeded: { type: 'task.succeeded', timestamp: tasks.succeeded.finished_at, data: tasks.succeeded },
            failed: { type: 'task.failed', timestamp: tasks.failed.finished_at, data: tasks.failed },
            'a test': {
              type: 'webhook.test',
              timestamp: tasks.failed.finished_at,
              data: { message: 'this receiver can be reached' },
            },
          }),
        },
        responses: {
          '2XX': { description: 'Delivered' },
          410: { description: 'Disables the URL: nothing more is sent to it' },
        },
      },
    },
  };
}

/** Bodies of POST /img2vid: as JSON, and as a form with a file. */
export function requestSchemas(about: About) {
  const properties = requestProperties(about);
  const anyOf = ['prompt', 'image_url', 'image', 'still_of'].map((name) => ({ required: [name] }));
  const image = {
    type: 'string',
    description: `The picture to animate: ${PICTURE_TYPES_TEXT} (the first picture of several), ${PICTURE_LIMITS_TEXT}`,
  };
  const asText = `${image.description}; as base64 or a data URL. A file’s name, as the input of a task has it, is ignored with another source`;
  const withText = { ...properties, image: { ...image, description: asText, 'x-group': 'Source' } };
  const file = { ...image, contentMediaType: 'image/*' };
  return {
    Request: { type: 'object', additionalProperties: false, properties: withText, anyOf },
    Upload: { type: 'object', anyOf, properties: { ...properties, image: file } },
    ...videoRequestSchemas(about.model, withText, file),
  };
}

/** The same with OpenAI's names. @param file schema of the picture's file */
function videoRequestSchemas(model: string, properties: Record<string, object>, file: object) {
  const { image_url = {} } = properties;
  const named = {
    ...properties,
    model: { type: 'string', description: `${model}, or a name of OpenAI’s models, which is ignored` },
    seconds: {
      oneOf: [{ type: 'string' }, { type: 'number' }],
      description: 'Duration; gives T and fps. Where MAX_FRAMES is too low for the usual fps, that becomes lower',
    },
    size: { type: 'string', description: 'auto, or WxH; each side becomes the nearest that W and H may have' },
  };
  const reference = {
    type: 'object',
    additionalProperties: false,
    required: ['image_url'],
    properties: { image_url },
    description: 'The picture to animate: its URL, or a data URL',
  };
  const sources = ['prompt', 'input_reference', 'image_url', 'image', 'still_of'];
  const inForm = 'input_reference[image_url]';
  const anyOf = (names: string[]) => names.map((name) => ({ required: [name] }));
  return {
    VideoRequest: {
      type: 'object',
      additionalProperties: false,
      properties: { ...named, input_reference: reference },
      anyOf: anyOf(sources),
    },
    VideoUpload: {
      type: 'object',
      properties: { ...named, input_reference: file, [inForm]: image_url },
      anyOf: anyOf([...sources, inForm]),
    },
  };
}
