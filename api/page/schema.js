// What a parameter of the OpenAPI document allows, in words, and whether a text is that.

const isNumeric = ({ type }) => type === 'integer' || type === 'number';
const A_NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const written = (value) => value.toLocaleString('en', { maximumFractionDigits: 10, useGrouping: value >= 10_000 });

/** Sides are multiples of so much, or exactly the model's own. */
function stepsOf({ multipleOf, anyOf = [] }) {
  const step = multipleOf ?? anyOf.find((choice) => choice.multipleOf)?.multipleOf;
  return { step, own: anyOf.find((choice) => choice.const !== undefined)?.const };
}

/** Such as `1–100`, `0 or more`, `multiples of 64, 64–2048`; '' where there is no range. */
export function rangeOf(schema) {
  if (!isNumeric(schema)) return '';
  const { minimum, maximum, exclusiveMinimum } = schema;
  const { step } = stepsOf(schema);
  if (exclusiveMinimum !== undefined) return `above ${written(exclusiveMinimum)}`;
  if (maximum === undefined) return `${written(minimum)} or more`;
  return `${step ? `multiples of ${step}, ` : ''}${written(minimum)}–${written(maximum)}`;
}

/** What is wrong with a text that is not empty, as a sentence; undefined if nothing. */
export function problemWith(schema, text) {
  if (isNumeric(schema)) return problemWithNumber(schema, text);
  if (schema.maxLength !== undefined && [...text].length > schema.maxLength)
    return `Must have at most ${written(schema.maxLength)} characters`;
  if (schema.format === 'uri' && !(new RegExp(schema.pattern, 'i').test(text) && URL.canParse(text)))
    return 'Must be an address that begins with https:// or http://';
  return undefined;
}

function problemWithNumber(schema, text) {
  const { type, minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity } = schema;
  const { step, own } = stepsOf(schema);
  const value = A_NUMBER.test(text) ? Number(text) : Number.NaN;
  const isInside = value >= minimum && value <= maximum && value > exclusiveMinimum && Number.isFinite(value);
  if (isInside && (type === 'number' || Number.isInteger(value)) && (!step || value % step === 0 || value === own))
    return undefined;
  if (step)
    return `Must be a multiple of ${step} from ${minimum} to ${maximum}${nearest(value, { step, minimum, maximum })}`;
  const kind = type === 'integer' ? 'a whole number' : 'a number';
  if (exclusiveMinimum > -Infinity) return `Must be ${kind} above ${written(exclusiveMinimum)}`;
  if (maximum === Infinity) return `Must be ${kind}, ${written(minimum)} or more`;
  return `Must be ${kind} from ${written(minimum)} to ${written(maximum)}`;
}

function nearest(value, { step, minimum, maximum }) {
  if (Number.isNaN(value)) return '';
  const inside = Math.min(maximum, Math.max(minimum, value));
  const both = new Set([Math.floor(inside / step) * step, Math.ceil(inside / step) * step]);
  return `; nearest: ${[...both].join(' and ')}`;
}

/** Whether the parameter means something under these choices: a sampler's number under that sampler. */
export const belongs = (schema, chosen) =>
  Object.entries(schema['x-belongs-to'] ?? {}).every(([choice, names]) => names.includes(chosen(choice)));
