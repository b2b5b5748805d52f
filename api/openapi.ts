/** The OpenAPI 3.1 document, made from the schemas that check the requests. */
import { toJsonSchema } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import { jobErrorSchema, STAGES } from '../handler/job.ts';
import { BELONGS_TO, defaults, MAX_PROMPT, NAMED_DEFAULTS, requestSchema } from '../handler/parameters.ts';
import type { Config } from './config.ts';
import { ENDED, OPEN } from './store/store.ts';

const text = { type: 'string' };
const number = { type: 'number' };
const whole = { type: 'integer' };
const time = { type: 'string', format: 'date-time' };
const uri = { type: 'string', format: 'uri' };
const list = (items: object) => ({ type: 'array', items });
const object = (properties: Record<string, object>, required = Object.keys(properties)) => ({
  type: 'object',
  required,
  properties,
});
const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
const json = (schema: object) => ({ 'application/json': { schema } });

/** One of these a request needs. */
const SOURCES = ['prompt', 'image_url', 'still_of'];
const anyOf = (names: string[]) => names.map((name) => ({ required: [name] }));

export function openApiDocument({ model, limits, publicUrl }: Pick<Config, 'model' | 'limits' | 'publicUrl'>) {
  const parameters = requestProperties({ model, limits });
  const note = object({ field: text, message: text });
  const file = {
    link: uri,
    width: whole,
    height: whole,
    frames: whole,
    fps: whole,
    seconds: number,
    bytes: whole,
    sha256: text,
  };
  const problem = (description: string) => ({
    description,
    content: { 'application/problem+json': { schema: ref('Problem') } },
  });
  const task = { description: 'The task', content: json(ref('Task')) };
  const ofTask = {
    name: 'id',
    in: 'query',
    required: true,
    description: 'The task',
    schema: { type: 'string', minLength: 1 },
  };
  const unlessThere = {
    403: problem('Not from this machine, or from another web page'),
    404: problem('There is no such task'),
    422: problem('No id, or a query that is unknown'),
  };

  return {
    openapi: '3.1.0',
    info: {
      title: 'Text to Video API',
      version: '0.1.0',
      description:
        'A prompt or a picture becomes a video: POST /img2vid gives a task, GET /status tells how it is doing and, at the end, a link to an MP4.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: publicUrl }],
    paths: {
      '/img2vid': {
        post: {
          operationId: 'img2vid',
          summary: 'Create a task',
          description:
            'Needs a prompt, an image_url, a picture (multipart only) or still_of. Every other parameter is optional.',
          requestBody: {
            required: true,
            content: {
              ...json(ref('Request')),
              'application/x-www-form-urlencoded': { schema: ref('Request') },
              'multipart/form-data': {
                schema: {
                  type: 'object',
                  anyOf: anyOf([...SOURCES, 'image']),
                  properties: {
                    ...parameters,
                    image: {
                      type: 'string',
                      contentMediaType: 'image/*',
                      description:
                        'The picture to animate: jpeg, png, webp, avif, gif or tiff (the first picture of several), at most 20 MB, 64 megapixels and 65,535 pixels a side',
                    },
                  },
                },
              },
            },
          },
          responses: {
            202: {
              ...task,
              headers: { Location: { description: 'Where its status is', schema: text } },
              links: Object.fromEntries(
                ['status', 'cancel', 'delete'].map((operationId) => [
                  operationId,
                  { operationId, parameters: { id: '$response.body#/id' } },
                ]),
              ),
            },
            400: problem('The body can’t be read'),
            403: problem('Not from this machine, or from another web page'),
            413: problem('The body or the picture is too large'),
            415: problem('Another content type'),
            422: problem(
              'Wrong values: every field with what is allowed; code image_rejected for a picture that is none',
            ),
            503: problem('The task could not be stored'),
          },
        },
      },
      '/status': {
        get: {
          operationId: 'status',
          summary: 'One task, or all of them',
          description:
            'With `Accept: text/event-stream` and an id: an event `task` with the whole task at each change, until it ends.',
          parameters: [
            {
              name: 'id',
              in: 'query',
              required: false,
              description: 'The task; without it, all tasks, newest first',
              schema: { type: 'string', minLength: 1 },
            },
          ],
          responses: {
            200: {
              description: 'The task, or the list',
              content: {
                ...json({ oneOf: [ref('Task'), list(ref('Task'))] }),
                'text/event-stream': { schema: text },
              },
            },
            204: { description: 'Events only: the task had ended before, nothing more will come' },
            403: problem('Not from this machine'),
            404: problem('There is no such task'),
            422: problem('An empty id, or a query that is unknown'),
          },
        },
      },
      '/cancel': {
        post: {
          operationId: 'cancel',
          summary: 'Cancel a task',
          description:
            'A queued task is canceled at once. Of a running one RunPod is asked; whichever comes first, its result or the cancellation, wins. Repeatable.',
          parameters: [ofTask],
          responses: { 202: task, 409: problem('The task has succeeded or failed'), ...unlessThere },
        },
      },
      '/delete': {
        post: {
          operationId: 'delete',
          summary: 'Delete the files and the prompt of an ended task',
          description: 'What is left shows `expired_at` instead of links. Repeatable.',
          parameters: [ofTask],
          responses: {
            200: task,
            409: problem('The task has not ended'),
            ...unlessThere,
            503: problem('The bucket is away; the files are no longer shown, and will be deleted'),
          },
        },
      },
      '/files/{key}': {
        get: {
          operationId: 'file',
          summary: 'A picture or video, by a link from a task',
          parameters: [
            { name: 'key', in: 'path', required: true, schema: text },
            { name: 'expires', in: 'query', required: true, schema: text },
            { name: 'signature', in: 'query', required: true, schema: text },
          ],
          responses: {
            200: { description: 'The file', content: { 'video/mp4': {}, 'image/png': {} } },
            206: { description: 'The part that Range asked for', content: { 'video/mp4': {}, 'image/png': {} } },
            304: { description: 'It has not changed' },
            403: problem('The link is not valid, or has expired'),
            404: problem('There is no such file'),
            416: problem('The file has no such part'),
          },
        },
      },
      '/healthz': {
        get: {
          operationId: 'health',
          summary: 'Whether the API runs',
          responses: { 200: { description: 'It does', content: json(object({ status: text })) } },
        },
      },
      '/openapi.json': {
        get: {
          operationId: 'openapi',
          summary: 'This document',
          responses: { 200: { description: 'OpenAPI 3.1', content: json({ type: 'object' }) } },
        },
      },
    },
    components: {
      schemas: {
        Request: { type: 'object', additionalProperties: false, properties: parameters, anyOf: anyOf(SOURCES) },
        Task: object(
          {
            id: { type: 'string', format: 'uuid' },
            status: { type: 'string', enum: [...OPEN, ...ENDED] },
            stage: { type: 'string', enum: [...STAGES], description: 'What is being done, while running' },
            step: { type: 'integer', description: 'Of the stage: the sampling step, or the frame, that is done' },
            steps: { type: 'integer', description: 'How many of them there are' },
            progress: { type: 'number', minimum: 0, maximum: 1 },
            eta_seconds: { type: 'integer', description: 'Estimate of what is left' },
            created_at: time,
            started_at: time,
            finished_at: time,
            model: text,
            input: { type: 'object', description: 'Every parameter, with the values that are used' },
            warnings: list(note),
            still: object({ link: uri }),
            videos: list(object({ ...file, seed: whole })),
            grid: object(file),
            links_expire_at: time,
            expired_at: { ...time, description: 'When its files and prompt were deleted' },
            error: jsonSchema(jobErrorSchema),
          },
          ['id', 'status', 'progress', 'created_at', 'model', 'input', 'warnings'],
        ),
        Problem: object({ type: text, title: text, status: whole, detail: text, code: text, errors: list(note) }, [
          'type',
          'title',
          'status',
          'detail',
          'code',
        ]),
      },
    },
  };
}

/** Each parameter's schema, with the model's default. */
function requestProperties({ model, limits }: Pick<Config, 'model' | 'limits'>): Record<string, object> {
  const { properties = {} } = jsonSchema(requestSchema(limits, model)) as { properties?: Record<string, object> };
  Object.assign(properties.prompt!, { minLength: 1, maxLength: MAX_PROMPT });
  const { H, W } = defaults(model);
  for (const [name, own] of [
    ['H', H],
    ['W', W],
  ] as const) {
    Object.assign(
      properties[name]!,
      { type: 'integer' },
      own % 64 === 0 ? { multipleOf: 64 } : { anyOf: [{ multipleOf: 64 }, { const: own }] },
    );
  }
  for (const [name, value] of Object.entries(defaults(model))) Object.assign(properties[name]!, { default: value });
  for (const [name, home] of Object.entries(BELONGS_TO)) {
    const schema = properties[name] as { description: string; default?: number };
    const { choice, names } = home!;
    schema.description += `. Only for ${choice} ${names.join(', ')}`;
    schema.default ??= NAMED_DEFAULTS[names[0]!]![name]!;
    Object.assign(schema, { 'x-belongs-to': { [choice]: names } });
  }
  return properties;
}

function jsonSchema(schema: v.GenericSchema): object {
  const { $schema: _, ...rest } = toJsonSchema(schema, {
    typeMode: 'input',
    errorMode: 'ignore',
    ignoreActions: ['trim', 'check'],
  });
  return rest;
}
