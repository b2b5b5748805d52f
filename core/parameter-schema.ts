/** The parameters of a request, as JSON Schema and as a table for people. */
import { toJsonSchema } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import { SIDE_STEP } from './frame-size.ts';
import { MODELS } from './job.ts';
import { PARAMETER_LABELS, type ParameterLabel } from './parameter-labels.ts';
import { BELONGS_TO, defaults, type Limits, MAX_PROMPT, NAMED_DEFAULTS, requestSchema, UNUSED } from './parameters.ts';
import { type ModelName, presets, SPEEDS } from './presets.ts';

export interface ParameterSchema extends ParameterLabel {
  type: 'integer' | 'number' | 'string' | 'object' | 'array';
  description: string;
  default?: number | string;
  minimum?: number;
  exclusiveMinimum?: number;
  maximum?: number;
  multipleOf?: number;
  anyOf?: object[];
  /** of W and H: the side of the model's own size, in pixels */
  'x-own'?: number;
  minLength?: number;
  maxLength?: number;
  format?: string;
  enum?: string[];
  /** of a list: the schema of each item */
  items?: { type: 'string'; enum: string[] };
  /** of metadata: the schema of each text */
  additionalProperties?: { type: 'string' };
  /** the choices that the parameter applies to */
  'x-belongs-to'?: Record<string, readonly string[]>;
  /** of the speed: the values that each choice sets, by parameter */
  'x-sets'?: Record<string, Record<string, number | string>>;
  /** the service's model ignores the parameter */
  'x-unused'?: true;
  /** of the prompt: what this service has instead of a bridge */
  'x-bridge'?: Bridge;
}

/** `placeholder`: prompts become drawings; `none`: prompts are refused; undefined: a bridge, or unknown */
type Bridge = 'none' | 'placeholder' | undefined;

/** Each parameter's schema, with the model's default. */
export function requestProperties({ model, limits, bridge }: { model: ModelName; limits: Limits; bridge: Bridge }) {
  const { properties } = jsonSchema(requestSchema(limits, model)) as { properties: Record<string, ParameterSchema> };
  Object.assign(properties.prompt!, { minLength: 1, maxLength: MAX_PROMPT, ...(bridge && { 'x-bridge': bridge }) });
  for (const name of ['H', 'W'] as const) {
    const others = [presets[model].H, presets[model].W].filter((own) => own % SIDE_STEP !== 0);
    const step = { multipleOf: SIDE_STEP };
    const sizes = others.length === 0 ? step : { anyOf: [step, { enum: others }] };
    Object.assign(properties[name]!, { type: 'integer', ...sizes, 'x-own': presets[model][name] });
  }
  for (const [name, label] of Object.entries(PARAMETER_LABELS)) Object.assign(properties[name]!, label);
  for (const [name, value] of Object.entries(defaults(model))) {
    const { maximum = Infinity } = properties[name]!;
    properties[name]!.default = typeof value === 'number' ? Math.min(value, maximum) : value;
  }
  properties.speed!['x-sets'] = SPEEDS;
  for (const name of UNUSED[model]) properties[name]!['x-unused'] = true;
  for (const [name, home] of Object.entries(BELONGS_TO)) {
    const schema = properties[name]!;
    const { choice, names } = home!;
    schema.description += `. Only for ${choice} ${names.join(', ')}`;
    schema['x-belongs-to'] = { [choice]: names };
    const named = NAMED_DEFAULTS[names[0]!]![name];
    if (named === undefined) continue;
    schema.default ??= named;
    if (schema.default !== named) schema.description += `. Default ${named} if the request names ${names[0]}`;
  }
  return properties;
}

export function jsonSchema(schema: v.GenericSchema): object {
  const { $schema: _, ...rest } = toJsonSchema(schema, {
    typeMode: 'input',
    errorMode: 'ignore',
    ignoreActions: ['trim', 'check'],
  });
  return rest;
}

/** The table of parameters: `range` is such as 1–100, `defaultValue` names each model's own and is empty if there is none. */
export function parameterRows(limits: Limits) {
  const byModel = MODELS.map((model) => requestProperties({ model, limits, bridge: undefined }));
  return Object.entries(byModel.at(-1)!).map(([name, schema]) => ({
    name,
    range: formatRange(name, schema),
    defaultValue: defaultOf(
      name,
      byModel.map((properties) => properties[name]!),
    ),
    description: schema.description,
  }));
}

function formatRange(
  name: string,
  { type, format, enum: choices, minLength, maxLength, ...numbers }: ParameterSchema,
): string {
  if (choices) return choices.join(', ');
  if (type === 'array') return `a list of ${numbers.items!.enum.join(', ')}`;
  if (type === 'object') return 'at most 16 texts of at most 512 characters';
  if (format === 'uuid') return 'a task’s id';
  if (name === 'aspect_ratio') return 'auto, or W:H from 9:21 to 21:9';
  if (format) return name === 'webhook_url' ? 'an https URL' : 'an http(s) URL';
  if (type === 'string') return `${minLength}–${maxLength!.toLocaleString('en')} characters`;
  const { minimum, exclusiveMinimum, maximum, multipleOf, anyOf } = numbers;
  if (exclusiveMinimum !== undefined) return `> ${exclusiveMinimum}`;
  if (maximum === undefined) return `≥ ${minimum}`;
  const step = multipleOf ?? (anyOf && SIDE_STEP);
  return `${formatLimit(minimum!)}–${formatLimit(maximum)}${step ? `, multiples of ${step}` : ''}`;
}

const formatLimit = (number: number) => (number === 1e9 ? '1e9' : String(number));

/** @param schemas of the parameter, one for each model */
function defaultOf(name: string, schemas: ParameterSchema[]): string {
  if (name === 'seed') return 'random, and reported';
  const own = formatValues(schemas.map((schema) => schema['x-own']));
  return own ? `from aspect_ratio; the model’s own: ${own}` : formatValues(schemas.map((schema) => schema.default));
}

/** One value for all models, or each value with its models: `12 (camera), 25 (svd)`. */
function formatValues(values: ParameterSchema['default'][]): string {
  const different = [...new Set(values)];
  if (different.length === 1) return String(different[0] ?? '');
  const modelsWith = (value: unknown) => MODELS.filter((_, i) => values[i] === value).join(', ');
  return different.map((value) => `${value} (${modelsWith(value)})`).join(', ');
}
