/** The JSON of the API's responses: the OpenAPI document has these schemas, the API and the client their types. */
import * as v from 'valibot';
import { DEVICES, jobErrorSchema, STAGES } from './job.ts';
import { OPENAI_RESPONSES } from './openai-responses.ts';
import type { Input } from './parameters.ts';
import type { ModelName } from './presets.ts';
import { PROBLEMS, type ProblemCode } from './problems.ts';
import { ENDED_STATUSES, STATUSES } from './task-status.ts';

const text = v.string();
const whole = v.pipe(v.number(), v.integer());
/** ISO 8601 in UTC */
const time = v.pipe(text, v.isoTimestamp());
const link = v.pipe(text, v.url());
const seconds = v.pipe(v.number(), v.minValue(0), v.description('Seconds of sampling and decoding'));
const microUnits = v.pipe(whole, v.minValue(0), v.description('In millionths of the currency'));
const currency = v.pipe(text, v.regex(/^[A-Z]{3}$/));
const described = <S extends v.GenericSchema>(schema: S, description: string) =>
  v.pipe(schema, v.description(description));
/** A value whose type the document does not describe further. */
const opaque = <T>(metadata: { type: string; description?: string }) =>
  v.pipe(
    v.custom<T>(() => true),
    v.metadata(metadata),
  );

const notes = v.array(v.object({ field: text, message: text }));
const input = opaque<Input>({
  type: 'object',
  description:
    'Every parameter, with the values that are used. Until the picture is known, it may have aspect_ratio auto instead of W, H or both',
});
const file = {
  link: described(link, 'Expires at links_expire_at'),
  content_type: text,
  filename: described(text, 'Name to save the file under: ASCII letters, digits, hyphens, underscores and dots'),
};
const picture = v.object(file);
const video = {
  ...file,
  download_link: described(link, 'The same file, which browsers save as filename instead of playing it'),
  width: whole,
  height: whole,
  frames: whole,
  fps: whole,
  seconds: v.number(),
  bytes: whole,
  sha256: described(text, 'Hash of the file, in hexadecimal'),
};
const amounts = { amount: microUnits, currency, gpu_seconds: seconds };
const costEstimate = v.object({
  ...amounts,
  expected_seconds: v.exactOptional(
    described(v.pipe(v.number(), v.minValue(0)), 'What sampling and decoding probably take, from the latest results'),
  ),
});
const cost = v.object({ ...amounts, stills: described(whole, 'Pictures that a bridge made') });

const Task = v.object({
  id: v.pipe(text, v.uuid()),
  status: described(v.picklist(STATUSES), 'queued, running, then succeeded, failed or canceled'),
  stage: v.exactOptional(described(v.picklist(STAGES), 'Current stage of a running task')),
  step: v.exactOptional(described(whole, 'Sampling steps or frames that the stage has done')),
  steps: v.exactOptional(described(whole, 'Sampling steps or frames that the stage has in all')),
  progress: v.pipe(v.number(), v.minValue(0), v.maxValue(1), v.description('Never decreases')),
  queue_position: v.exactOptional(described(whole, 'Place of a queued task: 1 is next')),
  eta_seconds: v.exactOptional(described(whole, 'Estimated seconds until the end')),
  created_at: time,
  started_at: v.exactOptional(time),
  finished_at: v.exactOptional(time),
  model: opaque<ModelName>({ type: 'string' }),
  input,
  warnings: described(notes, 'Parameters that are ignored or unusual'),
  metadata: v.exactOptional(described(v.record(text, text), 'As the request had it')),
  still: v.exactOptional(
    described(
      v.object({
        ...file,
        preview: v.exactOptional(described(picture, 'JPEG of at most 1024 pixels in width and height')),
      }),
      'The picture that is animated, as PNG',
    ),
  ),
  pictures: v.exactOptional(
    described(whole, 'Pictures that the image provider drew of the prompt: image_index with still_of may be 1 to this'),
  ),
  videos: v.exactOptional(
    v.array(
      v.object({
        ...video,
        seed: whole,
        poster: v.exactOptional(described(picture, 'JPEG of the first frame')),
        preview: v.exactOptional(
          described(picture, 'Animated WebP of at most 480 pixels in width and height, and 400 kB'),
        ),
      }),
    ),
  ),
  grid: v.exactOptional(described(v.object(video), 'Several videos in one, in rows and columns')),
  share_link: v.exactOptional(described(link, 'A page that plays the clip, without an API key')),
  links_expire_at: v.exactOptional(time),
  expired_at: v.exactOptional(described(time, 'When the task’s files and prompt were deleted')),
  error: v.exactOptional(described(jobErrorSchema, 'Why the task failed')),
  cost: v.exactOptional(cost),
  device: v.exactOptional(
    described(v.picklist(DEVICES), 'What the networks of a finished clip ran on; the camera has none'),
  ),
  urls: v.object({
    self: described(link, 'GET: the task'),
    events: described(link, 'GET: its events'),
    cancel: described(link, 'POST: cancels it; 409 after its end'),
    delete: described(link, 'DELETE: deletes its files and prompt; 409 before its end'),
    web: described(link, 'The task on the web page'),
  }),
});
export type PresentedTask = v.InferOutput<typeof Task>;
export type Cost = v.InferOutput<typeof cost>;
/** The highest cost that a task can have. */
export type CostEstimate = v.InferOutput<typeof costEstimate>;

/** Events that are stored until they are delivered. */
const STORED_TYPES = ['task.started', ...ENDED_STATUSES.map((status) => `task.${status}` as const)] as const;

const Event = v.pipe(
  v.variant('type', [
    v.object({ type: v.picklist([...STORED_TYPES, 'task.progress']), timestamp: time, data: Task }),
    v.object({ type: v.literal('webhook.test'), timestamp: time, data: v.object({ message: text }) }),
  ]),
  v.description('Body of a POST to a webhook_url: a task has started, goes on or has ended, or a test'),
);

const Problem = v.object({
  type: text,
  title: text,
  status: whole,
  detail: described(text, 'What is wrong, as text for people'),
  code: described(v.picklist(Object.keys(PROBLEMS) as ProblemCode[]), 'Error code for programs'),
  errors: v.exactOptional(described(notes, 'Every invalid field, with the allowed values')),
});

const day = v.object({
  day: v.pipe(text, v.isoDate()),
  tasks: whole,
  succeeded: whole,
  failed: whole,
  canceled: whole,
  stills: whole,
  gpu_seconds: v.number(),
  amount: microUnits,
});
const limit = described(v.nullable(whole), 'null: unlimited');
const Usage = v.object({
  currency,
  month: described(text, 'The month of `spent`, UTC'),
  budget: described(v.nullable(microUnits), 'Budget of a month; null: unlimited'),
  spent: microUnits,
  reserved: described(microUnits, 'Reserved for active tasks'),
  left: described(v.nullable(microUnits), 'What is left of the budget'),
  open_tasks: whole,
  limits: v.object({ open_tasks: limit, submissions_per_minute: limit, requests_per_minute: limit }),
  days: v.array(day),
});
/** The account of an API key. */
export type Usage = v.InferOutput<typeof Usage>;
/** The usage of the tasks that ended on one day. */
export type UsageDay = v.InferOutput<typeof day>;

export const DELIVERY_STATUSES = ['pending', 'delivered', 'failed', 'disabled'] as const;
const Delivery = v.object({
  id: text,
  type: v.picklist([...STORED_TYPES, 'webhook.test']),
  task_id: v.exactOptional(text),
  url: link,
  status: described(v.picklist(DELIVERY_STATUSES), 'disabled: the receiver has responded 410'),
  created_at: time,
  attempts: whole,
  attempted_at: v.exactOptional(time),
  next_attempt_at: v.exactOptional(time),
  status_code: v.exactOptional(described(whole, 'Status of the receiver’s last response')),
  error: v.exactOptional(described(text, 'Why there was no response')),
  delivered_at: v.exactOptional(time),
});

const dependency = v.object({
  status: v.picklist(['ok', 'failing']),
  reason: v.exactOptional(
    described(
      v.picklist(['timeout', 'unreachable', 'full', 'error']),
      'full: its disk is full; error: it responds with an error; the log has details',
    ),
  ),
});
const Readiness = v.object({
  status: v.picklist(['ready', 'not_ready', 'stopping']),
  parts: v.exactOptional(v.object({ store: dependency, bucket: dependency, runpod: dependency })),
});
export type DependencyStatus = v.InferOutput<typeof dependency>;

/** The schemas of the OpenAPI document, by name. */
export const RESPONSES = {
  Task,
  DryRun: v.object({ input, warnings: notes, cost_estimate: costEstimate }),
  Problem,
  Event,
  Usage,
  Delivery,
  Readiness,
  ...OPENAI_RESPONSES,
};
