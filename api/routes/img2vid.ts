import type { Context } from 'hono';
import * as v from 'valibot';
import { choice } from '../../core/parameter-types.ts';
import { PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { isActive } from '../../core/task-status.ts';
import { SECOND } from '../../core/time.ts';
import { tooManyUploads } from '../http/body-budget.ts';
import { endpoint } from '../http/endpoint.ts';
import { conflict, IDEMPOTENCY_KEY } from '../http/idempotency.ts';
import { imageTooLarge } from '../http/multipart.ts';
import { MAX_WAIT, parsePreferredWait } from '../http/prefer.ts';
import { invalidInput, Problem } from '../http/problem.ts';
import { notJson, readBody, unsupportedMediaType } from '../http/read-body.ts';
import { noLongerValid } from '../keys/access.ts';
import { PROMPT_REQUEST, WEBHOOK_URL_EXAMPLE } from '../openapi/examples.ts';
import {
  content,
  type DocumentContext,
  headerParameter,
  json,
  jsonResponse,
  ref,
  responseHeader,
} from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { PublicTask } from '../store/task.ts';
import { follow } from '../tasks/follow.ts';
import { createTask, imageRejected, noBridge, quoteTask, tooManyPictures } from './create-task.ts';
import { budgetSpent, notStored, tooManyActive, tooManySubmissions, uploadsFull } from './store-task.ts';

const EXAMPLE_STILL_OF = '019a2f3a-11c2-7d09-8e55-6a1b40c2d7f3';
const { prompt } = PROMPT_REQUEST;
/** Requests that the API accepts, by summary; `still_of` must be a task of the client's own. */
export const EXAMPLE_REQUESTS = {
  'a prompt': PROMPT_REQUEST,
  'a picture by its URL': { image_url: 'https://example.com/photo.jpg', motion_bucket_id: 200, fps: 12 },
  'another of the four pictures': { still_of: EXAMPLE_STILL_OF, image_index: 3 },
  'a chosen sampler': {
    prompt,
    sampler: 'HeunEDMSampler',
    s_churn: 10,
    steps: 20,
    guider: 'VanillaCFG',
    cfg_scale: 2.5,
  },
  'several videos, and a webhook': { prompt, num_cols: 3, webhook_url: WEBHOOK_URL_EXAMPLE },
};

export const img2vid = endpoint({
  method: 'POST',
  path: '/img2vid',
  alias: { method: 'POST', path: '/tasks', operationId: 'createTask' },
  scope: 'submit',
  query: v.object({
    dry_run: v.optional(
      v.pipe(
        choice(
          ['1', 'true', '0', 'false'],
          '1 or true: checks the request and stores nothing. The response shows the task’s input and highest cost',
        ),
        v.transform((value) => value === '1' || value === 'true'),
      ),
    ),
  }),
  unknownParameter: 'unknown in the query: parameters belong in the body',
  describe,

  /** Turns a valid request into a stored task, or in a dry run into its input and highest cost. */
  handle:
    (services) =>
    async (c, { dry_run: isDryRun = false }) => {
      const body = await readBody(c, services.reserveBody);
      if (isDryRun) return c.json(await quoteTask(c, services, body));
      return respond(c, services, await createTask(c, services, body));
    },
});

/** Responds with the task at once, or with `Prefer: wait` when it has ended or the time is over. */
async function respond(c: Context, services: Services, task: PublicTask) {
  const seconds = parsePreferredWait(c.req.header('prefer'));
  if (seconds !== undefined) c.header('preference-applied', `wait=${seconds}`);
  const latest = seconds === undefined ? task : await waitForEnd(c, services, task, seconds);
  const status = seconds === undefined || isActive(latest.status) ? 202 : 200;
  return c.json(await services.presentTask(latest), status, { location: `/status?id=${task.id}` });
}

/**
 * @param onChange gets the task as it is, and after each change
 * @returns the task when it has ended, or as it is when the time is over, the client has gone or the process stops
 * @throws Problem 401 the key was revoked
 */
export async function waitForEnd(
  c: Context,
  services: Services,
  task: PublicTask,
  seconds: number,
  onChange: (task: PublicTask) => unknown = () => undefined,
): Promise<PublicTask> {
  const { key, isAdmitted } = c.var;
  const read = () => services.store.getPublic(key.id, task.id);
  c.get('releaseBody')?.();
  const signals = [AbortSignal.timeout(seconds * SECOND), c.req.raw.signal, services.stopping];
  let latest = task;
  try {
    for await (const changed of follow(key.id, (await read())!, services, signals, isAdmitted)) {
      if (!changed) continue;
      latest = changed;
      await onChange(changed);
    }
    if (!(await isAdmitted())) throw noLongerValid();
    if (isActive(latest.status)) latest = (await read()) ?? latest; // changes by other processes arrive late
  } catch (error) {
    if (error instanceof Problem && error.code === 'unauthorized') throw error;
    c.get('log').warn({ task: task.id, error }, 'a wait for the end of a task failed'); // the task is stored: respond all the same
  }
  return latest;
}

/** For the document. */
export const IDEMPOTENCY_HEADER = headerParameter(
  'Idempotency-Key',
  'A unique string for this request. A retry with the same string within a day returns the same task',
  { type: 'string', minLength: 1, maxLength: 255, pattern: IDEMPOTENCY_KEY.source },
);

function describe({ limits, tasks }: DocumentContext) {
  const { input, warnings } = tasks.queued;
  const dryRun = { input, warnings, cost_estimate: { amount: 8_840, currency: 'USD', gpu_seconds: 26 } };
  const link = (operationId: string) => ({ operationId, parameters: { id: '$response.body#/id' } });
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
      'Needs a prompt, an image_url, a picture (multipart, or as text) or still_of. Every other parameter is optional.',
    parameters: [
      IDEMPOTENCY_HEADER,
      headerParameter(
        'Prefer',
        `wait=N: the response waits up to N seconds, at most ${MAX_WAIT}, for the task to end (RFC 7240)`,
      ),
    ],
    requestBody: {
      required: true,
      content: {
        ...json(ref('Request'), EXAMPLE_REQUESTS),
        ...content('application/x-www-form-urlencoded', ref('Request'), { 'a prompt': PROMPT_REQUEST }),
        ...content('multipart/form-data', ref('Upload'), { 'a picture': { image: '(the file)', seed: 23 } }),
      },
    },
    responses: {
      200: {
        description:
          'With Prefer: wait, the task, if it has ended in time. With dry_run, the task’s input and highest cost',
        headers,
        content: json(
          { oneOf: [ref('Task'), ref('DryRun')] },
          { 'with Prefer: wait, if it has ended': tasks.succeeded, 'with dry_run': dryRun },
        ),
      },
      202: {
        ...jsonResponse('The task', 'Task', { created: tasks.queued }),
        headers,
        links: { status: link('status'), cancel: link('cancel'), delete: link('delete') },
      },
    },
    errors: createErrors(limits),
  };
}

/** Each error with which the creation of a task is refused. */
export const createErrors = ({ maxFrames }: DocumentContext['limits']) => [
  notJson(),
  budgetSpent(54_400, 21_000, 25e6, 'USD'),
  conflict({ id: EXAMPLE_STILL_OF, created_at: Date.parse('2025-11-29T11:57:30.114Z') }),
  imageTooLarge(),
  unsupportedMediaType(),
  invalidInput([
    { field: 'step', message: 'unknown; did you mean steps?' },
    { field: 'H', message: 'must be a multiple of 64 from 64 to 2048; nearest: 64 and 128' },
    { field: 'T', message: `must be a whole number from 1 to ${maxFrames}` },
  ]),
  imageRejected(`not a complete picture of type ${PICTURE_TYPES_TEXT}`),
  noBridge(),
  tooManySubmissions(60),
  tooManyUploads(),
  tooManyActive(100),
  uploadsFull(1000),
  notStored(),
  tooManyPictures(),
];
