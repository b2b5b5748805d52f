/** A caller's values, of any kind and from any form, to the input of a task. */
import { closest, distance } from 'fastest-levenshtein';
import * as v from 'valibot';
import { type EDMDiscretization, noiseLevels } from './discretization.ts';
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
} from './parameters.ts';
import { type ModelName, presets } from './presets.ts';

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

export interface RequestContext {
  limits: Limits;
  model: ModelName;
  /** whether the request carries a picture itself */
  hasImage: boolean;
  /** used where the caller gives none */
  seed: number;
}

/** What one request becomes: as it was understood, as the input of a task, and what its caller should know. */
export interface ParsedRequest {
  request: Request;
  input: Input;
  warnings: FieldNote[];
}

/**
 * A caller's values, checked, and made into the input of a task: one source, every number, and what the caller should know.
 * @throws InvalidRequest with every wrong and every unknown field, or with values that contradict one another
 */
export const parseRequest = (values: Record<string, unknown>, context: RequestContext): ParsedRequest =>
  createRequestParser(context)(values, context);

/** `parseRequest` for many requests: making the schema takes longer than reading one. */
export function createRequestParser({ limits, model }: Pick<RequestContext, 'limits' | 'model'>) {
  const schema = requestSchema(limits, model);
  return (values: Record<string, unknown>, given: Pick<RequestContext, 'hasImage' | 'seed'>): ParsedRequest => {
    const { relevant, warnings } = dropIrrelevant(values, model);
    const request = check(relevant, schema);
    const resolved = resolve(request, { model, ...given });
    return { request, input: resolved.input, warnings: [...warnings, ...resolved.warnings] };
  };
}

/** Leaves out, unchecked, what belongs to another sampler, discretization or guider than the chosen one. */
function dropIrrelevant(
  values: Record<string, unknown>,
  model: ModelName,
): { relevant: Record<string, unknown>; warnings: FieldNote[] } {
  const preset = defaults(model);
  const warnings: FieldNote[] = [];
  const entries = Object.entries(values).filter(([field]) => {
    const home = Object.hasOwn(BELONGS_TO, field) ? BELONGS_TO[field] : undefined;
    if (!home) return true;
    const chosen = values[home.choice] ?? preset[home.choice];
    if (home.names.includes(String(chosen))) return true;
    warnings.push({ field, message: `ignored: it belongs to ${home.choice} ${home.names.join(', ')}` });
    return false;
  });
  return { relevant: Object.fromEntries(entries), warnings };
}

function check(values: Record<string, unknown>, schema: ReturnType<typeof requestSchema>): Request {
  const names = Object.keys(schema.entries);
  const errors: FieldNote[] = Object.keys(values)
    .filter((field) => !names.includes(field))
    .map((field) => ({ field, message: describeUnknownName(field, names) }));
  const { success, output, issues } = v.safeParse(schema, values);
  for (const issue of issues ?? []) {
    const field = String(v.getDotPath(issue));
    if (!errors.some((error) => error.field === field)) errors.push({ field, message: issue.message });
  }
  if (success && isAncestral(output.sampler) && (output.s_noise ?? 1) > 1) {
    errors.push({ field: 's_noise', message: 'must be a number from 0 to 1 for the ancestral samplers' });
  }
  if (!success || errors.length > 0) throw new InvalidRequest(errors);
  return output as Request; // a field that is absent in the values is absent here, never undefined
}

const isAncestral = (sampler: string | undefined) => (ANCESTRAL as readonly (string | undefined)[]).includes(sampler);

/** What is said of a name that is none of `names`: the nearest of them, if one is near. */
export function describeUnknownName(field: string, names: string[], otherwise = 'unknown'): string {
  const sameLetters = names.find((name) => name.toLowerCase() === field.toLowerCase());
  const near = sameLetters ?? closest(field.slice(0, 64), names);
  const far = distance(field.slice(0, 64), near);
  const similar = sameLetters !== undefined || (far <= Math.max(1, near.length / 3) && far < near.length);
  return similar ? `unknown; did you mean ${near}?` : otherwise;
}

/**
 * Text values, as forms and command lines carry them, to the types of the schema. Empty text counts as absent; text that is no
 * number stays text, for the schema to refuse.
 */
export function parseTextFields(fields: Iterable<readonly [name: string, text: string]>): Record<string, unknown> {
  const entries: Record<string, v.GenericSchema> = parameters({ maxFrames: 1, maxFps: 1 }, 'svd');
  const values: Record<string, unknown> = {};
  for (const [name, text] of fields) {
    if (text.trim() === '') continue;
    const isNumber = Object.hasOwn(entries, name) && entries[name]!.type === 'number';
    values[name] = isNumber && /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) ? Number(text) : text;
  }
  return values;
}

function resolve(
  request: Request,
  { model, hasImage, seed }: Omit<RequestContext, 'limits'>,
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
  const all: Record<string, unknown> = {
    ...base,
    ...NAMED_DEFAULTS[request.sampler ?? base.sampler],
    ...(request.discretization && NAMED_DEFAULTS[request.discretization]),
    ...(request.guider && NAMED_DEFAULTS[request.guider]),
    seed,
    ...rest,
    ...(source !== 'image' && { [source]: sources[source] }),
  };
  // The preset's numbers go where another kind is chosen than the preset's.
  for (const [name, home] of Object.entries(BELONGS_TO)) {
    if (!home!.names.includes(String(all[home!.choice]))) delete all[name];
  }
  const input = all as Input;
  input.decoding_t = Math.min(input.decoding_t, input.T);
  if (input.sampler === 'LinearMultistepSampler') input.order = Math.min(input.order, input.steps);
  if (input.discretization === 'EDMDiscretization') checkNoiseLevels(input, request);

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

/** @throws InvalidRequest where the numbers give no usable noise levels */
function checkNoiseLevels(input: Input & EDMDiscretization, request: Request) {
  const { sigma_min, sigma_max, steps } = input;
  if (sigma_min >= sigma_max) {
    const field = request.sigma_min === undefined ? 'sigma_max' : 'sigma_min';
    throw new InvalidRequest([{ field, message: `sigma_min (${sigma_min}) must be below sigma_max (${sigma_max})` }]);
  }
  if (!noiseLevels(steps, input).every((sigma, i) => (i === steps ? sigma === 0 : sigma > 0 && sigma < 1e30))) {
    throw new InvalidRequest([{ field: 'rho', message: 'sigma_min, sigma_max and rho give no usable noise levels' }]);
  }
}
