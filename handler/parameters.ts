/**
 * What a caller may ask for: one schema, used by the API, the worker, the command line and the OpenAPI document. Names are the
 * callers' own (snake_case; H, W, T as in the papers).
 */
import { closest, distance } from 'fastest-levenshtein';
import * as v from 'valibot';
import { edmSigmas } from './svd/discretization.ts';
import { type ModelName, presets } from './svd/presets.ts';

/** What an operator may narrow or widen. */
export interface Limits {
  maxFrames: number;
  maxFps: number;
}

export const MAX_PROMPT = 4000; // characters
const MAX_URL = 2048; // characters

function integer(min: number, max: number, about: string) {
  const allowed = `must be a whole number from ${min} to ${max}`;
  return v.pipe(
    v.number(allowed),
    v.integer(allowed),
    v.minValue(min, allowed),
    v.maxValue(max, allowed),
    v.description(about),
  );
}

function real(min: number, max: number, about: string) {
  const allowed = max === Infinity ? `must be a number, ${min} or more` : `must be a number from ${min} to ${max}`;
  const above = v.pipe(v.number(allowed), v.finite(allowed), v.minValue(min, allowed));
  return max === Infinity
    ? v.pipe(above, v.description(about))
    : v.pipe(above, v.maxValue(max, allowed), v.description(about));
}

function positive(about: string) {
  const allowed = 'must be a number above 0';
  return v.pipe(v.number(allowed), v.finite(allowed), v.gtValue(0, allowed), v.description(about));
}

/**
 * A side of the frame: latents are an eighth of it, and the network halves them three times more. A model's own size may be finer (the
 * camera's 288 is), and is allowed as well, so that what a task shows as its input can be sent again.
 */
function size(own: number, about: string) {
  const allowed = ({ input }: { input: unknown }) => {
    const text = 'must be a multiple of 64 from 64 to 2048';
    if (typeof input !== 'number' || !Number.isFinite(input)) return text;
    const inside = Math.min(2048, Math.max(64, input));
    const nearest = [...new Set([Math.floor(inside / 64) * 64, Math.ceil(inside / 64) * 64])];
    return `${text}; nearest: ${nearest.join(' and ')}`;
  };
  return v.pipe(
    v.number(allowed),
    v.check((pixels) => pixels % 64 === 0 || pixels === own, allowed),
    v.minValue(64, allowed),
    v.maxValue(2048, allowed),
    v.description(about),
  );
}

function choice<const T extends readonly string[]>(names: T, about: string) {
  const allowed = names.length === 1 ? `must be ${names[0]}` : `must be one of ${names.join(', ')}`;
  return v.pipe(v.picklist(names, allowed), v.description(about));
}

function link(protocol: RegExp, allowed: string, about: string) {
  return v.pipe(
    v.string(allowed),
    v.maxLength(MAX_URL, `${allowed} of at most ${MAX_URL} characters`),
    v.url(allowed),
    v.regex(protocol, allowed),
    v.description(about),
  );
}

/** Every parameter, unwrapped: optional for a caller, most of them required in a job. */
export function parameters({ maxFrames, maxFps }: Limits, model: ModelName) {
  const own = presets[model];
  const prompt = `must be text of 1 to ${MAX_PROMPT} characters`;
  return {
    prompt: v.pipe(
      v.string(prompt),
      v.trim(),
      v.nonEmpty(prompt),
      v.check((text) => [...text].length <= MAX_PROMPT && text.isWellFormed() && !text.includes('\0'), prompt),
      v.description('What the still shall show: a Midjourney prompt'),
    ),
    image_url: link(/^https?:\/\//i, 'must be an http or https URL', 'Address of the picture to animate'),
    H: size(own.H, 'Height of the frames in pixels'),
    W: size(own.W, 'Width of the frames in pixels'),
    T: integer(1, maxFrames, 'Number of frames'),
    cond_aug: real(0, 1, 'Conditioning augmentation: noise added to the still before it is encoded'),
    seed: integer(0, 1e9, 'Seed of the random numbers: the same request with the same seed gives the same clip'),
    decoding_t: integer(1, 1e9, 'Frames decoded at a time: fewer need less memory'),
    fps: integer(1, maxFps, 'Frames a second'),
    motion_bucket_id: integer(0, 512, 'How much movement'),
    num_cols: integer(1, 10, 'Videos from one still, with seeds seed, seed + 1, …; more than one also gives a grid'),
    steps: integer(1, 1000, 'Sampling steps'),
    sampler: choice(['EulerEDMSampler'], 'Sampling algorithm'),
    s_churn: real(0, Infinity, 'EulerEDMSampler: how much noise is added back while sampling'),
    s_tmin: real(0, Infinity, 'EulerEDMSampler: lowest sigma at which noise is added back'),
    s_tmax: real(0, Infinity, 'EulerEDMSampler: highest sigma at which noise is added back'),
    s_noise: real(0, Infinity, 'EulerEDMSampler: scale of the noise that is added back'),
    discretization: choice(['EDMDiscretization'], 'How the noise levels are spaced'),
    sigma_min: positive('EDMDiscretization: the last noise level before 0'),
    sigma_max: positive('EDMDiscretization: the first noise level'),
    rho: positive('EDMDiscretization: how much denser the steps are at low noise'),
    guider: choice(['LinearPredictionGuider'], 'How strongly the still guides each frame'),
    max_cfg_scale: real(1, Infinity, 'LinearPredictionGuider: guidance scale of the last frame'),
    min_guidance_scale: real(1, 10, 'LinearPredictionGuider: guidance scale of the first frame'),
    image_index: integer(1, 4, 'Which of the four Midjourney pictures to animate'),
    still_of: v.pipe(
      v.string('must be the id of an earlier task'),
      v.uuid('must be the id of an earlier task'),
      v.description('Id of an own earlier task whose still is animated again, without paying for another'),
    ),
    fit: choice(['cover', 'contain', 'stretch'], 'How the still is brought to W×H: cropped, with bars, or stretched'),
    webhook_url: link(/^https?:\/\//i, 'must be an https URL', 'Where the end of the task is announced'),
  };
}

export type Parameters = ReturnType<typeof parameters>;
export type ParameterName = keyof Parameters;

/** A caller's request: every parameter optional. */
export const requestSchema = (limits: Limits, model: ModelName) => v.partial(v.object(parameters(limits, model)));
type Values = { [name in ParameterName]: v.InferOutput<Parameters[name]> };
export type Request = Partial<Values>;

/** What the still is made from; one of these a task, chosen in this order. */
export const SOURCES = ['prompt', 'image_url', 'image', 'still_of'] as const;

/** A request with every number in place: what the task shows as its input. Only one source is left. */
export type Input = Omit<Values, OptionalName> & Partial<Pick<Values, OptionalName>>;
type OptionalName = 'prompt' | 'image_url' | 'still_of' | 'webhook_url';

export interface FieldNote {
  field: string;
  message: string;
}

/** A request that can't be done as it stands. `errors` names every wrong field with what is allowed. */
export class InvalidRequest extends Error {
  constructor(readonly errors: FieldNote[]) {
    super(errors.map(({ field, message }) => `${field}: ${message}`).join('; '));
    this.name = 'InvalidRequest';
  }
}

/**
 * Checks a caller's values.
 * @throws InvalidRequest with every wrong and every unknown field
 */
export function parseRequest(values: Record<string, unknown>, limits: Limits, model: ModelName): Request {
  const schema = requestSchema(limits, model);
  const names = Object.keys(schema.entries);
  const errors: FieldNote[] = Object.keys(values)
    .filter((field) => !names.includes(field))
    .map((field) => ({ field, message: unknownName(field, names) }));
  const { success, output, issues } = v.safeParse(schema, values);
  for (const issue of issues ?? []) {
    const field = String(v.getDotPath(issue));
    if (!errors.some((error) => error.field === field)) errors.push({ field, message: issue.message });
  }
  if (!success || errors.length > 0) throw new InvalidRequest(errors);
  return output as Request; // a field that is absent in the values is absent here, never undefined
}

function unknownName(field: string, names: string[]): string {
  const sameLetters = names.find((name) => name.toLowerCase() === field.toLowerCase());
  const near = sameLetters ?? closest(field.slice(0, 64), names);
  const far = distance(field.slice(0, 64), near);
  const similar = sameLetters !== undefined || (far <= Math.max(1, near.length / 3) && far < near.length);
  return similar ? `unknown; did you mean ${near}?` : 'unknown';
}

/**
 * Text values, as forms and command lines carry them, to the types of the schema. Empty text counts as absent; text that is no
 * number stays text, for the schema to refuse.
 */
export function fromText(fields: Iterable<readonly [name: string, text: string]>): Record<string, unknown> {
  const entries: Record<string, v.GenericSchema> = parameters({ maxFrames: 1, maxFps: 1 }, 'svd');
  const values: Record<string, unknown> = {};
  for (const [name, text] of fields) {
    if (text.trim() === '') continue;
    const isNumber = Object.hasOwn(entries, name) && entries[name]!.type === 'number';
    values[name] = isNumber && /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : text;
  }
  return values;
}

/** Values for what a caller leaves out; the seed is drawn anew for each task. */
export function defaults(model: ModelName) {
  const { H, W, T, steps, discretization, guider } = presets[model];
  return {
    H,
    W,
    T,
    cond_aug: 0.02,
    decoding_t: 14,
    fps: 6,
    motion_bucket_id: 127,
    num_cols: 1,
    steps,
    sampler: 'EulerEDMSampler',
    s_churn: 0,
    s_tmin: 0,
    s_tmax: 999,
    s_noise: 1,
    discretization: 'EDMDiscretization',
    ...discretization,
    guider: 'LinearPredictionGuider',
    ...guider,
    image_index: 1,
    fit: 'cover',
  } as const;
}

/** Defaults of a discretization or guider that is named without its numbers (the original README's). */
const NAMED_DEFAULTS = {
  EDMDiscretization: { sigma_min: 0.0292, sigma_max: 14.6146, rho: 3 },
  LinearPredictionGuider: { max_cfg_scale: 1.5, min_guidance_scale: 1 },
} as const;

/**
 * A checked request to the input of a task: one source, every number, and what the caller should know.
 * @param hasImage whether the request carries a picture itself
 * @throws InvalidRequest where values contradict one another
 */
export function resolve(
  request: Request,
  { model, hasImage, seed }: { model: ModelName; hasImage: boolean; seed: number },
): { input: Input; warnings: FieldNote[] } {
  const warnings: FieldNote[] = [];
  const warn = (field: string, message: string) => warnings.push({ field, message });

  const given = SOURCES.filter((name) => (name === 'image' ? hasImage : request[name] !== undefined));
  const source = given[0];
  if (!source) {
    throw new InvalidRequest([{ field: 'prompt', message: `one of ${SOURCES.join(', ')} is needed` }]);
  }
  for (const name of given.slice(1)) warn(name, `ignored, because ${source} is given`);
  const { prompt, image_url, still_of, ...rest } = request;
  const sources = { prompt, image_url, still_of };

  const base = defaults(model);
  const input: Input = {
    ...base,
    ...(rest.discretization && NAMED_DEFAULTS[rest.discretization]),
    ...(rest.guider && NAMED_DEFAULTS[rest.guider]),
    seed,
    ...rest,
    ...(source !== 'image' && { [source]: sources[source] }),
  };
  input.decoding_t = Math.min(input.decoding_t, input.T);

  const { sigma_min, sigma_max } = input;
  if (sigma_min >= sigma_max) {
    const field = request.sigma_min === undefined ? 'sigma_max' : 'sigma_min';
    throw new InvalidRequest([{ field, message: `sigma_min (${sigma_min}) must be below sigma_max (${sigma_max})` }]);
  }
  if (
    !edmSigmas(input.steps, input).every((sigma, i) => (i === input.steps ? sigma === 0 : sigma > 0 && sigma < 1e30))
  ) {
    throw new InvalidRequest([{ field: 'rho', message: 'sigma_min, sigma_max and rho give no usable noise levels' }]);
  }

  const preset = presets[model];
  if (input.H !== preset.H || input.W !== preset.W) {
    const field = input.H === preset.H ? 'W' : 'H';
    if (model !== 'camera') warn(field, `the model was trained on H ${preset.H}, W ${preset.W}`);
  }
  if (input.motion_bucket_id > 255) warn('motion_bucket_id', 'above 255 the model was not trained');
  if (input.fps < 5 || input.fps > 30) warn('fps', 'outside 5 to 30 the model was not trained');
  if (model === 'camera') {
    if (request.cond_aug !== undefined) warn('cond_aug', 'the camera model does not use it');
    if (request.decoding_t !== undefined) warn('decoding_t', 'the camera model decodes frame by frame');
  }
  if (request.image_index !== undefined && source !== 'prompt' && source !== 'still_of') {
    warn('image_index', `ignored: only a prompt gives four pictures, and here ${source} is animated`);
  }
  return { input, warnings };
}
