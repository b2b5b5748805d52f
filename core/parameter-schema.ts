/** The parameters of a request, as JSON Schema and as a table for people. */
import { toJsonSchema } from '@valibot/to-json-schema';
import type * as v from 'valibot';
import { MODELS } from './job.ts';
import { PARAMETER_LABELS, type ParameterLabel } from './parameter-labels.ts';
import { BELONGS_TO, defaults, type Limits, MAX_PROMPT, NAMED_DEFAULTS, requestSchema } from './parameters.ts';
import type { ModelName } from './presets.ts';

export interface ParameterSchema extends ParameterLabel {
  type: 'integer' | 'number' | 'string';
  description: string;
  default?: number | string;
  minimum?: number;
  exclusiveMinimum?: number;
  maximum?: number;
  multipleOf?: number;
  anyOf?: object[];
  minLength?: number;
  maxLength?: number;
  format?: string;
  enum?: string[];
  examples?: unknown[];
  /** only under these choices */
  'x-belongs-to'?: Record<string, readonly string[]>;
  /** of the prompt: what stands here in place of a Midjourney bridge */
  'x-bridge'?: Bridge;
}

/** `placeholder`: prompts become drawings; `none`: prompts are refused; undefined: a Midjourney bridge, or not known */
type Bridge = 'none' | 'placeholder' | undefined;

/** Each parameter's schema, with the model's default; of the prompt what becomes of it here, as far as that is known. */
export function requestProperties({
  model,
  limits,
  bridge,
}: {
  model: ModelName;
  limits: Limits;
  bridge: Bridge;
}): Record<string, ParameterSchema> {
  const { properties } = jsonSchema(requestSchema(limits, model)) as { properties: Record<string, ParameterSchema> };
  Object.assign(properties.prompt!, { minLength: 1, maxLength: MAX_PROMPT, ...(bridge && { 'x-bridge': bridge }) });
  const { H, W } = defaults(model);
  for (const [name, own] of [
    ['H', H],
    ['W', W],
  ] as const) {
    Object.assign(
      properties[name]!,
      { type: 'integer' },
      own % 64 === 0 ? { multipleOf: 64 } : { anyOf: [{ multipleOf: 64 }, { const: own }] },
    );
  }
  for (const [name, label] of Object.entries(PARAMETER_LABELS)) Object.assign(properties[name]!, label);
  for (const [name, value] of Object.entries(defaults(model))) properties[name]!.default = value;
  for (const [name, home] of Object.entries(BELONGS_TO)) {
    const schema = properties[name]!;
    const { choice, names } = home!;
    schema.description += `. Only for ${choice} ${names.join(', ')}`;
    const named = NAMED_DEFAULTS[names[0]!]![name]!;
    schema.default ??= named;
    if (schema.default !== named) schema.description += `; ${named} where ${names[0]} is named`;
    schema['x-belongs-to'] = { [choice]: names };
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

export interface ParameterRow {
  name: string;
  /** what is allowed, such as 1–100 */
  range: string;
  /** its default, such as 6; empty where there is none */
  defaultValue: string;
  description: string;
}

/** The table of parameters, for the models that a reader may have. */
export function parameterRows(limits: Limits, models: ModelName[] = MODELS): ParameterRow[] {
  const all = models.map((model) => requestProperties({ model, limits, bridge: undefined }));
  return Object.entries(all.at(-1)!).map(([name, schema]) => ({
    name,
    range: rangeOf(schema),
    defaultValue: formatDefault(
      name,
      all.map((properties) => properties[name]!.default),
      models,
    ),
    description: schema.description,
  }));
}

function rangeOf({ type, format, enum: choices, minLength, maxLength, ...numbers }: ParameterSchema): string {
  if (choices) return choices.join(', ');
  if (format === 'uuid') return 'a task’s id';
  if (format) return 'an http(s) address';
  if (type === 'string') return `${minLength}–${maxLength!.toLocaleString('en')} characters`;
  const { minimum, exclusiveMinimum, maximum, multipleOf, anyOf } = numbers;
  if (exclusiveMinimum !== undefined) return `> ${exclusiveMinimum}`;
  if (maximum === undefined) return `≥ ${minimum}`;
  const step = multipleOf ?? (anyOf && 64);
  return `${shortly(minimum!)}–${shortly(maximum)}${step ? `, multiples of ${step}` : ''}`;
}

const shortly = (number: number) => (number === 1e9 ? '1e9' : String(number));

/** One for all models, or the models of each: 12 (camera), 25 (svd). */
function formatDefault(name: string, values: (number | string | undefined)[], models: string[]): string {
  if (name === 'seed') return 'random, and reported';
  const different = [...new Set(values)];
  if (different.length === 1) return String(different[0] ?? '');
  const whose = (value: unknown) => models.filter((_, i) => values[i] === value).join(', ');
  return different.map((value) => `${value} (${whose(value)})`).join(', ');
}
