/** Turns a client's values, from JSON, a form or a command line, into the input of a task. */
import * as v from 'valibot';
import { type EDMDiscretization, LCM_LEVELS, noiseLevels } from './discretization.ts';
import { isUploadName } from './file-name.ts';
import { isSized, parseRatio, withSize } from './frame-size.ts';
import { type FieldNote, InvalidRequest } from './invalid-request.ts';
import { aspectRatioOf } from './midjourney-prompt.ts';
import {
  ANCESTRAL,
  BELONGS_TO,
  defaults,
  type Input,
  type Limits,
  NAMED_DEFAULTS,
  parameters,
  type Request,
  requestSchema,
  SOURCES,
  type Source,
  speedsOf,
  UNUSED,
} from './parameters.ts';
import { type ModelName, presets, type Speed } from './presets.ts';
import { requestWarnings } from './request-warnings.ts';
import { describeUnknownName, describeUnknownParameter } from './unknown-names.ts';

export interface RequestContext {
  limits: Limits;
  model: ModelName;
  /** whether the request itself contains a picture */
  hasImage: boolean;
  /** for a request without a seed */
  seed: number;
}

interface ParsedRequest {
  /** the valid values, without the irrelevant ones */
  request: Request;
  /** the same with defaults resolved: one source, and every number but W and H, which may depend on the picture */
  input: Input;
  warnings: FieldNote[];
}

const schemas = new Map<string, ReturnType<typeof requestSchema>>();

/** Keeps each schema, because building one takes longer than validating a request. A process has one model and one set of limits. */
function schemaOf(limits: Limits, model: ModelName) {
  const id = `${model} ${limits.maxFrames} ${limits.maxFps}`;
  const schema = schemas.get(id) ?? requestSchema(limits, model);
  schemas.set(id, schema);
  return schema;
}

const NO_FILE = {
  field: 'image',
  message: 'must be a file in multipart/form-data, a data URL or base64; to send a URL, use image_url',
};

/**
 * @param values may be the input of an earlier task. Its `image` is only a file's name, which is ignored if there is a source.
 * @throws InvalidRequest with every invalid and unknown field, or with values that contradict each other
 */
export function parseRequest(
  { image: imageName, ...values }: Record<string, unknown>,
  context: RequestContext,
): ParsedRequest {
  const { limits, model } = context;
  const schema = schemaOf(limits, model);
  const fields = Object.keys(values);
  const unknown = unknownNames(fields, schema.entries, undefined, describeUnknownParameter);
  const isName = typeof imageName === 'string' && isUploadName(imageName);
  if (imageName !== undefined && !isName) unknown.push(NO_FILE);
  const known = fields.filter((field) => Object.hasOwn(schema.entries, field));
  const { relevant, warnings } = dropIrrelevant(known, readNumbers(values), model);
  const request = validate(relevant, schema, unknown);
  const { source, warnings: sourceWarnings } = chooseSource(request, isName, context);
  const input = resolveSize(resolve(request, source, context), request, model);
  const errors = contradictions(input, request);
  if (errors.length > 0) throw new InvalidRequest(errors);
  return {
    request,
    input,
    warnings: [...warnings, ...sourceWarnings, ...requestWarnings(request, input, source, model)],
  };
}

/** The speed that a request has: `exact` if the model knows no other, or if the value is invalid. */
const speedOf = (value: unknown, model: ModelName): Speed =>
  (!UNUSED[model].includes('speed') && speedsOf(model).find((speed) => speed === value)) || 'exact';

/** Drops, without validation, the parameters of another sampler, discretization or guider than the chosen one. */
function dropIrrelevant(fields: string[], values: Record<string, unknown>, model: ModelName) {
  const warnings: FieldNote[] = [];
  const relevant: Record<string, unknown> = {};
  const base = defaults(model, speedOf(values.speed, model));
  for (const field of fields) {
    const home = BELONGS_TO[field];
    const chosen = home && (values[home.choice] ?? base[home.choice]);
    if (!home || (typeof chosen === 'string' && home.names.includes(chosen))) relevant[field] = values[field];
    else warnings.push({ field, message: `ignored: only for ${home.choice} ${home.names.join(', ')}` });
  }
  return { relevant, warnings };
}

/** @param unknown errors about other fields */
function validate(
  values: Record<string, unknown>,
  schema: ReturnType<typeof requestSchema>,
  unknown: FieldNote[],
): Request {
  // The first failed check of a field ends its validation: lengths come before patterns.
  const { success, output, issues } = v.safeParse(schema, values, { abortPipeEarly: true });
  const invalid = (issues ?? []).map((issue) => {
    const field = String(v.getDotPath(issue));
    const isText = typeof values[field] === 'string' && NUMBERS.has(field);
    return { field, message: isText ? `${issue.message}, not text` : issue.message };
  });
  const errors = [...unknown, ...invalid];
  const isAncestral = success && (ANCESTRAL as readonly (string | undefined)[]).includes(output.sampler);
  if (isAncestral && (output.s_noise ?? 1) > 1) {
    errors.push({ field: 's_noise', message: 'must be a number from 0 to 1 for the ancestral samplers' });
  }
  if (!success || errors.length > 0) throw new InvalidRequest(errors);
  return output as Request; // a field that is absent in the values is absent here, never undefined
}

/** @param hasName whether there is the name of a picture @throws InvalidRequest without any source */
function chooseSource(request: Request, hasName: boolean, { hasImage }: Pick<RequestContext, 'hasImage'>) {
  const given = SOURCES.filter((name) => (name === 'image' ? hasImage : request[name] !== undefined));
  const [source, ...others] = given;
  if (!source && hasName) throw new InvalidRequest([NO_FILE]);
  if (!source) throw new InvalidRequest([{ field: 'prompt', message: `one of ${SOURCES.join(', ')} is needed` }]);
  if (hasName && !hasImage) others.push('image');
  return { source, warnings: others.map((field) => ({ field, message: `ignored, because ${source} is given` })) };
}

function resolve(request: Request, source: Source, { limits, model, seed }: RequestContext): Input {
  const { prompt, image_url, still_of, metadata, ...rest } = request;
  const base = defaults(model, speedOf(request.speed, model));
  const all: Record<string, unknown> = {
    ...base,
    ...NAMED_DEFAULTS[request.sampler ?? base.sampler],
    ...(request.discretization && NAMED_DEFAULTS[request.discretization]),
    ...(request.guider && NAMED_DEFAULTS[request.guider]),
    seed,
    ...rest,
    speed: base.speed,
    ...(source !== 'image' && { [source]: request[source] }),
  };
  // The preset's values are dropped if the request chooses something else.
  for (const [name, home] of Object.entries(BELONGS_TO)) {
    if (!home!.names.includes(String(all[home!.choice]))) delete all[name];
  }
  const input = all as Input;
  if (request.T === undefined) input.T = Math.min(input.T, limits.maxFrames);
  if (request.fps === undefined) input.fps = Math.min(input.fps, limits.maxFps);
  // A speed that caches stays in the input, and so does a 1 that overrides it.
  if (input.cache_interval === 1 && base.cache_interval === 1) {
    delete input.cache_interval;
    delete input.cache_depth;
  }
  input.decoding_t = Math.min(input.decoding_t, input.T);
  if (input.sampler === 'LinearMultistepSampler') input.order = Math.min(input.order, input.steps);
  return input;
}

/** The input with W and H, unless they depend on a picture that is not known yet. */
function resolveSize(input: Input, { aspect_ratio = 'auto' }: Request, model: ModelName): Input {
  const { H, W } = presets[model];
  const { prompt } = input;
  const ratio = parseRatio(aspect_ratio) ?? (prompt === undefined ? undefined : (aspectRatioOf(prompt) ?? W / H));
  return ratio === undefined && !isSized(input) ? input : withSize(input, ratio ?? 1, model);
}

/** Valid values that contradict each other. */
function contradictions(input: Input, request: Request): FieldNote[] {
  const { steps } = input;
  const { guidance_sigma_min: min = 0, guidance_sigma_max: max = Infinity } = request;
  const errors: FieldNote[] = [];
  if (input.discretization === 'LCMDiscretization' && steps > LCM_LEVELS) {
    errors.push({ field: 'steps', message: `must be a whole number from 1 to ${LCM_LEVELS} with LCMDiscretization` });
  }
  if (input.discretization === 'EDMDiscretization') errors.push(...badNoiseLevels(input, request));
  if (min >= max) {
    errors.push({ field: 'guidance_sigma_min', message: `must be below guidance_sigma_max (${max})` });
  }
  return errors;
}

/** Errors if sigma_min, sigma_max and rho give no usable noise levels. */
function badNoiseLevels(input: Input & EDMDiscretization, request: Request): FieldNote[] {
  const { sigma_min, sigma_max, steps } = input;
  if (sigma_min >= sigma_max) {
    const field = request.sigma_min === undefined ? 'sigma_max' : 'sigma_min';
    return [{ field, message: `sigma_min (${sigma_min}) must be below sigma_max (${sigma_max})` }];
  }
  if (noiseLevels(steps, input).every((sigma, i) => (i === steps ? sigma === 0 : sigma > 0 && sigma < 1e30))) return [];
  const message = 'sigma_min, sigma_max and rho give no usable noise levels; use values nearer to the defaults';
  return [{ field: 'rho', message }];
}

/** Unknown names that a response lists, and characters of each: a request may have very many, or very long ones. */
const [MAX_UNKNOWN, MAX_NAME] = [64, 64];

/** @returns an error for each of `fields` that is no property of `known`, or for the first 64 */
export function unknownNames(
  fields: string[],
  known: object,
  fallback?: string,
  describe = describeUnknownName,
): FieldNote[] {
  const errors: FieldNote[] = [];
  for (const name of fields) {
    if (Object.hasOwn(known, name)) continue;
    if (errors.length === MAX_UNKNOWN) break;
    const field = name.slice(0, MAX_NAME);
    errors.push({ field, message: describe(field, Object.keys(known), fallback) });
  }
  return errors;
}

/** Each character is matched in one way only, so long text takes linear time. */
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;

/** The parameters that are numbers. */
const NUMBERS = new Set(
  Object.entries<v.GenericSchema>(parameters({ maxFrames: 1, maxFps: 1 }, 'svd')).flatMap(([name, { type }]) =>
    type === 'number' ? [name] : [],
  ),
);

/** Converts numbers that are written as text, as forms, command lines and no-code tools send them. */
function readNumbers(values: Record<string, unknown>): Record<string, unknown> {
  const entries = Object.entries(values).map(([name, value]) => {
    const isNumber = typeof value === 'string' && NUMBERS.has(name) && NUMBER.test(value.trim());
    return [name, isNumber ? Number(value) : value];
  });
  return Object.fromEntries(entries);
}
