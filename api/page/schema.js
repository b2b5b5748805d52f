// @ts-check
// Checks a text against a parameter's schema, and describes what the schema allows.

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
/** @param {ParameterSchema} schema */
const isNumeric = ({ type }) => type === 'integer' || type === 'number';
/** @param {number} value */
const format = (value) => value.toLocaleString('en', { maximumFractionDigits: 10, useGrouping: value >= 10_000 });

/**
 * A side of the frame is a multiple of `step`, or exactly the model's own.
 * @param {ParameterSchema} schema
 * @returns {{ step: number | undefined, own: number | undefined }}
 */
function sizeStep({ multipleOf, anyOf = [] }) {
  const choices = /** @type {{ multipleOf?: number, const?: number }[]} */ (anyOf);
  return {
    step: multipleOf ?? choices.find((choice) => choice.multipleOf)?.multipleOf,
    own: choices.find((choice) => choice.const !== undefined)?.const,
  };
}

/** `1–100`, `0 or more`, `multiples of 64, 64–2048`; '' if there is no range. @param {ParameterSchema} schema */
export function formatRange(schema) {
  if (!isNumeric(schema)) return '';
  const { minimum = 0, maximum, exclusiveMinimum } = schema;
  const { step } = sizeStep(schema);
  if (exclusiveMinimum !== undefined) return `above ${format(exclusiveMinimum)}`;
  if (maximum === undefined) return `${format(minimum)} or more`;
  return `${step ? `multiples of ${step}, ` : ''}${format(minimum)}–${format(maximum)}`;
}

/**
 * What is wrong with a text that is not empty, as a sentence; undefined if nothing is.
 * @param {ParameterSchema} schema
 * @param {string} text
 */
export function findProblem(schema, text) {
  if (isNumeric(schema)) return findNumberProblem(schema, text);
  if (schema.maxLength !== undefined && [...text].length > schema.maxLength)
    return `Must have at most ${format(schema.maxLength)} characters`;
  if (schema.format === 'uri' && !(/^https?:\/\//i.test(text) && URL.canParse(text)))
    return 'Must be an address that begins with https:// or http://';
  return undefined;
}

/** @param {ParameterSchema} schema @param {string} text */
function findNumberProblem(schema, text) {
  const { type, minimum = -Infinity, maximum = Infinity, exclusiveMinimum = -Infinity } = schema;
  const { step, own } = sizeStep(schema);
  const value = NUMBER.test(text) ? Number(text) : Number.NaN;
  const isInside = value >= minimum && value <= maximum && value > exclusiveMinimum && Number.isFinite(value);
  if (isInside && (type === 'number' || Number.isInteger(value)) && (!step || value % step === 0 || value === own))
    return undefined;
  if (step)
    return `Must be a multiple of ${step} from ${minimum} to ${maximum}${nearest(value, { step, minimum, maximum })}`;
  const kind = type === 'integer' ? 'a whole number' : 'a number';
  if (exclusiveMinimum > -Infinity) return `Must be ${kind} above ${format(exclusiveMinimum)}`;
  if (maximum === Infinity) return `Must be ${kind}, ${format(minimum)} or more`;
  return `Must be ${kind} from ${format(minimum)} to ${format(maximum)}`;
}

/** @param {number} value @param {{ step: number, minimum: number, maximum: number }} range */
function nearest(value, { step, minimum, maximum }) {
  if (Number.isNaN(value)) return '';
  const inside = Math.min(maximum, Math.max(minimum, value));
  const both = new Set([Math.floor(inside / step) * step, Math.ceil(inside / step) * step]);
  return `; nearest: ${[...both].join(' and ')}`;
}

/**
 * Whether the parameter is used under the current choices, such as s_churn under a sampler.
 * @param {ParameterSchema} schema
 * @param {(name: string) => string} current the value of a choice
 */
export const isUsed = (schema, current) =>
  Object.entries(schema['x-belongs-to'] ?? {}).every(([choice, names]) => names.includes(current(choice)));
