// @ts-check
// The settings: a field for every parameter of the OpenAPI document, so that page and API cannot differ.
import { $, element, showNote } from './dom.js';
import { formatNumber } from './format.js';
import { choiceLabel, plainText } from './labels.js';
import { createField, setDefaultOption, setInput } from './setting-field.js';

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */
/** @import { Field } from './setting-field.js' */
/** @typedef {Record<string, ParameterSchema>} Parameters the document's schemas by name */
/** @typedef {ReturnType<typeof createSettings>} Settings */

/**
 * Builds the fields into the form.
 * @param {Parameters} parameters
 * @param {{ isOfFour: () => boolean }} options isOfFour: whether one of four pictures is chosen
 */
export function createSettings(parameters, { isOfFour }) {
  const fields = createFields(parameters);
  const names = [...fields.keys()];
  const fieldOf = (/** @type {string} */ name) => /** @type {Field} */ (fields.get(name));
  const schemaOf = (/** @type {string} */ name) => fieldOf(name).schema;
  /** @type {Record<string, unknown>} what the API would use for empty numbers of a sampler, discretization or guider */
  let resolved = {};

  const size = createSizeChoice({ W: fieldOf('W'), H: fieldOf('H'), aspect_ratio: fieldOf('aspect_ratio') });
  const groups = Map.groupBy(names, (name) => schemaOf(name)['x-group']);
  /** @type {{ members: string[], summary: HTMLElement }[]} */
  const summaries = [];
  for (const [title, members] of groups) {
    const nodes = members.map((name) => fieldOf(name).node);
    if (title === 'Clip') $('main-settings').append(...nodes);
    else if (title !== 'Size') summaries.push({ members, summary: addGroup(title, nodes) });
  }
  const duration = createDuration(fieldOf('T'), current);

  /** @param {string} name @returns {string} what the API uses if nothing is entered */
  function defaultOf(name) {
    const { 'x-belongs-to': choice, default: own = '' } = schemaOf(name);
    const speed = fields.get('speed');
    const set = speed?.schema['x-sets']?.[speed.input.value];
    return String(set?.[name] ?? (choice && resolved[name]) ?? own);
  }
  const entered = (/** @type {string} */ name) => fieldOf(name).input.value.trim();
  /** @param {string} name */
  function current(name) {
    return entered(name) || defaultOf(name);
  }
  const applies = (/** @type {string} */ name) =>
    isUsed(schemaOf(name), current) && (name !== 'image_index' || isOfFour());
  const isSent = (/** @type {string} */ name) => entered(name) !== '' && applies(name);

  /** Brings everything up to date that follows from the values. */
  function refresh() {
    size.refresh();
    for (const [name, { node, presets, input }] of fields) {
      node.hidden = !applies(name);
      if (input instanceof HTMLSelectElement) setDefaultOption(input, defaultOf(name));
      else if (name !== 'seed') input.setAttribute('placeholder', defaultOf(name));
      for (const radio of presets) radio.checked = radio.value === current(name);
    }
    duration.refresh();
    for (const { members, summary } of summaries) summary.textContent = summarize(members);
    $('reset').hidden = names.every((name) => entered(name) === '');
  }

  /** A group's choices that are sent, and how many other values. @param {string[]} members */
  function summarize(members) {
    const [choices, others] = [true, false].map((isChoice) =>
      members.filter((name) => isSent(name) && (schemaOf(name).enum !== undefined) === isChoice),
    );
    const count = others?.length ?? 0;
    return [...(choices ?? []).map((name) => choiceLabel(current(name))), ...(count ? [`${count} changed`] : [])].join(
      ', ',
    );
  }

  /** Shows a note under a field. @param {string} name @param {string} text @param {boolean} isProblem */
  function show(name, text, isProblem) {
    showNote(fieldOf(name), plainText(text), isProblem);
    if (isProblem && text && schemaOf(name)['x-group'] === 'Size') size.showNumbers(true);
  }

  return {
    has: (/** @type {string} */ name) => fields.has(name),
    input: (/** @type {string} */ name) => fieldOf(name).input,
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

/** Adds a group that can be opened. @param {string} title @param {HTMLElement[]} nodes @returns {HTMLElement} for its summary */
function addGroup(title, nodes) {
  const summary = element('span', { class: 'summary soft' });
  const content = element('div', { class: 'group' }, ...nodes);
  $('groups').append(element('details', {}, element('summary', {}, title, summary), content));
  return summary;
}

/** A field for each parameter that the model uses, in the order of the form. @param {Parameters} parameters */
const createFields = (parameters) =>
  new Map(
    Object.entries(parameters)
      .filter(([, schema]) => !['Source', 'Program'].includes(schema['x-group']) && !schema['x-unused'])
      .toSorted(([, a], [, b]) => a['x-order'] - b['x-order'])
      .map(([name, schema]) => [name, createField(name, schema)]),
  );

/**
 * Whether the parameter is used under the current choices, such as s_churn under a sampler.
 * @param {ParameterSchema} schema
 * @param {(name: string) => string} current the value of a choice
 */
const isUsed = (schema, current) =>
  Object.entries(schema['x-belongs-to'] ?? {}).every(([choice, values]) => values.includes(current(choice)));

/**
 * Adds the clip's duration to the form: a number in seconds and a slider, which both set the frames.
 * @param {Field} frames
 * @param {(name: string) => string} current the value of a setting
 */
function createDuration({ input, schema: { maximum = 1, default: own } }, current) {
  const id = 'duration';
  const seconds = element('input', { id, type: 'text', inputmode: 'decimal', autocomplete: 'off' });
  // for the pointer; keyboards and screen readers use the number
  const slider = element('input', { type: 'range', min: 1, max: maximum, tabindex: '-1', 'aria-hidden': 'true' });
  /** @param {number} count of frames */
  function setFrames(count) {
    const allowed = Math.min(maximum, Math.max(1, Math.round(count)));
    if (Number.isFinite(count)) setInput(input, allowed === own ? '' : String(allowed));
  }
  function refresh() {
    const [count, fps] = [Number(current('T')), Number(current('fps'))];
    slider.value = String(count);
    if (count > 0 && fps > 0 && document.activeElement !== seconds) seconds.value = formatNumber(count / fps, 1);
  }
  slider.addEventListener('input', () => setFrames(Number(slider.value)));
  seconds.addEventListener('input', () => setFrames(Number(seconds.value || Number.NaN) * Number(current('fps'))));
  seconds.addEventListener('blur', refresh); // shows what the frames come to
  const label = element('label', { for: id }, 'Duration in seconds');
  $('main-settings').prepend(element('div', { class: 'field compact full-width' }, label, seconds, slider));
  return { refresh };
}

/**
 * Builds the choice of the frame's size into the form: of the picture, presets, and `Other` with fields.
 * @param {{ W: Field, H: Field, aspect_ratio: Field }} fields
 */
function createSizeChoice({ W, H, aspect_ratio }) {
  const [width, height] = [Number(W.schema['x-own']), Number(H.schema['x-own'])];
  const side = Math.round(Math.sqrt(width * height) / 64) * 64;
  const keyOf = (/** @type {(string | number)[]} */ ...sides) => sides.join('x');
  const current = () => keyOf(...[W, H, aspect_ratio].map(({ input }) => input.value.trim()));
  const presets = [
    { name: 'Auto', W: '', H: '', ratio: 'picture' },
    { name: 'Wide', W: width, H: height, ratio: '16 : 9' },
    { name: 'Tall', W: height, H: width, ratio: '9 : 16' },
    { name: 'Square', W: side, H: side, ratio: '1 : 1' },
  ];
  const radios = presets.map((preset) =>
    addRadio(preset.name, keyOf(preset.W, preset.H, ''), preset.ratio, () => {
      W.input.value = String(preset.W);
      H.input.value = String(preset.H);
      aspect_ratio.input.value = '';
      showNumbers(false);
    }),
  );
  const other = addRadio('Other', 'other', 'W × H', () => showNumbers(true));
  $('size-numbers').append(W.node, H.node, aspect_ratio.node);
  $('sizes').append(W.place, H.place, aspect_ratio.place); // shown for every size

  /** @param {string} name @param {string} value @param {string} numbers @param {() => void} choose */
  function addRadio(name, value, numbers, choose) {
    const shape = element('i', { class: `shape ${name.toLowerCase()}` });
    const radio = element('input', { type: 'radio', name: 'size', value });
    radio.addEventListener('change', () => {
      choose();
      setInput(W.input, W.input.value); // the form listens for input
    });
    const label = element('span', {}, shape, name, element('small', { class: 'digits' }, numbers));
    $('size-choices').append(element('label', {}, radio, label));
    return radio;
  }

  /** @param {boolean} areShown */
  function showNumbers(areShown) {
    $('size-numbers').hidden = !areShown;
  }

  return {
    showNumbers,
    /** Checks the radio button of the current size; `Other` stays checked while its numbers are edited. */
    refresh() {
      const isEditing = other.checked && !$('size-numbers').hidden;
      const radio = (!isEditing && radios.find((one) => one.value === current())) || other;
      radio.checked = true;
      showNumbers(radio === other);
    },
    reset() {
      if (radios[0]) radios[0].checked = true;
      showNumbers(false);
    },
  };
}
