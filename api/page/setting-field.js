// @ts-check
// One field of the settings, made from a parameter's schema.
import { button, element } from './dom.js';
import { choiceLabel, plainText } from './labels.js';

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */

/**
 * @typedef {object} Field
 * @property {ParameterSchema} schema
 * @property {HTMLInputElement | HTMLSelectElement} input an empty one stands for the default
 * @property {HTMLElement} node all of the field
 * @property {HTMLElement} place where problems are shown
 * @property {HTMLInputElement[]} presets radio buttons of common values
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
  const presets = createPresets(schema, input);
  const row = name === 'seed' ? element('div', { class: 'with-button' }, input, createDice(input)) : input;
  const node = element('div', { class: 'field' }, label, row, ...presets.nodes, help, place);
  const isOfClip = schema['x-group'] === 'Clip';
  node.classList.toggle('compact', isOfClip && name !== 'seed');
  node.classList.toggle('full-width', schema.enum !== undefined || schema.format === 'uri' || isWide(schema));
  help.classList.toggle('unseen', isOfClip || schema['x-group'] === 'Size'); // these need no explanation
  return { schema, input, node, place, presets: presets.radios };
}

/** Whether its presets have long labels. @param {ParameterSchema} schema */
const isWide = ({ 'x-presets': presets = {} }) => Object.keys(presets).join('').length > 12;

/** @param {ParameterSchema} schema */
function helpText(schema) {
  const about = plainText(schema.description.replace(/\. Only for .*$/, '')); // the field is hidden otherwise
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

/** The first one is the default, which may follow from other settings. @param {ParameterSchema} schema */
const createOptions = ({ enum: values = [] }) =>
  ['', ...values].map((value) => element('option', { value }, choiceLabel(value)));

/** @param {HTMLSelectElement} select @param {string} value */
export function setDefaultOption(select, value) {
  /** @type {HTMLOptionElement} */ (select.options[0]).text = value ? `${choiceLabel(value)} (default)` : 'default';
}

/** @param {ParameterSchema} schema @returns {Record<string, string>} */
function inputType({ type, format }) {
  if (type === 'string' && !format) return { type: 'text', spellcheck: 'false' };
  if (type === 'string') return { type: 'url', inputmode: 'url', spellcheck: 'false' };
  return { type: 'text', inputmode: type === 'integer' ? 'numeric' : 'decimal' };
}

/** Sets an input as a user would. @param {HTMLInputElement | HTMLSelectElement} input @param {string} value */
export function setInput(input, value) {
  input.value = value;
  input.dispatchEvent(new Event('input', { bubbles: true }));
}

/**
 * Radio buttons that set the number.
 * @param {ParameterSchema} schema
 * @param {HTMLInputElement | HTMLSelectElement} input
 */
function createPresets({ 'x-presets': presets = {}, title, default: own }, input) {
  const choices = Object.entries(presets).map(([label, value]) => {
    const radio = element('input', { type: 'radio', name: `${input.id}-preset`, value });
    radio.addEventListener('change', () => setInput(input, value === own ? '' : String(value)));
    return { radio, label: element('label', {}, radio, element('span', {}, label)) };
  });
  const labels = choices.map(({ label }) => label);
  const attributes = { class: 'segments', role: 'radiogroup', 'aria-label': title };
  return {
    radios: choices.map(({ radio }) => radio),
    nodes: labels.length > 0 ? [element('div', attributes, ...labels)] : [],
  };
}

/** @param {HTMLInputElement | HTMLSelectElement} input */
function createDice(input) {
  input.setAttribute('placeholder', 'random');
  const roll = () => setInput(input, String(Math.floor(Math.random() * 1e9)));
  return button('', 'dice', roll, { class: 'icon-button', 'aria-label': 'Draw a seed' });
}
