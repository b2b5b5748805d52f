/** The document's schemas. */

import { jobErrorSchema, STAGES } from '../../core/job.ts';
import { jsonSchema, requestProperties } from '../../core/parameter-schema.ts';
import { PICTURE_LIMITS_TEXT, PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { PROBLEMS } from '../../core/problems.ts';
import { ENDED_STATUSES, STATUSES } from '../../core/responses.ts';
import { DELIVERY_STATUSES } from '../store/delivery.ts';
import {
  type About,
  currency,
  day,
  list,
  micro,
  number,
  object,
  orNull,
  ref,
  text,
  time,
  uri,
  whole,
} from './parts.ts';

/** One of these a request needs. */
const SOURCES = ['prompt', 'image_url', 'still_of'];
const anyOf = (names: string[]) => names.map((name) => ({ required: [name] }));

export function schemas(about: About) {
  const parameters = requestProperties(about);
  const note = object({ field: text, message: text });
  const file = {
    link: { ...uri, description: 'Good until links_expire_at' },
    width: whole,
    height: whole,
    frames: whole,
    fps: whole,
    seconds: number,
    bytes: whole,
    sha256: { ...text, description: 'Of the file, in hexadecimal' },
  };
  const input = { type: 'object', description: 'Every parameter, with the values that are used' };
  const gpuSeconds = { type: 'number', minimum: 0, description: 'Of sampling and decoding' };
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
  return {
    Request: { type: 'object', additionalProperties: false, properties: parameters, anyOf: anyOf(SOURCES) },
    Upload: {
      type: 'object',
      anyOf: anyOf([...SOURCES, 'image']),
      properties: {
        ...parameters,
        image: {
          type: 'string',
          contentMediaType: 'image/*',
          description: `The picture to animate: ${PICTURE_TYPES_TEXT} (the first picture of several), ${PICTURE_LIMITS_TEXT}`,
        },
      },
    },
    Task: object(
      {
        id: { type: 'string', format: 'uuid' },
        status: { type: 'string', enum: STATUSES, description: 'queued, running, then one of the three ends' },
        stage: { type: 'string', enum: [...STAGES], description: 'What is being done, while running' },
        step: { type: 'integer', description: 'Of the stage: the sampling step, or the frame, that is done' },
        steps: { type: 'integer', description: 'How many of them there are' },
        progress: { type: 'number', minimum: 0, maximum: 1, description: 'It never falls' },
        eta_seconds: { type: 'integer', description: 'Estimate of what is left' },
        created_at: time,
        started_at: time,
        finished_at: time,
        model: text,
        input,
        warnings: { ...list(note), description: 'What of the request is ignored, or unusual' },
        still: { ...object({ link: uri }), description: 'The picture that is animated' },
        videos: list(object({ ...file, seed: whole })),
        grid: { ...object(file), description: 'Several videos side by side' },
        links_expire_at: time,
        expired_at: { ...time, description: 'When its files and prompt were deleted' },
        error: { ...jsonSchema(jobErrorSchema), description: 'Why it has failed' },
        cost: object({
          amount: micro,
          currency,
          gpu_seconds: gpuSeconds,
          stills: { ...whole, description: 'Pictures that a bridge made' },
        }),
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
      cost_estimate: {
        ...object({ amount: micro, currency, gpu_seconds: gpuSeconds }),
        description: 'The most that the task can cost',
      },
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
          day,
          ...Object.fromEntries(['tasks', ...ENDED_STATUSES, 'stills'].map((name) => [name, whole])),
          gpu_seconds: number,
          amount: micro,
        }),
      ),
    }),
    Delivery: object(
      {
        id: text,
        type: { type: 'string', enum: [...ENDED_STATUSES.map((status) => `task.${status}`), 'webhook.test'] },
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
    Problem: object(
      {
        type: text,
        title: text,
        status: whole,
        detail: { ...text, description: 'For people' },
        code: { type: 'string', enum: Object.keys(PROBLEMS), description: 'One word for programs' },
        errors: { ...list(note), description: 'Every wrong field, with what is allowed' },
      },
      ['type', 'title', 'status', 'detail', 'code'],
    ),
    Event: {
      description: 'What is POSTed to a webhook_url: how a task has ended, or a test',
      oneOf: [
        object({
          type: { type: 'string', enum: ENDED_STATUSES.map((status) => `task.${status}`) },
          timestamp: time,
          data: ref('Task'),
        }),
        object({
          type: { const: 'webhook.test' },
          timestamp: time,
          data: object({ message: text }),
        }),
      ],
    },
  };
}
