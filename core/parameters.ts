/**
 * The parameters of a request: one schema for the API, the worker, the command line and the OpenAPI document. Names are snake_case; H,
 * W and T as in the papers.
 */
import * as v from 'valibot';
import type { Discretization, EDMDiscretization } from './discretization.ts';
import type { MaybeSized } from './frame-size.ts';
import type { GuidanceInterval, Guider } from './guider.ts';
import { metadataSchema } from './metadata.ts';
import { findForbidden } from './midjourney-prompt.ts';
import { aspectRatio, choice, integer, positive, real, side, url, webhookUrl } from './parameter-types.ts';
import { PICTURE_LIMITS_TEXT, PICTURE_TYPES_TEXT } from './picture/limits.ts';
import { DRAFT, type ModelName, presets, SPEEDS, type Speed } from './presets.ts';
import type { Ancestral, Churn, Sampler } from './sampler-options.ts';
import { webhookEvents } from './webhook-events.ts';

/** Limits that the operator sets. */
export interface Limits {
  maxFrames: number;
  maxFps: number;
}

export const MAX_PROMPT = 4000; // characters

const SPEED_NAMES = Object.keys(SPEEDS) as Speed[];
const CHURNING = ['EulerEDMSampler', 'HeunEDMSampler'] as const;
export const ANCESTRAL = ['EulerAncestralSampler', 'DPMPP2SAncestralSampler'] as const;
const SAMPLERS = [...CHURNING, ...ANCESTRAL, 'DPMPP2MSampler', 'LinearMultistepSampler', 'LCMSampler'] as const;
const DISCRETIZATIONS = [
  'EDMDiscretization',
  'LegacyDDPMDiscretization',
  'AlignYourStepsDiscretization',
  'LCMDiscretization',
] as const;
const GUIDING = ['LinearPredictionGuider', 'VanillaCFG'] as const;
const GUIDERS = [...GUIDING, 'IdentityGuider'] as const;

/** The parameters that apply to some samplers, discretizations or guiders only. */
export const BELONGS_TO: Partial<Record<string, { choice: Choice; names: readonly string[] }>> = {
  s_churn: { choice: 'sampler', names: CHURNING },
  s_tmin: { choice: 'sampler', names: CHURNING },
  s_tmax: { choice: 'sampler', names: CHURNING },
  s_noise: { choice: 'sampler', names: [...CHURNING, ...ANCESTRAL, 'LCMSampler'] },
  eta: { choice: 'sampler', names: ANCESTRAL },
  order: { choice: 'sampler', names: ['LinearMultistepSampler'] },
  sigma_min: { choice: 'discretization', names: ['EDMDiscretization'] },
  sigma_max: { choice: 'discretization', names: ['EDMDiscretization'] },
  rho: { choice: 'discretization', names: ['EDMDiscretization'] },
  cfg_scale: { choice: 'guider', names: ['VanillaCFG'] },
  max_cfg_scale: { choice: 'guider', names: ['LinearPredictionGuider'] },
  min_guidance_scale: { choice: 'guider', names: ['LinearPredictionGuider'] },
  guidance_sigma_min: { choice: 'guider', names: GUIDING },
  guidance_sigma_max: { choice: 'guider', names: GUIDING },
};
type Choice = 'sampler' | 'discretization' | 'guider';

/** The parameters that a model ignores. */
export const UNUSED: Record<ModelName, readonly ParameterName[]> = {
  camera: ['cond_aug', 'decoding_t', 'speed', 'cache_interval', 'cache_depth'],
  svd: [],
  svd_xt: [],
  svd_xt_1_1: [],
  animatelcm_svd_xt: ['speed'],
};

/** The speeds that a request may name. A model that ignores the speed accepts each of them. */
export const speedsOf = (model: ModelName): Speed[] =>
  SPEED_NAMES.filter((speed) => speed !== DRAFT.speed || model === DRAFT.model || UNUSED[model].includes('speed'));

/** A character has one or two UTF-16 units. The cheap check comes first, because the text may be long. */
const isPrompt = (text: string) =>
  text.length <= 2 * MAX_PROMPT && [...text].length <= MAX_PROMPT && text.isWellFormed() && !text.includes('\0');

/** `steps 10, sampler DPMPP2MSampler` */
const describeSet = (values: object) =>
  Object.entries(values)
    .map((entry) => entry.join(' '))
    .join(', ');

/** The schema of every parameter: optional in a request, most of them required in a job. */
export function parameters({ maxFrames, maxFps }: Limits, model: ModelName) {
  const own = presets[model];
  const prompt = `must be text of 1 to ${MAX_PROMPT} characters`;
  return {
    prompt: v.pipe(
      v.string(prompt),
      v.trim(),
      v.nonEmpty(prompt),
      v.check(isPrompt, prompt),
      v.check(
        (text) => findForbidden(text) === undefined,
        ({ input }) => findForbidden(String(input)) ?? prompt,
      ),
      v.description('What the still shows; may end with Midjourney’s flags, such as --ar and --stylize'),
    ),
    image_url: url('must be an http or https URL', {
      description: `Public URL of the picture to animate: ${PICTURE_TYPES_TEXT}, ${PICTURE_LIMITS_TEXT}`,
    }),
    H: side(own, 'Height', 'W'),
    W: side(own, 'Width', 'H'),
    aspect_ratio: aspectRatio(),
    T: integer(1, maxFrames, 'Number of frames. The clip lasts T / fps seconds'),
    cond_aug: real(
      0,
      1,
      'Noise added to the still. More noise lets the clip differ more from the still. Not used by the camera',
    ),
    seed: integer(0, 1e9, 'Random seed. The same request with the same seed gives the same clip, byte for byte'),
    decoding_t: integer(
      1,
      1e9,
      'Frames decoded at a time, at most T. Fewer frames need less memory but flicker more. Not used by the camera',
    ),
    fps: integer(1, maxFps, 'Frames per second. The models were trained with 5 to 30'),
    motion_bucket_id: integer(0, 512, 'Amount of movement. The models were trained with values up to 255'),
    num_cols: integer(
      1,
      10,
      'Number of videos from one still, with the seeds seed, seed + 1, … Several videos also come as one grid',
    ),
    speed: choice(
      speedsOf(model),
      `Set of sampling parameters; those of the request override it. exact: the model’s own. fast: ${describeSet(SPEEDS.fast)}. draft: the network AnimateLCM with ${describeSet(SPEEDS.draft)}; only with the model ${DRAFT.model}. Not used by the camera and AnimateLCM`,
    ),
    steps: integer(1, 1000, 'Number of sampling steps. More steps take longer and may show finer detail'),
    sampler: choice(SAMPLERS, 'Sampling algorithm, named as in Stability AI’s code'),
    s_churn: real(0, Infinity, 'How much noise is added back while sampling, over all steps'),
    s_tmin: real(0, Infinity, 'Lowest sigma at which noise is added back'),
    s_tmax: real(0, Infinity, 'Highest sigma at which noise is added back'),
    s_noise: real(0, Infinity, 'Scale of the noise that is added back; for the ancestral samplers at most 1'),
    eta: real(0, 1, 'Share of each step that is fresh noise'),
    order: integer(1, 1e9, 'Order of the method: how many slopes each step uses, at most steps'),
    discretization: choice(DISCRETIZATIONS, 'How the noise levels are spaced'),
    sigma_min: positive('Last noise level before 0. Must be below sigma_max'),
    sigma_max: positive('First noise level'),
    rho: positive('How much denser the steps are at low noise'),
    guider: choice(GUIDERS, 'Rule for how strongly the still guides each frame'),
    cfg_scale: real(0, Infinity, 'Guidance scale of every frame'),
    max_cfg_scale: real(1, Infinity, 'Guidance scale of the last frame'),
    min_guidance_scale: real(1, 10, 'Guidance scale of the first frame'),
    guidance_sigma_min: real(
      0,
      Infinity,
      'Guidance only at noise levels above this sigma. Must be below guidance_sigma_max. Other levels take half the time',
    ),
    guidance_sigma_max: positive('Guidance only at noise levels up to this sigma. Other levels take half the time'),
    cache_interval: integer(
      1,
      10,
      'Steps from one whole run of the network to the next. In between, only a part of it runs, with features of the last whole run. 1 always runs all of it',
    ),
    cache_depth: integer(
      1,
      5,
      'Layers at the end of the network that run in every step. Only with cache_interval above 1',
    ),
    image_index: integer(1, 4, 'Which picture of the prompt to animate; only with prompt or still_of'),
    still_of: v.pipe(
      v.string('must be the id of an earlier task'),
      v.toLowerCase(),
      v.uuid('must be the id of an earlier task'),
      v.description('Id of an earlier task of the same API key. Animates its still again, without paying for it twice'),
    ),
    fit: choice(
      ['cover', 'contain', 'stretch'],
      'How the still fills W×H: cover crops it, contain adds blurred borders, stretch distorts it',
    ),
    webhook_url: webhookUrl({ description: 'https URL that receives a signed POST when the task ends' }),
    webhook_events: webhookEvents(
      'What the webhook is notified of: that a worker has started, its progress at most once a second, and the end. By default only the end',
    ),
    metadata: metadataSchema(
      'Texts of your own, such as an order’s number, which the task shows and the list can be filtered by. They stay after a deletion',
    ),
  };
}

export type Parameters = ReturnType<typeof parameters>;
export type ParameterName = keyof Parameters;

/** A request: every parameter is optional. */
export const requestSchema = (limits: Limits, model: ModelName) => v.partial(v.object(parameters(limits, model)));
type Values = { [name in ParameterName]: v.InferOutput<Parameters[name]> };
export type Request = Partial<Values>;

/** What the still is made from. The first one that a request has is used. */
export const SOURCES = ['prompt', 'image_url', 'image', 'still_of'] as const;
export type Source = (typeof SOURCES)[number];

/** Absent in an input that caches nothing. */
type CacheName = 'cache_interval' | 'cache_depth';
type OptionalName =
  | CacheName
  | 'metadata'
  | 'webhook_events'
  | 'prompt'
  | 'image_url'
  | 'still_of'
  | 'webhook_url'
  | keyof MaybeSized;
type CommonName = Exclude<
  ParameterName,
  | OptionalName
  | Choice
  | keyof Churn
  | keyof Ancestral
  | 'order'
  | keyof EDMDiscretization
  | GuiderNumber
  | keyof GuidanceInterval
>;
type GuiderNumber = 'cfg_scale' | 'max_cfg_scale' | 'min_guidance_scale';

/** A request with defaults resolved, as a task shows it: one source, and only the parameters that apply to the choices. */
export type Input = Pick<Values, CommonName> &
  Partial<Pick<Values, Exclude<OptionalName, 'aspect_ratio' | 'metadata'>>> &
  Pick<MaybeSized, 'aspect_ratio'> &
  Sampler &
  Discretization &
  Guider & {
    /** name of the uploaded picture's file */
    image?: string;
  };

/** The default values at a speed. The seed has none: it is random for each task. */
export function defaults(model: ModelName, speed: Speed = 'exact') {
  const { H: _H, W: _W, discretization, guider, ...numbers } = presets[model];
  return {
    aspect_ratio: 'auto',
    ...numbers,
    cond_aug: 0.02,
    decoding_t: 14,
    motion_bucket_id: 127,
    num_cols: 1,
    ...discretization,
    ...guider,
    cache_interval: 1,
    cache_depth: 2,
    image_index: 1,
    fit: 'cover',
    speed,
    ...SPEEDS[speed],
  } as const;
}

/** Defaults of a sampler, and of a discretization or guider that a request names (the original README's). */
export const NAMED_DEFAULTS: Partial<Record<string, Record<string, number>>> = {
  EulerEDMSampler: { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 },
  HeunEDMSampler: { s_churn: 0, s_tmin: 0, s_tmax: 999, s_noise: 1 },
  EulerAncestralSampler: { eta: 1, s_noise: 1 },
  DPMPP2SAncestralSampler: { eta: 1, s_noise: 1 },
  LinearMultistepSampler: { order: 4 },
  LCMSampler: { s_noise: 1 },
  EDMDiscretization: { sigma_min: 0.0292, sigma_max: 14.6146, rho: 3 },
  LinearPredictionGuider: { max_cfg_scale: 1.5, min_guidance_scale: 1 },
  VanillaCFG: { cfg_scale: 5 },
};
