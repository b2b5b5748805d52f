/** The JSON of responses in OpenAI's form, below /v1. A test holds these types to those of the npm package openai. */
import * as v from 'valibot';

const text = v.string();
const whole = v.pipe(v.number(), v.integer());
const described = <S extends v.GenericSchema>(schema: S, description: string) =>
  v.pipe(schema, v.description(description));
const seconds = (description: string) => described(whole, `${description}; seconds since 1970`);

const Video = v.object({
  id: described(v.pipe(text, v.uuid()), 'Id of the task'),
  object: v.literal('video'),
  status: v.picklist(['queued', 'in_progress', 'completed', 'failed']),
  progress: v.pipe(whole, v.minValue(0), v.maxValue(100), v.description('Percent')),
  model: text,
  prompt: described(v.nullable(text), 'The prompt that the picture was drawn from'),
  seconds: described(text, 'Duration, such as 3.04'),
  size: described(text, 'Width x height, or auto until the picture of an image_url is known'),
  created_at: seconds('Creation'),
  completed_at: v.nullable(seconds('End, also of a failed video')),
  expires_at: v.nullable(seconds('When the files of a completed video are deleted')),
  error: v.nullable(v.object({ code: text, message: text })),
  remixed_from_video_id: v.null(),
  warnings: described(
    v.array(v.object({ field: text, message: text })),
    'Not in OpenAI’s API: what was ignored, or became something else',
  ),
});
export type Video = v.InferOutput<typeof Video>;

const VideoList = v.object({
  object: v.literal('list'),
  data: v.array(Video),
  first_id: v.nullable(text),
  last_id: v.nullable(text),
  has_more: v.boolean(),
});
export type VideoList = v.InferOutput<typeof VideoList>;

const VideoDeleted = v.object({ id: text, object: v.literal('video.deleted'), deleted: v.literal(true) });
export type VideoDeleted = v.InferOutput<typeof VideoDeleted>;

const OpenAiModel = v.object({
  id: text,
  object: v.literal('model'),
  created: seconds('Start of the service'),
  owned_by: text,
});
export type OpenAiModel = v.InferOutput<typeof OpenAiModel>;

const OpenAiModelList = v.object({ object: v.literal('list'), data: v.array(OpenAiModel) });

const OpenAiError = v.object({
  error: v.object({ message: text, type: text, param: v.nullable(text), code: v.nullable(text) }),
});
export type OpenAiError = v.InferOutput<typeof OpenAiError>;

export const OPENAI_RESPONSES = { Video, VideoList, VideoDeleted, OpenAiModel, OpenAiModelList, OpenAiError };
