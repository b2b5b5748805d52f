// @ts-check
// The settings: a field for every parameter of the OpenAPI document, so that page and API cannot differ.
import { $, element, showNote } from './dom.js';
import { formatClipLength } from './format.js';
import { choiceLabel, createField } from './setting-field.js';
import { createSizeChoice } from './size-choice.js';

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */
/** @import { Field } from './setting-field.js' */
/** @typedef {Record<string, ParameterSchema>} Parameters the document's schemas by name */

/** Groups that are always visible; the others can be opened. */
const OPEN_GROUPS = ['Size', 'Clip'];

/**
 * Builds the fields into the form.
 * @param {Parameters} parameters
 * @param {{ isOfFour: () => boolean }} options isOfFour: whether one of four pictures is chosen
 */
export function createSettings(parameters, { isOfFour }) {
  const names = Object.keys(parameters).filter((name) => schemaOf(name)['x-group'] !== 'Source');
  names.sort((a, b) => schemaOf(a)['x-order'] - schemaOf(b)['x-order']);
  const fields = new Map(names.map((name) => [name, createField(name, schemaOf(name))]));
  /** @type {Record<string, unknown>} what the API would use for empty numbers of a sampler, discretization or guider */
  let resolved = {};

  const size = createSizeChoice({ W: fieldOf('W'), H: fieldOf('H') }, current);
  const groups = Map.groupBy(names, (name) => schemaOf(name)['x-group']);
  $('main-settings').append(...(groups.get('Clip') ?? []).map((name) => fieldOf(name).node));
  const clipLength = element('p', { id: 'clip-length', class: 'help' });
  fieldOf('fps').node.after(clipLength);
  const summaries = [...groups]
    .filter(([title]) => !OPEN_GROUPS.includes(title))
    .map(([title, members]) => ({ names: members, summary: createGroup(title, members) }));

  /** @param {string} name */
  function schemaOf(name) {
    return /** @type {ParameterSchema} */ (parameters[name]);
  }
  /** @param {string} name */
  function fieldOf(name) {
    return /** @type {Field} */ (fields.get(name));
  }

  /** @param {string} title @param {string[]} members @returns {HTMLElement} shows the current values */
  function createGroup(title, members) {
    const summary = element('span', { class: 'summary soft' });
    const content = element('div', { class: 'group' }, ...members.map((name) => fieldOf(name).node));
    $('groups').append(element('details', {}, element('summary', {}, title, summary), content));
    return summary;
  }

  /** @param {string} name @returns {string} what the API uses if nothing is entered */
  function defaultOf(name) {
    const { 'x-belongs-to': choice, default: own = '' } = schemaOf(name);
    return String((choice && resolved[name]) ?? own);
  }
  /** @param {string} name */
  const entered = (name) => fieldOf(name).input.value.trim();
  /** @param {string} name */
  function current(name) {
    return entered(name) || defaultOf(name);
  }
  /** @param {string} name */
  const applies = (name) =>
    Object.entries(schemaOf(name)['x-belongs-to'] ?? {}).every(([choice, values]) =>
      values.includes(current(choice)),
    ) &&
    (name !== 'image_index' || isOfFour());
  const isSent = (/** @type {string} */ name) => entered(name) !== '' && applies(name);

  /** Brings everything up to date that follows from the values. */
  function refresh() {
    size.refresh();
    for (const [name, { node, slider, input, schema }] of fields) {
      node.hidden = !applies(name);
      if (!schema.enum && name !== 'seed') input.setAttribute('placeholder', defaultOf(name));
      if (!slider) continue;
      slider.value = current(name);
      const [min, max] = [Number(slider.min), Number(slider.max)];
      slider.style.setProperty('--filled', `${(100 * (Number(slider.value) - min)) / (max - min)}%`);
    }
    const [frames, fps] = [Number(current('T')), Number(current('fps'))];
    clipLength.textContent = frames > 0 && fps > 0 ? `The clip lasts ${formatClipLength(frames, fps)}` : '';
    for (const { names, summary } of summaries) summary.textContent = summarize(names);
    $('reset').hidden = names.every((name) => entered(name) === '');
  }

  /** A group's choice and steps, and how many others were changed. @param {string[]} members */
  function summarize(members) {
    const choice = members.find((name) => schemaOf(name).enum);
    const changed = members.filter((name) => name !== choice && name !== 'steps' && isSent(name));
    return [
      ...(choice ? [choiceLabel(current(choice))] : []),
      ...(members.includes('steps') ? [`${current('steps')} steps`] : []),
      ...(changed.length > 0 ? [`${changed.length} changed`] : []),
    ].join(', ');
  }

  /** Shows a note under a field. @param {string} name @param {string} text @param {boolean} isProblem */
  function show(name, text, isProblem) {
    const field = fieldOf(name);
    showNote(field, text, isProblem);
    if (!isProblem || !text) return;
    const details = field.node.closest('details');
    if (details) details.open = true;
    if (schemaOf(name)['x-group'] === 'Size') size.showNumbers(true);
  }

  return {
    /** @param {string} name */
    has: (name) => fields.has(name),
    /** @param {string} name */
    input: (name) => fieldOf(name).input,
    refresh,
    show,

    /** @returns {[name: string, text: string][]} the values that are sent */
    entries: () => names.filter(isSent).map((name) => [name, entered(name)]),

    /** @param {Record<string, unknown>} input what the API would use, from a dry run */
    resolve(input) {
      resolved = input;
      refresh();
    },

    /** @param {Record<string, unknown>} values by name; the others are emptied */
    fill(values) {
      for (const [name, { input }] of fields) {
        input.value = String(values[name] ?? '');
        show(name, '', false);
      }
      size.reset();
      resolved = {};
      refresh();
    },
  };
}
