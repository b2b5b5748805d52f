/** Schemas that several endpoints share. */
import { jobErrorSchema, STAGES } from '../../core/job.ts';
import { jsonSchema, requestProperties } from '../../core/parameter-schema.ts';
import { PICTURE_LIMITS_TEXT, PICTURE_TYPES_TEXT } from '../../core/picture/limits.ts';
import { PROBLEMS } from '../../core/problems.ts';
import { ENDED_STATUSES, STATUSES } from '../../core/responses.ts';
import type { About } from './examples.ts';
import { currency, list, micro, number, object, ref, text, time, uri, whole } from './parts.ts';

const fieldNote = object({ field: text, message: text });
const taskInput = { type: 'object', description: 'Every parameter, with the values that are used' };
const gpuSeconds = { type: 'number', minimum: 0, description: 'Seconds of sampling and decoding' };

/** A request needs one of these. */
const SOURCES = ['prompt', 'image_url', 'still_of'];
const anyOf = (names: string[]) => names.map((name) => ({ required: [name] }));

export function schemas(about: About) {
  const parameters = requestProperties(about);
  const file = {
    link: { ...uri, description: 'Expires at links_expire_at' },
    width: whole,
    height: whole,
    frames: whole,
    fps: whole,
    seconds: number,
    bytes: whole,
    sha256: { ...text, description: 'Hash of the file, in hexadecimal' },
  };
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
        status: { type: 'string', enum: STATUSES, description: 'queued, running, then succeeded, failed or canceled' },
        stage: { type: 'string', enum: [...STAGES], description: 'Current stage of a running task' },
        step: { type: 'integer', description: 'Sampling steps or frames that the stage has done' },
        steps: { type: 'integer', description: 'Sampling steps or frames that the stage has in all' },
        progress: { type: 'number', minimum: 0, maximum: 1, description: 'Never decreases' },
        eta_seconds: { type: 'integer', description: 'Estimated seconds left' },
        created_at: time,
        started_at: time,
        finished_at: time,
        model: text,
        input: taskInput,
        warnings: { ...list(fieldNote), description: 'Parameters that are ignored or unusual' },
        still: { ...object({ link: uri }), description: 'The picture that is animated' },
        videos: list(object({ ...file, seed: whole })),
        grid: { ...object(file), description: 'Several videos side by side' },
        links_expire_at: time,
        expired_at: { ...time, description: 'When its files and prompt were deleted' },
        error: { ...jsonSchema(jobErrorSchema), description: 'Why the task failed' },
        cost: object({
          amount: micro,
          currency,
          gpu_seconds: gpuSeconds,
          stills: { ...whole, description: 'Pictures that a bridge made' },
        }),
      },
      ['id', 'status', 'progress', 'created_at', 'model', 'input', 'warnings'],
    ),
    DryRun: object({
      input: taskInput,
      warnings: list(fieldNote),
      cost_estimate: object({ amount: micro, currency, gpu_seconds: gpuSeconds }),
    }),
    Problem: object(
      {
        type: text,
        title: text,
        status: whole,
        detail: { ...text, description: 'Explanation for people' },
        code: { type: 'string', enum: Object.keys(PROBLEMS), description: 'Error code for programs' },
        errors: { ...list(fieldNote), description: 'Every invalid field, with the allowed values' },
      },
      ['type', 'title', 'status', 'detail', 'code'],
    ),
    Event: {
      description: 'Body of a POST to a webhook_url: a task has ended, or a test',
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
