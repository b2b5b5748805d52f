import { randomBytes, randomInt } from 'node:crypto';
import type { Context } from 'hono';
import * as v from 'valibot';
import { JobError, taskFolder } from '../../core/job.ts';
import type { Limits, Request } from '../../core/parameters.ts';
import { PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { checkPicture } from '../../core/picture/picture.ts';
import type { ModelName } from '../../core/presets.ts';
import { InvalidRequest, parseRequest } from '../../core/request.ts';
import { isActive } from '../../core/responses.ts';
import { SECOND } from '../../core/time.ts';
import { urlErrors } from '../http/check-urls.ts';
import { endpoint } from '../http/endpoint.ts';
import {
  checkSame,
  conflict,
  IDEMPOTENCY_KEY,
  type Idempotency,
  NO_KEY,
  readIdempotency,
} from '../http/idempotency.ts';
import { MAX_WAIT, parsePreferredWait } from '../http/prefer.ts';
import { invalidInput } from '../http/problem.ts';
import { imageTooLarge, notJson, readBody, unsupportedMediaType } from '../http/read-body.ts';
import { PROMPT_REQUEST, WEBHOOK_URL_EXAMPLE } from '../openapi/examples.ts';
import {
  currency,
  type DocumentContext,
  examplesOf,
  fieldNote,
  gpuSeconds,
  json,
  jsonResponse,
  list,
  micro,
  object,
  problem,
  ref,
  responseHeader,
  retryLater,
  taskInput,
  text,
} from '../openapi/parts.ts';
import { tooManyRequests } from '../openapi/refusals.ts';
import type { Services } from '../services.ts';
import { INITIAL_STATE, type ListedTask, type NewTask, type Task } from '../store/task.ts';
import { presentEstimate } from '../tasks/estimate.ts';
import { follow } from '../tasks/follow.ts';
import { createTaskIds } from '../tasks/id.ts';
import { budgetSpent, notStored, storeTask, tooManyActive, tooManySubmissions } from './store-task.ts';

const TRUE = ['1', 'true'];
const DRY_RUN = [...TRUE, '0', 'false'];

const EXAMPLE_STILL_OF = '019a2f3a-11c2-7d09-8e55-6a1b40c2d7f3';
/** Requests that the API accepts, by summary; `still_of` must be a task of the client's own. */
export const EXAMPLE_REQUESTS = {
  'a prompt': PROMPT_REQUEST,
  'a picture by its URL': { image_url: 'https://example.com/photo.jpg', motion_bucket_id: 200, fps: 12 },
  'another of the four pictures': { still_of: EXAMPLE_STILL_OF, image_index: 3 },
  'a chosen sampler and guider': {
    prompt: 'a lighthouse at dawn',
    sampler: 'HeunEDMSampler',
    s_churn: 10,
    steps: 20,
    guider: 'VanillaCFG',
    cfg_scale: 2.5,
  },
  'several videos, and a webhook': {
    prompt: 'a lighthouse at dawn',
    num_cols: 3,
    webhook_url: WEBHOOK_URL_EXAMPLE,
  },
};

export const img2vid = endpoint({
  method: 'POST',
  path: '/img2vid',
  scope: 'submit',
  query: v.object({
    dry_run: v.optional(
      v.pipe(
        v.picklist(DRY_RUN, `must be one of ${DRY_RUN.join(', ')}`),
        v.description(
          '1 or true: the request is checked like any other, but nothing is stored; the response shows the task’s input and highest cost',
        ),
        v.transform((value) => TRUE.includes(value)),
      ),
    ),
  }),
  unknownParameter: 'unknown in the query: parameters belong in the body',
  schemas: {
    DryRun: object({
      input: taskInput,
      warnings: list(fieldNote),
      cost_estimate: {
        ...object({ amount: micro, currency, gpu_seconds: gpuSeconds }),
        description: 'The highest cost that the task can have',
      },
    }),
  },
  describe,

  /** Turns a valid request into a stored task, or in a dry run into its input and highest cost. */
  handle(services) {
    const { config, store, lifecycle, estimate, now } = services;
    const nextId = createTaskIds(now);

    return async (c, { dry_run: isDryRun = false }) => {
      const owner = c.get('key').id;
      const { values, image } = await readBody(c);
      const { input, warnings, request } = checkRequest(values, image !== undefined, services);
      const idempotency = isDryRun ? NO_KEY : readIdempotency(c, request, image);
      const { idempotency_key: key } = idempotency;
      const existing = key === null ? undefined : await store.findByIdempotencyKey(owner, key, now());
      if (existing) return replay(c, services, existing, idempotency);
      const { still_of, image_index } = input;
      const source_key =
        still_of === undefined ? null : await findStill(services, owner, still_of, image_index, request);
      const usesImage = input.prompt === undefined && input.image_url === undefined && image !== undefined;
      if (image) await checkImage(image); // an unused one too: the client should learn that it is broken
      if (input.webhook_url !== undefined && (await isDisabled(c, services, input.webhook_url)))
        warnings.push({
          field: 'webhook_url',
          message: 'disabled: it has responded 410; a replay or a test enables it',
        });
      const estimated = await estimate(input);
      if (isDryRun) return c.json({ input, warnings, cost_estimate: presentEstimate(estimated) });

      const { id, created_at } = nextId();
      const task: NewTask = {
        ...INITIAL_STATE,
        id,
        owner,
        ...idempotency,
        created_at,
        model: config.model,
        input,
        warnings,
        image_key: usesImage ? `${taskFolder(id)}/upload` : null,
        source_key,
        quote: estimated.quote,
        callback_token: randomBytes(24).toString('base64url'),
      };
      const simultaneous = await storeTask(c, services, task, image, estimated);
      if (simultaneous) return replay(c, services, simultaneous, idempotency);
      c.get('log').info({ task: id }, 'task created');
      lifecycle.dispatch();
      return respond(c, services, task);
    };
  },
});

/** @throws Problem 422 with every invalid field */
function checkRequest(values: Record<string, unknown>, hasImage: boolean, { config }: Pick<Services, 'config'>) {
  try {
    const parsed = parseRequest(values, { ...config, hasImage, seed: randomInt(0, 1e9 + 1) });
    const errors = urlErrors(parsed.input, config);
    if (errors.length > 0) throw invalidInput(errors);
    if (parsed.input.prompt !== undefined && config.bridge === 'none') throw noBridge();
    return parsed;
  } catch (error) {
    throw error instanceof InvalidRequest ? invalidInput(error.errors) : error;
  }
}

/** @returns the bucket key of an earlier task's picture. @throws Problem 422, the same for every reason why there is none */
async function findStill(
  { store, bucket }: Services,
  owner: string,
  id: string,
  index: number,
  request: Request,
): Promise<string> {
  const folder = taskFolder(id);
  if (await store.getOwn(owner, id)) {
    const oneOfFour = `${folder}/imagine-${index}.png`;
    if (await bucket.has(oneOfFour)) return oneOfFour;
    const only = `${folder}/still.png`; // of a task that began with a picture
    if (request.image_index === undefined && (await bucket.has(only))) return only;
  }
  throw invalidInput([{ field: 'still_of', message: 'must be the id of an earlier task whose pictures are kept' }]);
}

/** @throws Problem 422 */
async function checkImage(image: Uint8Array): Promise<void> {
  try {
    await checkPicture(image);
  } catch (error) {
    throw error instanceof JobError ? imageRejected(error.message) : error;
  }
}

/** Whether the webhook URL is disabled. It matters only for a warning, so an error of the store counts as no. */
function isDisabled(c: Context, { store }: Pick<Services, 'store'>, url: string): Promise<boolean> {
  return store.isWebhookDisabled(c.get('key').id, url).catch((error) => {
    c.get('log').warn({ error }, 'could not read whether a webhook URL is disabled');
    return false;
  });
}

function replay(c: Context, services: Services, existing: Task, idempotency: Idempotency) {
  checkSame(existing, idempotency);
  c.header('idempotency-replayed', 'true');
  return respond(c, services, existing);
}

/** Responds with the task at once, or with `Prefer: wait` when it has ended or the time is over. */
async function respond(c: Context, services: Services, task: Task | NewTask) {
  const seconds = parsePreferredWait(c.req.header('prefer'));
  if (seconds !== undefined) c.header('preference-applied', `wait=${seconds}`);
  const latest = seconds === undefined ? task : await waitForEnd(c, services, task, seconds);
  const status = seconds === undefined || isActive(latest.status) ? 202 : 200;
  return c.json(await services.presentTask(latest), status, { location: `/status?id=${task.id}` });
}

/** @returns the task when it has ended, or as it is when the time is over, the client has gone or the process stops */
async function waitForEnd(c: Context, services: Services, task: Task | NewTask, seconds: number): Promise<ListedTask> {
  const read = () => services.store.getOwn(task.owner, task.id);
  const signals = [AbortSignal.timeout(seconds * SECOND), c.req.raw.signal, services.stopping];
  let latest: ListedTask = task;
  try {
    for await (const changed of follow(task.owner, (await read())!, services, signals)) latest = changed ?? latest;
    if (isActive(latest.status)) latest = (await read()) ?? latest; // changes by other processes arrive late
  } catch (error) {
    c.get('log').warn({ task: task.id, error }, 'a wait for the end of a task failed'); // the task is stored: respond all the same
  }
  return latest;
}

const noBridge = () =>
  invalidInput([{ field: 'prompt', message: 'there is no Midjourney bridge here; send a picture' }], 'no_bridge');
const imageRejected = (message: string) => invalidInput([{ field: 'image', message }], 'image_rejected');

function describe({ model, limits, tasks }: DocumentContext) {
  const { input, warnings } = tasks.queued;
  const dryRun = { input, warnings, cost_estimate: { amount: 8_840, currency: 'USD', gpu_seconds: 26 } };
  const headers = {
    Location: responseHeader('URL of the task’s status'),
    'Idempotency-Replayed': responseHeader('Present if an earlier request with this Idempotency-Key created the task', {
      const: 'true',
    }),
    'Preference-Applied': responseHeader('The wait=N that was used; present after Prefer: wait=N'),
  };
  return {
    operationId: 'img2vid',
    tags: ['tasks'],
    summary: 'Create a task',
    description:
      'Needs a prompt, an image_url, a picture (multipart only) or still_of. Every other parameter is optional.',
    parameters: [
      {
        name: 'Idempotency-Key',
        in: 'header',
        required: false,
        description:
          'A unique string for this request: within a day, a retry of the request with it returns the same task',
        schema: { type: 'string', minLength: 1, maxLength: 255, pattern: IDEMPOTENCY_KEY.source },
      },
      {
        name: 'Prefer',
        in: 'header',
        required: false,
        description: `wait=N: the response waits up to N seconds, at most ${MAX_WAIT}, for the task to end (RFC 7240)`,
        schema: text,
      },
    ],
    requestBody: {
      required: true,
      content: {
        ...json(ref('Request'), EXAMPLE_REQUESTS),
        'application/x-www-form-urlencoded': {
          schema: ref('Request'),
          examples: examplesOf({ 'a prompt': PROMPT_REQUEST }),
        },
        'multipart/form-data': {
          schema: ref('Upload'),
          examples: examplesOf({ 'a picture': { image: '(the file)', seed: 23 } }),
        },
      },
    },
    responses: {
      200: {
        description: 'The task, if it has ended within the time of Prefer; with dry_run its input and highest cost',
        headers,
        content: json(
          { oneOf: [ref('Task'), ref('DryRun')] },
          { 'with Prefer: wait, if it has ended': tasks.succeeded, 'with dry_run': dryRun },
        ),
      },
      202: {
        ...jsonResponse('The task', 'Task', { created: tasks.queued }),
        headers,
        links: Object.fromEntries(
          ['status', 'cancel', 'delete'].map((operationId) => [
            operationId,
            { operationId, parameters: { id: '$response.body#/id' } },
          ]),
        ),
      },
      400: problem('The body can’t be read', notJson()),
      402: problem(
        'The highest cost of the task exceeds the API key’s budget',
        budgetSpent(54_400, 21_000, 25e6, 'USD'),
      ),
      409: problem(
        'The Idempotency-Key belongs to another request',
        conflict({ id: EXAMPLE_STILL_OF, created_at: Date.parse('2025-11-29T11:57:30.114Z') }),
      ),
      413: problem('The body or the picture is too large', imageTooLarge()),
      415: problem('Unsupported content type', unsupportedMediaType()),
      422: problem(
        'Invalid values: every field with the allowed values; code image_rejected for an unusable picture',
        invalidExample(model, limits),
        imageRejected(`not a whole picture of type ${PICTURE_TYPES_TEXT}`),
        noBridge(),
      ),
      429: retryLater('Too many tasks or requests', tooManySubmissions(60), tooManyActive(100), tooManyRequests),
      503: retryLater('The task could not be stored', notStored()),
    },
  };
}

function invalidExample(model: ModelName, limits: Limits) {
  try {
    parseRequest({ H: 100, T: 0, step: 5 }, { model, limits, hasImage: true, seed: 0 });
  } catch (error) {
    if (error instanceof InvalidRequest) return invalidInput(error.errors);
  }
  throw new Error('the example of invalid values is valid');
}
