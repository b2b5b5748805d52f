/** The OpenAPI 3.1 document, made from the schemas that check the requests. */
import { toJsonSchema } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import { jobErrorSchema, STAGES } from '../handler/job.ts';
import { BELONGS_TO, defaults, MAX_PROMPT, NAMED_DEFAULTS, requestSchema } from '../handler/parameters.ts';
import type { Config } from './config.ts';
import { KEY } from './idempotency.ts';
import { LONGEST_WAIT } from './prefer.ts';
import { DRY_RUN } from './routes/img2vid.ts';
import { LARGEST_PAGE, PAGE, STATUSES } from './routes/list.ts';
import { DELIVERY_STATUSES } from './store/delivery.ts';
import { ENDED } from './store/task.ts';
import { TASK_ID } from './tasks/id.ts';

const text = { type: 'string' };
const number = { type: 'number' };
const whole = { type: 'integer' };
const time = { type: 'string', format: 'date-time' };
const uri = { type: 'string', format: 'uri' };
const micro = { type: 'integer', minimum: 0, description: 'In millionths of the currency' };
const currency = { type: 'string', pattern: '^[A-Z]{3}$' };
const orNull = ({ type, ...schema }: { type: string }, description: string) => ({
  ...schema,
  type: [type, 'null'],
  description,
});
const list = (items: object) => ({ type: 'array', items });
const object = (properties: Record<string, object>, required = Object.keys(properties)) => ({
  type: 'object',
  required,
  properties,
});
const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });
const parameter = (place: 'query' | 'header') => (name: string, schema: object, description: string) => ({
  name,
  in: place,
  required: false,
  description,
  schema,
});
const query = parameter('query');
const header = parameter('header');
const json = (schema: object) => ({ 'application/json': { schema } });

/** One of these a request needs. */
const SOURCES = ['prompt', 'image_url', 'still_of'];
const anyOf = (names: string[]) => names.map((name) => ({ required: [name] }));

type Described = Pick<Config, 'model' | 'limits' | 'bridge' | 'publicUrl'>;

export function openApiDocument({ publicUrl, ...config }: Described) {
  const parameters = requestProperties(config);
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
  const input = { type: 'object', description: 'Every parameter, with the values that are used' };
  const problem = (description: string) => ({
    description,
    content: { 'application/problem+json': { schema: ref('Problem') } },
  });
  const part = object(
    {
      status: { type: 'string', enum: ['ok', 'failing'] },
      reason: {
        type: 'string',
        enum: ['timeout', 'unreachable', 'error'],
        description: 'error: it answers, but not as it should; the log says more',
      },
    },
    ['status'],
  );
  const taskHeaders = {
    Location: { description: 'Where its status is', schema: text },
    'Idempotency-Replayed': {
      description: 'Only if an earlier request with this Idempotency-Key has made the task',
      schema: { const: 'true' },
    },
    'Preference-Applied': { description: 'Only after Prefer: wait=N, with the N that counted', schema: text },
  };
  const task = { description: 'The task', content: json(ref('Task')) };
  const delivery = { description: 'The delivery', content: json(ref('Delivery')) };
  const ofTask = {
    name: 'id',
    in: 'query',
    required: true,
    description: 'The task',
    schema: { type: 'string', minLength: 1 },
  };
  const keyed = {
    401: problem('No API key, or one that is not valid'),
    403: problem('The API key has not the scope; without keys: not from this machine, or from another web page'),
    503: problem('The store can’t be asked; try again'),
    429: { ...problem('Too many requests with this API key'), headers: { 'Retry-After': { schema: text } } },
  };
  const unlessThere = {
    ...keyed,
    404: problem('There is no such task'),
    422: problem('No id, or a query that is unknown'),
  };

  return {
    openapi: '3.1.0',
    info: {
      title: 'Text to Video API',
      version: '0.1.0',
      description:
        'A prompt or a picture becomes a video: POST /img2vid gives a task, GET /status tells how it is doing and, at the end, a link to an MP4. Every answer has an X-Request-Id: the caller’s own, if it is 1–64 letters, digits, dots, dashes or underscores.',
      license: { name: 'MIT', identifier: 'MIT' },
      'x-model': config.model,
    },
    servers: [{ url: publicUrl }],
    security: [{ key: [] }, {}],
    paths: {
      '/img2vid': {
        post: {
          operationId: 'img2vid',
          summary: 'Create a task',
          description:
            'Needs a prompt, an image_url, a picture (multipart only) or still_of. Every other parameter is optional.',
          parameters: [
            query(
              'dry_run',
              { type: 'string', enum: DRY_RUN },
              '1 or true: everything is checked as for a real post, and nothing is stored; the answer tells what the task would be',
            ),
            header(
              'Idempotency-Key',
              { type: 'string', minLength: 1, maxLength: 255, pattern: KEY.source },
              'A word of your own for this request: sent again with it within a day, the same request gives the same task',
            ),
            header(
              'Prefer',
              text,
              `wait=N: the answer may take up to N seconds, at most ${LONGEST_WAIT}, if the task may have ended by then (RFC 7240)`,
            ),
          ],
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
            200: {
              description:
                'The task, if it has ended within the time that Prefer gave it; with dry_run what it would be',
              headers: taskHeaders,
              content: json({ oneOf: [ref('Task'), ref('DryRun')] }),
            },
            202: {
              ...task,
              headers: taskHeaders,
              links: Object.fromEntries(
                ['status', 'cancel', 'delete'].map((operationId) => [
                  operationId,
                  { operationId, parameters: { id: '$response.body#/id' } },
                ]),
              ),
            },
            400: problem('The body can’t be read'),
            ...keyed,
            402: problem('The API key’s budget does not hold what the task may cost'),
            409: problem('The Idempotency-Key stands for another request'),
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
            query('id', { type: 'string', minLength: 1 }, 'The task; without it, the list of all tasks, newest first'),
            query(
              'limit',
              { type: 'integer', minimum: 1, maximum: LARGEST_PAGE },
              `Of the list one page of so many tasks, ${PAGE} if only a cursor is given; the header Link has the next one's address`,
            ),
            query(
              'cursor',
              { type: 'string', pattern: TASK_ID.source },
              'Of the list what follows a page: taken from its Link',
            ),
            query('status', { type: 'string', enum: STATUSES }, 'Of the list the tasks with this status'),
            query('since', time, 'Of the list what was created at this time or later'),
            query('until', time, 'Of the list what was created before this time'),
          ],
          responses: {
            200: {
              description: 'The task, or the list',
              headers: {
                Link: {
                  description: 'Of a page, if there is more: the address of the next, with rel="next"',
                  schema: text,
                },
              },
              content: {
                ...json({ oneOf: [ref('Task'), list(ref('Task'))] }),
                'text/event-stream': { schema: text },
              },
            },
            204: { description: 'Events only: the task had ended before, nothing more will come' },
            ...keyed,
            404: problem('There is no such task'),
            422: problem('Every unknown, repeated or wrong value of the query, with what is allowed'),
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
      '/usage': {
        get: {
          operationId: 'usage',
          summary: 'What the API key has spent, and may still spend',
          description:
            'By the day, UTC, on which tasks ended: this month’s, or those from `since` to `until`, both included. Amounts are in millionths of the currency.',
          parameters: ['since', 'until'].map((name) => query(name, { type: 'string', format: 'date' }, 'A day')),
          responses: {
            200: { description: 'The account', content: json(ref('Usage')) },
            ...keyed,
            422: problem('A wrong day, or a query that is unknown'),
          },
        },
      },
      '/webhooks/deliveries': {
        get: {
          operationId: 'deliveries',
          summary: 'What the API key’s webhooks were told, newest first',
          parameters: [
            query('id', { type: 'string', pattern: TASK_ID.source }, 'This one alone'),
            query('task', { type: 'string', pattern: TASK_ID.source }, 'Those of this task'),
            query('status', { type: 'string', enum: DELIVERY_STATUSES }, 'Those with this status'),
            query(
              'limit',
              { type: 'integer', minimum: 1, maximum: LARGEST_PAGE },
              `So many, ${PAGE} if it is not said`,
            ),
            query('cursor', { type: 'string', pattern: TASK_ID.source }, 'What follows a page: taken from its Link'),
          ],
          responses: {
            200: {
              description: 'The deliveries',
              headers: { Link: { description: 'If there are more: the address of the next page', schema: text } },
              content: json(list(ref('Delivery'))),
            },
            ...keyed,
            404: problem('There is no delivery with this id'),
            422: problem('Every unknown, repeated or wrong value of the query'),
          },
        },
      },
      '/webhooks/replay': {
        post: {
          operationId: 'replay',
          summary: 'Send a delivery again, under the same id',
          description: 'Also to a receiver that has answered 410: what is still to come is sent there again, too.',
          parameters: [{ ...ofTask, description: 'The delivery' }],
          responses: { 202: delivery, ...unlessThere, 404: problem('There is no such delivery') },
        },
      },
      '/webhooks/test': {
        post: {
          operationId: 'test',
          summary: 'Send an event webhook.test, once',
          description: 'GET /webhooks/deliveries?id= tells how it went.',
          parameters: [{ ...query('webhook_url', uri, 'Where to'), required: true }],
          responses: { 202: delivery, ...keyed, 422: problem('No address, or one that is not allowed') },
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
      '/readyz': {
        get: {
          operationId: 'ready',
          summary: 'Whether requests can be taken, and how each part does',
          description:
            'At most one look a second. It is ready without RunPod: tasks are kept, and sent when it is back.',
          responses: {
            200: { description: 'They can', content: json(ref('Readiness')) },
            403: problem('Not from this machine'),
            503: { description: 'They can’t, or the process stops', content: json(ref('Readiness')) },
          },
        },
      },
      '/metrics': {
        get: {
          operationId: 'metrics',
          summary: 'What was counted and timed, in Prometheus’ text format; for admins’ API keys',
          responses: {
            200: { description: 'Counters, gauges and histograms', content: { 'text/plain': { schema: text } } },
            ...keyed,
          },
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
      securitySchemes: {
        key: { type: 'http', scheme: 'bearer', description: 'An API key; none is needed before the first is made' },
      },
      schemas: {
        Request: { type: 'object', additionalProperties: false, properties: parameters, anyOf: anyOf(SOURCES) },
        Task: object(
          {
            id: { type: 'string', format: 'uuid' },
            status: { type: 'string', enum: STATUSES },
            stage: { type: 'string', enum: [...STAGES], description: 'What is being done, while running' },
            step: { type: 'integer', description: 'Of the stage: the sampling step, or the frame, that is done' },
            steps: { type: 'integer', description: 'How many of them there are' },
            progress: { type: 'number', minimum: 0, maximum: 1 },
            eta_seconds: { type: 'integer', description: 'Estimate of what is left' },
            created_at: time,
            started_at: time,
            finished_at: time,
            model: text,
            input,
            warnings: list(note),
            still: object({ link: uri }),
            videos: list(object({ ...file, seed: whole })),
            grid: object(file),
            links_expire_at: time,
            expired_at: { ...time, description: 'When its files and prompt were deleted' },
            error: jsonSchema(jobErrorSchema),
            cost: object({ amount: micro, currency, gpu_seconds: { type: 'number', minimum: 0 }, stills: whole }),
          },
          ['id', 'status', 'progress', 'created_at', 'model', 'input', 'warnings'],
        ),
        Readiness: object(
          {
            status: { type: 'string', enum: ['ready', 'not_ready', 'stopping'] },
            parts: object({ store: part, bucket: part, runpod: part }),
          },
          ['status'],
        ),
        DryRun: object({
          input,
          warnings: list(note),
          cost_estimate: object({ amount: micro, currency, gpu_seconds: { type: 'number', minimum: 0 } }),
        }),
        Usage: object({
          currency,
          month: { type: 'string', description: 'The month that spent is of, UTC' },
          budget: orNull(micro, 'The most for a month; null: any amount'),
          spent: micro,
          reserved: { ...micro, description: 'For open tasks' },
          left: orNull(micro, 'Of the budget'),
          open_tasks: whole,
          limits: object(
            Object.fromEntries(
              ['open_tasks', 'submissions_per_minute', 'requests_per_minute'].map((name) => [
                name,
                orNull(whole, 'null: any number'),
              ]),
            ),
          ),
          days: list(
            object({
              day: { type: 'string', format: 'date' },
              ...Object.fromEntries(['tasks', ...ENDED, 'stills'].map((name) => [name, whole])),
              gpu_seconds: number,
              amount: micro,
            }),
          ),
        }),
        Delivery: object(
          {
            id: text,
            type: text,
            task_id: text,
            url: uri,
            status: { type: 'string', enum: DELIVERY_STATUSES, description: 'disabled: its receiver has answered 410' },
            created_at: time,
            attempts: whole,
            attempted_at: time,
            next_attempt_at: time,
            status_code: { ...whole, description: 'The receiver’s last answer' },
            error: { ...text, description: 'Why there was none' },
            delivered_at: time,
          },
          ['id', 'type', 'url', 'status', 'created_at', 'attempts'],
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

/** Each parameter's schema, with the model's default; of the prompt what becomes of it here, as far as that is known. */
function requestProperties({ model, limits, bridge }: Omit<Described, 'publicUrl'>): Record<string, object> {
  const { properties = {} } = jsonSchema(requestSchema(limits, model)) as { properties?: Record<string, object> };
  Object.assign(properties.prompt!, { minLength: 1, maxLength: MAX_PROMPT, ...(bridge && { 'x-bridge': bridge }) });
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
