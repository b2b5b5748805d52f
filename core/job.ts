/** The contract between the API and the worker: a job's input, progress, output and errors. docs/glossary.md defines the words. */
import * as v from 'valibot';
import { LCM_LEVELS } from './discretization.ts';
import { isSized, type Size } from './frame-size.ts';
import { parameters } from './parameters.ts';
import { DRAFT, presets } from './presets.ts';

export const MODELS = Object.keys(presets) as (keyof typeof presets)[];

/** What the networks of a model can run on. */
export const DEVICES = ['cpu', 'cuda', 'webgpu'] as const;

/** A task's folder in the bucket. */
export const taskFolder = (taskId: string) => `tasks/${taskId}`;
/** Bucket key of the record of a task's imagine: which bridge is asked, and its id once the bridge has accepted the prompt. */
export const imagineKey = (taskId: string) => `${taskFolder(taskId)}/imagine.json`;

// The API enforces the operator's limits and the model's sizes; a worker accepts what any of them allows.
const all = parameters({ maxFrames: 1000, maxFps: 1000 }, 'svd');
const side = v.pipe(v.number(), v.multipleOf(8), v.minValue(64), v.maxValue(2048));
const { T, cond_aug, seed, decoding_t, fps, motion_bucket_id, num_cols, steps, image_index, fit } = all;
const { s_churn, s_tmin, s_tmax, s_noise, eta, order, sigma_min, sigma_max, rho } = all;
const { cfg_scale, max_cfg_scale, min_guidance_scale, cache_interval, cache_depth } = all;
const interval = {
  guidance_sigma_min: v.optional(all.guidance_sigma_min),
  guidance_sigma_max: v.optional(all.guidance_sigma_max),
};

const common = {
  H: v.optional(side),
  W: v.optional(side),
  /** as long as W or H is unknown: they follow from the picture */
  aspect_ratio: v.optional(v.literal('auto')),
  ...{ T, cond_aug, seed, decoding_t, fps, motion_bucket_id, num_cols, steps, image_index, fit },
  cache_interval: v.optional(cache_interval),
  cache_depth: v.optional(cache_depth),
  prompt: v.optional(all.prompt),
  image_url: v.optional(all.image_url),
  task_id: v.pipe(v.string(), v.uuid('must be a UUID')),
  model: v.picklist(MODELS),
  /** the model whose UNet makes the clip, with the other networks of `model`; absent: that of `model` */
  unet: v.optional(v.literal(DRAFT.unet)),
  /** bucket key of the picture that came with the request */
  image_key: v.optional(v.string()),
  /** bucket key of an earlier task's still */
  still_key: v.optional(v.string()),
};
const {
  still_of: _still_of,
  webhook_url: _webhook_url,
  speed: _speed,
  metadata: _metadata,
  webhook_events: _webhook_events,
  ...forJobs
} = all; // only the API uses these
const KNOWN = [...Object.keys(common), ...Object.keys(forJobs)];
const SOURCE_FIELDS = ['prompt', 'image_url', 'image_key', 'still_key'] as const;

/**
 * A job's input: the task's resolved parameters, and fields that clients can't set. It has exactly one source. It contains no secret
 * and no webhook URL, because RunPod returns inputs.
 */
export const jobSchema = v.pipe(
  v.looseObject({}),
  v.check((job) => Object.keys(job).every((name) => KNOWN.includes(name)), 'unknown field'),
  v.intersect([
    v.object(common),
    v.variant('sampler', [
      v.object({ sampler: v.picklist(['EulerEDMSampler', 'HeunEDMSampler']), s_churn, s_tmin, s_tmax, s_noise }),
      v.object({ sampler: v.picklist(['EulerAncestralSampler', 'DPMPP2SAncestralSampler']), eta, s_noise }),
      v.object({ sampler: v.literal('DPMPP2MSampler') }),
      v.object({ sampler: v.literal('LCMSampler'), s_noise }),
      v.object({ sampler: v.literal('LinearMultistepSampler'), order }),
    ]),
    v.variant('discretization', [
      v.object({ discretization: v.literal('EDMDiscretization'), sigma_min, sigma_max, rho }),
      v.object({
        discretization: v.picklist(['LegacyDDPMDiscretization', 'AlignYourStepsDiscretization', 'LCMDiscretization']),
      }),
    ]),
    v.variant('guider', [
      v.object({ guider: v.literal('LinearPredictionGuider'), max_cfg_scale, min_guidance_scale, ...interval }),
      v.object({ guider: v.literal('VanillaCFG'), cfg_scale, ...interval }),
      v.object({ guider: v.literal('IdentityGuider') }),
    ]),
  ]),
  v.check(
    (job) => SOURCE_FIELDS.filter((name) => job[name] !== undefined).length === 1,
    `exactly one of ${SOURCE_FIELDS.join(', ')}`,
  ),
  v.check(
    (job) => isSized(job) !== (job.aspect_ratio !== undefined && job.prompt === undefined),
    'needs W and H, or for a picture aspect_ratio',
  ),
  v.check(
    (job) => (job.cache_interval === undefined) === (job.cache_depth === undefined),
    'cache_interval and cache_depth belong together',
  ),
  v.check(
    (job) => job.discretization !== 'LCMDiscretization' || job.steps <= LCM_LEVELS,
    'steps: more than LCMDiscretization has levels',
  ),
  v.check((job) => !job.unet || job.model === DRAFT.model, `unet: only with the model ${DRAFT.model}`),
  // A key may only lead into the task's own folder, or to a still, whose owner the API has checked.
  v.check(
    (job) => !job.image_key || job.image_key === `${taskFolder(job.task_id)}/upload`,
    'image_key: not this task’s',
  ),
  v.check(
    (job) => !job.still_key || /^tasks\/[\da-f-]{36}\/(imagine-[1-4]|still)\.png$/.test(job.still_key),
    'still_key: no still',
  ),
);
export type JobInput = v.InferOutput<typeof jobSchema>;
export type SizedJob = JobInput & Size;

const key = v.pipe(v.string(), v.startsWith('tasks/'));

/** A video that a job has made. */
const file = {
  key,
  width: v.number(),
  height: v.number(),
  frames: v.number(),
  fps: v.number(),
  seconds: v.number(),
  bytes: v.number(),
  sha256: v.string(),
};

/** What a job has used so far, by its worker's clock. Progress, output and error carry it; an older worker sends none. */
const usageSchema = v.object({
  /** when the job began; milliseconds since 1970 */
  started_at: v.optional(v.number()),
  /** GPU time of finished stages; milliseconds */
  gpu_ms: v.pipe(v.number(), v.minValue(0)),
  /** when the GPU stage began that is still running; milliseconds since 1970 */
  gpu_since: v.optional(v.number()),
});
export type JobUsage = v.InferOutput<typeof usageSchema>;
const usage = v.fallback(v.optional(usageSchema), undefined);

export const outputSchema = v.object({
  videos: v.pipe(
    v.array(
      v.object({
        ...file,
        seed: v.number(),
        /** bucket key of the first frame as a JPEG, and of a small animated WebP; an older worker makes none */
        poster: v.optional(key),
        preview: v.optional(key),
      }),
    ),
    v.minLength(1),
  ),
  grid: v.optional(v.object(file)),
  /** bucket key of the still, unfitted */
  still: v.string(),
  /** bucket key of the still as a small JPEG; an older worker makes none */
  still_preview: v.optional(key),
  /** how many pictures the image provider drew of the prompt; an older worker does not say */
  pictures: v.optional(v.number()),
  seed: v.number(),
  model: v.string(),
  /** what the model's networks ran on; the camera has none, and an older worker does not say */
  device: v.fallback(v.optional(v.picklist(DEVICES)), undefined),
  warnings: v.array(v.object({ field: v.string(), message: v.string() })),
  /** milliseconds that each of TIMED_STAGES took */
  timings_ms: v.record(v.string(), v.number()),
  usage,
});
export type JobOutput = v.InferOutput<typeof outputSchema>;

export const STAGES = ['still', 'loading', 'sampling', 'decoding', 'encoding', 'uploading'] as const;
export type Stage = (typeof STAGES)[number];
/** The keys of `timings_ms`: the stages, and the wait for the GPU. */
export const TIMED_STAGES = [...STAGES, 'waiting'] as const;
/** The stages whose time counts as GPU time. Loading a model and waiting are free. */
export const GPU_STAGES: readonly string[] = ['sampling', 'decoding'] satisfies Stage[];

/** Fits into the store's integer columns. */
const count = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 31 - 1));

export const progressSchema = v.object({
  stage: v.picklist(STAGES),
  /** of the whole job, 0–1 */
  progress: v.pipe(v.number(), v.minValue(0), v.maxValue(1)),
  step: v.optional(count),
  steps: v.optional(count),
  /** bucket keys of the still and of a small JPEG of it, once they exist */
  still: v.optional(v.string()),
  still_preview: v.optional(key),
  /** of the frames, in pixels, once the worker has chosen it: an input with `aspect_ratio` leaves it to the worker */
  size: v.optional(v.object({ H: side, W: side })),
  usage,
});
export type Progress = v.InferOutput<typeof progressSchema>;

/** Every way in which a task can fail, and whether a retry may succeed. */
export const ERROR_CODES = {
  invalid_input: { retryable: false },
  banned_prompt: { retryable: false },
  no_bridge: { retryable: false },
  no_credit: { retryable: true },
  queue_full: { retryable: true },
  rate_limited: { retryable: true },
  image_unavailable: { retryable: true },
  image_rejected: { retryable: false },
  upstream_timeout: { retryable: true },
  upstream_error: { retryable: true },
  out_of_memory: { retryable: false },
  storage_error: { retryable: true },
  canceled: { retryable: false },
  timeout: { retryable: true },
  expired: { retryable: true },
  lost: { retryable: true },
  internal: { retryable: true },
} as const;
export type ErrorCode = keyof typeof ERROR_CODES;

export const jobErrorSchema = v.object({
  code: v.picklist(Object.keys(ERROR_CODES) as ErrorCode[]),
  message: v.string(),
  retryable: v.boolean(),
});
export type JobErrorData = v.InferOutput<typeof jobErrorSchema>;

/** The error of a failed job, as its worker sends it: JSON text. */
export const failureSchema = v.pipe(v.string(), v.parseJson(), v.object({ ...jobErrorSchema.entries, usage }));

/** Thrown by a job. Its message is shown to the client; any other error becomes `internal` and is only logged. */
export class JobError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'JobError';
  }

  get data(): JobErrorData {
    return { code: this.code, message: this.message, retryable: ERROR_CODES[this.code].retryable };
  }
}
