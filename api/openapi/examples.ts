/** What requests and answers look like: made by the functions that make the real ones, where those need no store. */

import { JobError } from '../../core/job.ts';
import { PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { InvalidRequest, parseRequest } from '../../core/request.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { Problem } from '../http/problem.ts';
import { invalid } from '../http/read-body.ts';
import type { Readiness } from '../routes/ready.ts';
import type { About } from './parts.ts';

export const ID = '019a2f3c-5d1e-7c44-9b7a-0f2d7c3b9e10';
const EARLIER = '019a2f3a-11c2-7d09-8e55-6a1b40c2d7f3';
const DELIVERY = '019a2f3c-9e70-7a51-a4c8-2b6f1d0e8a94';
const HOOK = 'https://example.com/hooks/video';

/** Requests that the API accepts, by what they show; `still_of` must be a task of one's own. */
export const REQUESTS = {
  'a prompt': { prompt: 'a lighthouse at dawn', seed: 23 },
  'a picture by its address': { image_url: 'https://example.com/photo.jpg', motion_bucket_id: 200, fps: 12 },
  'another of the four pictures': { still_of: EARLIER, image_index: 3 },
  'a sampler and a guider of one’s choice': {
    prompt: 'a lighthouse at dawn',
    sampler: 'HeunEDMSampler',
    s_churn: 10,
    steps: 20,
    guider: 'VanillaCFG',
    cfg_scale: 2.5,
  },
  'several videos, and an announcement': { prompt: 'a lighthouse at dawn', num_cols: 3, webhook_url: HOOK },
};

export function examples({ model, limits, publicUrl }: About) {
  const { input, warnings } = parseRequest(REQUESTS['a prompt'], { model, limits, hasImage: false, seed: 23 });
  const folder = `${publicUrl}/files/tasks/${ID}`;
  const signed = '?expires=1764504000&signature=Zk0q1mS8lqX3v2b7mYc5tA';
  const queued = {
    id: ID,
    status: 'queued',
    progress: 0,
    created_at: '2025-11-29T12:00:00.414Z',
    model,
    input,
    warnings,
  } satisfies PresentedTask;
  const running = {
    ...queued,
    status: 'running',
    stage: 'sampling',
    step: Math.ceil(input.steps / 2),
    steps: input.steps,
    progress: 0.47,
    eta_seconds: 21,
    started_at: '2025-11-29T12:00:01.082Z',
    still: { link: `${folder}/still.png${signed}` },
    links_expire_at: '2025-11-30T12:00:00.000Z',
  } satisfies PresentedTask;
  const ended = { progress: 1, finished_at: '2025-11-29T12:00:40.770Z' };
  const { still, links_expire_at, started_at } = running;
  const cost = { amount: 8_840, currency: 'USD', gpu_seconds: 26, stills: 0 };
  const video = {
    link: `${folder}/0b6de5f1-u1/video-1.mp4${signed}`,
    width: input.W,
    height: input.H,
    frames: input.T,
    fps: input.fps,
    seconds: input.T / input.fps,
    bytes: 412_604,
    sha256: '5f2c1be1a8f0e0ad1c3f7a95be0e6a1f0c7d4b2e9a8867735d0c4be1f2a39d06',
    seed: input.seed,
  };
  const succeeded = {
    ...queued,
    ...ended,
    status: 'succeeded',
    started_at,
    still,
    videos: [video],
    links_expire_at,
    cost,
  } satisfies PresentedTask;
  const error = new JobError('banned_prompt', 'Midjourney refuses this prompt').data;
  const nothing = { ...cost, amount: 0, gpu_seconds: 0 };
  const failed = { ...queued, ...ended, status: 'failed', started_at, error, cost: nothing } satisfies PresentedTask;
  const canceled = { ...queued, ...ended, status: 'canceled', cost: nothing } satisfies PresentedTask;
  const { still: _still, videos: _videos, links_expire_at: _until, ...kept } = succeeded;
  const { prompt: _prompt, ...rest } = input as typeof input & { prompt: string };
  const deleted = {
    ...kept,
    input: rest as typeof input,
    expired_at: '2025-11-29T13:00:00.000Z',
  } satisfies PresentedTask;

  const sent = { id: DELIVERY, type: 'task.succeeded', task_id: ID, url: HOOK, created_at: ended.finished_at };
  const limitsOfKey = { open_tasks: 100, submissions_per_minute: 60, requests_per_minute: 1200 };
  const day = { day: '2025-11-29', tasks: 3, succeeded: 1, failed: 1, canceled: 1, stills: 0 };
  const event = (task: object, version: number) => `event: task\ndata: ${JSON.stringify(task)}\nid: ${version}\n\n`;

  return {
    tasks: { queued, running, succeeded, failed, canceled, deleted },
    events: event(running, 7) + event(succeeded, 21),
    dryRun: { input, warnings, cost_estimate: { amount: 8_840, currency: 'USD', gpu_seconds: 26 } },
    usage: {
      currency: 'USD',
      month: '2025-11',
      budget: 25_000_000,
      spent: 8_840,
      reserved: 12_000,
      left: 24_979_160,
      open_tasks: 1,
      limits: limitsOfKey,
      days: [{ ...day, gpu_seconds: 26, amount: 8_840 }],
    },
    noBudget: {
      currency: 'USD',
      month: '2025-11',
      budget: null,
      spent: 0,
      reserved: 0,
      left: null,
      open_tasks: 0,
      limits: { open_tasks: null, submissions_per_minute: null, requests_per_minute: null },
      days: [],
    },
    deliveries: {
      delivered: {
        ...sent,
        status: 'delivered',
        attempts: 1,
        attempted_at: '2025-11-29T12:00:40.911Z',
        status_code: 204,
        delivered_at: '2025-11-29T12:00:41.003Z',
      },
      pending: {
        ...sent,
        status: 'pending',
        attempts: 1,
        attempted_at: '2025-11-29T12:00:40.911Z',
        next_attempt_at: '2025-11-29T12:00:46.100Z',
        error: 'ECONNREFUSED',
      },
      test: {
        id: DELIVERY,
        type: 'webhook.test',
        url: HOOK,
        status: 'pending',
        created_at: ended.finished_at,
        attempts: 0,
      },
    },
    ready: {
      status: 'ready',
      parts: { store: { status: 'ok' }, bucket: { status: 'ok' }, runpod: { status: 'failing', reason: 'timeout' } },
    } satisfies Readiness,
    notReady: {
      status: 'not_ready',
      parts: {
        store: { status: 'failing', reason: 'unreachable' },
        bucket: { status: 'ok' },
        runpod: { status: 'ok' },
      },
    } satisfies Readiness,
    stopping: { status: 'stopping' },
    metrics:
      '# HELP img2vid_tasks Open tasks\n# TYPE img2vid_tasks gauge\nimg2vid_tasks{status="queued"} 3\nimg2vid_tasks{status="running"} 1\n',
    problems: problems({ model, limits }),
  };
}

export type Examples = ReturnType<typeof examples>;

/** Refusals as the routes word them. */
function problems({ model, limits }: Pick<About, 'model' | 'limits'>) {
  return {
    unreadable: new Problem(400, 'unreadable', 'the body is not JSON'),
    unauthorized: new Problem(401, 'unauthorized', 'send an API key: Authorization: Bearer i2v_…'),
    budget: new Problem(
      402,
      'budget_spent',
      'this task may cost 0.0544 USD; 0.021 USD of this month’s budget of 25 USD are left',
    ),
    scope: new Problem(403, 'insufficient_scope', 'this API key has not the scope submit'),
    host: new Problem(
      403,
      'forbidden_host',
      'without API keys this service answers only to localhost, 127.0.0.1 and [::1]',
    ),
    link: new Problem(403, 'link_invalid', 'this link is not valid, or has expired'),
    noTask: new Problem(404, 'not_found', 'there is no such task'),
    noDelivery: new Problem(404, 'not_found', 'there is no such delivery'),
    noFile: new Problem(404, 'not_found', 'there is no such file'),
    idempotency: new Problem(
      409,
      'idempotency_conflict',
      `this Idempotency-Key stands for task ${EARLIER} of 2025-11-29T11:57:30.114Z, which other parameters or another picture made; take a new key`,
    ),
    ended: new Problem(409, 'ended', 'there is nothing left to cancel: the task has succeeded'),
    notEnded: new Problem(409, 'not_ended', 'the task is running: cancel it first, or wait for its end'),
    tooLarge: new Problem(413, 'too_large', 'image has more than 20 MB'),
    type: new Problem(
      415,
      'unsupported_media_type',
      'send application/json, application/x-www-form-urlencoded or multipart/form-data',
    ),
    range: new Problem(416, 'range_not_satisfiable', 'the file has 412604 bytes'),
    fields: problemOf(() => parseRequest({ H: 100, T: 0, step: 5 }, { model, limits, hasImage: true, seed: 0 })),
    picture: problemOf(() =>
      invalid([{ field: 'image', message: `not a whole picture of type ${PICTURE_TYPES_TEXT}` }], 'image_rejected'),
    ),
    bridge: problemOf(() =>
      invalid([{ field: 'prompt', message: 'there is no Midjourney bridge here; send a picture' }], 'no_bridge'),
    ),
    id: problemOf(() => invalid([{ field: 'id', message: 'must be the id of a task' }])),
    query: problemOf(() => invalid([{ field: 'limt', message: 'unknown; did you mean limit?' }])),
    day: problemOf(() => invalid([{ field: 'since', message: 'must be a day, such as 2026-01-31' }])),
    hook: problemOf(() => invalid([{ field: 'webhook_url', message: 'must be an https URL' }])),
    requests: new Problem(429, 'too_many_requests', 'this key has 1200 requests a minute'),
    submissions: new Problem(429, 'too_many_submissions', 'tasks a minute with this API key: at most 60'),
    open: new Problem(429, 'too_many_open', 'open tasks with this API key: at most 100; wait for one to end'),
    store: new Problem(503, 'unavailable', 'API keys can’t be looked up now; try again'),
    notStored: new Problem(503, 'unavailable', 'the task could not be stored; try again'),
    bucket: new Problem(503, 'unavailable', 'the pictures can’t be reached; try again'),
  };
}

function problemOf(refused: () => unknown): Problem {
  try {
    refused();
  } catch (error) {
    if (error instanceof Problem) return error;
    if (error instanceof InvalidRequest) return problemOf(() => invalid(error.errors));
  }
  throw new Error('this is accepted, and no example of a refusal');
}
