// @ts-check
// One field of the settings, made from a parameter's schema.
import { button, element } from './dom.js';

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */

/**
 * @typedef {object} Field
 * @property {ParameterSchema} schema
 * @property {HTMLInputElement | HTMLSelectElement} input an empty one stands for the default
 * @property {HTMLElement} node all of the field
 * @property {HTMLElement} place where problems are shown
 * @property {HTMLInputElement} [slider]
 */

/** @param {string} name @param {ParameterSchema} schema @returns {Field} */
export function createField(name, schema) {
  const id = `setting-${name}`;
  const help = element('p', { class: 'help', id: `${id}-help` }, helpText(schema));
  const place = element('p', { class: 'problem', id: `${id}-problem` });
  const attributes = { id, name, 'aria-describedby': `${help.id} ${place.id}` };
  const input = schema.enum
    ? element('select', attributes, ...createOptions(schema))
    : element('input', { ...attributes, ...inputType(schema), autocomplete: 'off', placeholder: schema.default ?? '' });
  const label = element('label', { for: id }, schema.title);
  const slider = createSlider(schema, input);
  const row = name === 'seed' ? element('div', { class: 'with-button' }, input, createDice(input)) : input;
  const node = element('div', { class: 'field', title: name }, label, row, ...(slider ? [slider] : []), help, place);
  node.classList.toggle('with-slider', slider !== undefined);
  node.classList.toggle('full-width', name === 'seed' || schema.enum !== undefined || schema.format === 'uri');
  help.classList.toggle('unseen', ['Size', 'Clip'].includes(schema['x-group'])); // these need no explanation
  return { schema, input, node, place, ...(slider && { slider }) };
}

/** A name of an enum as words: `EulerEDMSampler` becomes `Euler EDM`. @param {string} value */
export const choiceLabel = (value) =>
  value
    .replace(/(Sampler|Discretization|Guider)$/, '')
    .replace(/([a-z])([A-Z])|([A-Z]{2,}|2[SM])(?=[A-Z][a-z])/g, (_, a, b, c) => (a ? `${a} ${b}` : `${c} `));

/** @param {ParameterSchema} schema */
function helpText(schema) {
  const about = schema.description.replace(/\. Only for .*$/, ''); // the field is hidden otherwise
  const range = formatRange(schema);
  return range ? `${about} (${range})` : about;
}

/** `1–100`, `0 or more`, `multiples of 64, 64–2048`; '' for texts. @param {ParameterSchema} schema */
function formatRange({ type, minimum = 0, maximum, exclusiveMinimum, multipleOf, anyOf }) {
  if (type === 'string') return '';
  if (exclusiveMinimum !== undefined) return `above ${exclusiveMinimum}`;
  if (maximum === undefined) return `${minimum} or more`;
  const step = multipleOf ?? (anyOf && 64); // or the model's own size
  return `${step ? `multiples of ${step}, ` : ''}${minimum}–${maximum.toLocaleString('en', { useGrouping: 'min2' })}`;
}

/** @param {ParameterSchema} schema */
function createOptions({ enum: values = [], default: own }) {
  const first = element('option', { value: '' }, own ? `${choiceLabel(String(own))} (default)` : 'default');
  return [first, ...values.map((value) => element('option', { value }, choiceLabel(value)))];
}

/** @param {ParameterSchema} schema @returns {Record<string, string>} */
function inputType({ type }) {
  if (type === 'string') return { type: 'url', inputmode: 'url', spellcheck: 'false' };
  return { type: 'text', inputmode: type === 'integer' ? 'numeric' : 'decimal' };
}

/** Sets an input as a user would. @param {HTMLInputElement | HTMLSelectElement} input @param {string} value */
export function setInput(input, value) {
  input.value = value;
  input.dispatchEvent(new Event('input', { bubbles: true }));
}

/**
 * A slider for the pointer; keyboards and screen readers use the number.
 * @param {ParameterSchema} schema
 * @param {HTMLInputElement | HTMLSelectElement} input
 */
function createSlider({ minimum, maximum = Infinity, default: own, 'x-slider-maximum': end }, input) {
  if (end === undefined) return undefined;
  const range = { min: minimum, max: Math.min(end, maximum) };
  const slider = element('input', { type: 'range', ...range, tabindex: '-1', 'aria-hidden': 'true' });
  slider.addEventListener('input', () => setInput(input, slider.value === String(own) ? '' : slider.value));
  return slider;
}

/** @param {HTMLInputElement | HTMLSelectElement} input */
function createDice(input) {
  input.setAttribute('placeholder', 'random');
  const roll = () => setInput(input, String(Math.floor(Math.random() * 1e9)));
  return button('', 'dice', roll, { class: 'icon-button', 'aria-label': 'Draw a seed' });
}
