// The settings: a field for every parameter of the API's own document, so that page and API can't drift apart.
import { $, button, element } from './dom.js';
import { length } from './labels.js';
import { belongs, problemWith, rangeOf } from './schema.js';

const SOURCES = ['prompt', 'image_url', 'still_of'];
const SIZE = ['W', 'H'];
/** At hand, and how far their sliders go where the whole range would be too coarse. */
const MAIN = { T: 50, fps: 30, motion_bucket_id: 255, num_cols: 4 };
/** The rest, folded away. What the document has and this list has not comes last. */
const GROUPS = [
  { title: 'Picture', names: ['fit', 'image_index', 'cond_aug'] },
  { title: 'Sampling', names: ['sampler', 'steps', 's_churn', 's_tmin', 's_tmax', 's_noise', 'eta', 'order'] },
  { title: 'Noise levels', names: ['discretization', 'sigma_min', 'sigma_max', 'rho'] },
  { title: 'Guidance', names: ['guider', 'min_guidance_scale', 'max_cfg_scale', 'cfg_scale'] },
  { title: 'Memory and notice', names: ['decoding_t', 'webhook_url'] },
];
const LABELS = {
  W: 'Width',
  H: 'Height',
  T: 'Frames',
  fps: 'Frame rate',
  motion_bucket_id: 'Motion',
  num_cols: 'Videos',
  seed: 'Seed',
  fit: 'Fit',
  image_index: 'Which of the four pictures',
  cond_aug: 'Conditioning noise',
  steps: 'Steps',
  sampler: 'Sampler',
  s_churn: 'Churn',
  s_tmin: 'Churn from sigma',
  s_tmax: 'Churn up to sigma',
  s_noise: 'Noise scale',
  eta: 'Fresh noise',
  order: 'Order',
  discretization: 'Spacing',
  sigma_min: 'Lowest sigma',
  sigma_max: 'Highest sigma',
  rho: 'Rho',
  guider: 'Guider',
  cfg_scale: 'Scale',
  min_guidance_scale: 'Scale at the first frame',
  max_cfg_scale: 'Scale at the last frame',
  decoding_t: 'Frames decoded at a time',
  webhook_url: 'Webhook',
};
/** An enum's names as words: EulerEDMSampler, Euler EDM. */
const nameOf = (value) =>
  value
    .replace(/(Sampler|Discretization|Guider)$/, '')
    .replace(/([a-z])([A-Z])|([A-Z]{2,}|2[SM])(?=[A-Z][a-z])/g, (_, a, b, c) => (a ? `${a} ${b}` : `${c} `));

/**
 * Builds the fields into the form.
 * @param parameters the document's schemas by name
 * @param isOfFour whether one of four pictures is to be chosen
 */
export function createSettings(parameters, { isOfFour }) {
  const fields = new Map(); // by name: {schema, input, node, problem, slider?}
  let resolved = {}; // what the API would use for the empty numbers of a sampler, discretization or guider

  const others = Object.keys(parameters).filter(
    (name) =>
      ![...SOURCES, ...SIZE, 'seed', ...Object.keys(MAIN)].includes(name) &&
      !GROUPS.some(({ names }) => names.includes(name)),
  );
  buildSizes();
  $('main-settings').append(...Object.keys(MAIN).map((name) => field(name, MAIN[name])), field('seed'));
  addDice();
  const groups = [...GROUPS, { title: 'More', names: others }].filter(({ names }) => names.length > 0).map(group);
  const lasts = element('p', { id: 'lasts', class: 'help' });
  fields.get('fps').node.after(lasts);

  function field(name, sliderEnd) {
    const schema = parameters[name];
    const id = `setting-${name}`;
    const help = element('p', { class: 'help', id: `${id}-help` }, helpOf(schema));
    const problem = element('p', { class: 'problem', id: `${id}-problem` });
    const described = { id, name, 'aria-describedby': `${help.id} ${problem.id}` };
    const input = schema.enum
      ? element('select', described, ...optionsOf(schema))
      : element('input', { ...described, ...typingOf(schema), autocomplete: 'off', placeholder: schema.default ?? '' });
    const label = element('label', { for: id }, LABELS[name] ?? name);
    const node = element('div', { class: 'field', title: name }, label, input);
    let slider;
    if (sliderEnd !== undefined) {
      // For hands only: whoever uses the keyboard or hears the page has the number itself.
      const ends = { min: schema.minimum, max: Math.min(sliderEnd, schema.maximum) };
      slider = element('input', { type: 'range', ...ends, tabindex: '-1', 'aria-hidden': 'true' });
      slider.addEventListener('input', () => {
        input.value = slider.value === String(schema.default) ? '' : slider.value;
        input.dispatchEvent(new Event('input', { bubbles: true }));
      });
      node.append(slider);
      node.classList.add('slid');
    }
    help.classList.toggle('unseen', sliderEnd !== undefined || [...SIZE, 'seed'].includes(name)); // it is plain to see
    node.append(help, problem);
    fields.set(name, { schema, input, node, problem, slider });
    return node;
  }

  function addDice() {
    const { input, node } = fields.get('seed');
    input.placeholder = 'random';
    const throwDice = () => {
      input.value = Math.floor(Math.random() * 1e9);
      input.dispatchEvent(new Event('input', { bubbles: true }));
    };
    const dice = button('', 'dice', throwDice, { class: 'icon-button', 'aria-label': 'Draw a seed' });
    const beside = element('div', { class: 'beside' });
    input.replaceWith(beside);
    beside.append(input, dice);
    node.classList.add('seed');
  }

  function group({ title, names }) {
    const now = element('span', { class: 'now' });
    const inside = element('div', { class: 'inside' }, ...names.map((name) => field(name)));
    const details = element('details', {}, element('summary', {}, title, now), inside);
    $('groups').append(details);
    return { names, now };
  }

  function buildSizes() {
    const [W, H] = SIZE.map((name) => parameters[name].default);
    const even = (pixels) => Math.max(64, Math.round(pixels / 64) * 64);
    const presets = [
      { name: 'Wide', W, H },
      { name: 'Tall', W: even(H), H: W },
      { name: 'Square', W: even(Math.sqrt(W * H)), H: even(Math.sqrt(W * H)) },
    ];
    for (const { name, W, H } of [...presets, { name: 'Other' }]) {
      const value = W ? `${W}x${H}` : 'other';
      const numbers = element('small', {}, W ? `${W} × ${H}` : 'W × H');
      const shape = element('i', { class: `shape ${name.toLowerCase()}` });
      const radio = element('input', { type: 'radio', name: 'size', value });
      radio.addEventListener('change', () => chooseSize(value));
      $('size-choices').append(element('label', {}, radio, element('span', {}, shape, name, numbers)));
    }
    $('size-numbers').append(...SIZE.map((name) => field(name)));
    for (const name of SIZE) $('sizes').append(fields.get(name).problem); // they are seen for every size
  }

  function chooseSize(value) {
    if (value !== 'other') {
      const sides = value.split('x');
      SIZE.forEach((name, i) => {
        const { input, schema } = fields.get(name);
        input.value = Number(sides[i]) === schema.default ? '' : sides[i];
      });
    }
    $('size-numbers').hidden = value !== 'other';
    fields.get('W').input.dispatchEvent(new Event('input', { bubbles: true }));
  }

  function showSize() {
    const radios = [...document.querySelectorAll('[name="size"]')];
    const value = `${current('W')}x${current('H')}`;
    const isOther = radios.at(-1).checked && !$('size-numbers').hidden;
    const radio = (!isOther && radios.find((one) => one.value === value)) || radios.at(-1);
    radio.checked = true;
    $('size-numbers').hidden = radio !== radios.at(-1);
  }

  /** What the API uses where nothing is written. */
  const usual = (name) => {
    const { 'x-belongs-to': choice, default: own = '' } = parameters[name];
    return String((choice && resolved[name]) ?? own);
  };
  const current = (name) => fields.get(name).input.value.trim() || usual(name);
  const counts = (name) => belongs(parameters[name], current) && (name !== 'image_index' || isOfFour());

  /** Brings everything that follows from the values up to date. */
  function refresh() {
    showSize();
    for (const [name, { node, slider, input, schema }] of fields) {
      node.hidden = !counts(name);
      if (!schema.enum && name !== 'seed') input.placeholder = usual(name);
      if (!slider) continue;
      slider.value = current(name);
      slider.style.setProperty('--filled', `${(100 * (slider.value - slider.min)) / (slider.max - slider.min)}%`);
    }
    const [frames, fps] = ['T', 'fps'].map((name) => Number(current(name)));
    lasts.textContent = frames > 0 && fps > 0 ? `The clip lasts ${length(frames, fps)}` : '';
    for (const { names, now } of groups) now.textContent = summaryOf(names);
    $('reset').hidden = ![...fields.values()].some(({ input }) => input.value.trim() !== '');
  }

  /** A group's choice and first number, and how much else was changed. */
  function summaryOf(names) {
    const choice = names.find((name) => parameters[name].enum);
    const steps = names.includes('steps') ? [`${current('steps')} steps`] : [];
    const written = names.filter(
      (name) => name !== choice && name !== 'steps' && counts(name) && fields.get(name).input.value.trim(),
    );
    const more = written.length > 0 ? [`${written.length} changed`] : [];
    return [...(choice ? [nameOf(current(choice))] : []), ...steps, ...more].join(', ');
  }

  function show(name, text, isProblem) {
    const { input, problem, node } = fields.get(name);
    problem.textContent = text;
    problem.classList.toggle('caution', !isProblem);
    if (isProblem && text) {
      input.setAttribute('aria-invalid', 'true');
      const details = node.closest('details');
      if (details) details.open = true;
      if (SIZE.includes(name)) $('size-numbers').hidden = false;
    } else input.removeAttribute('aria-invalid');
  }

  function problemOf(name) {
    const { schema, input } = fields.get(name);
    const text = input.value.trim();
    return counts(name) && text !== '' ? problemWith(schema, text) : undefined;
  }

  return {
    has: (name) => fields.has(name),
    input: (name) => fields.get(name).input,
    refresh,
    show,

    /** What is wrong as it stands; a field that was right until now is only told of when `isAll`. @returns names of the wrong ones */
    check({ isAll }) {
      const wrong = [...fields.keys()].filter((name) => problemOf(name) !== undefined);
      for (const [name, { input }] of fields) {
        const isTold = input.hasAttribute('aria-invalid');
        if (wrong.includes(name) ? isAll || isTold : isTold) show(name, problemOf(name) ?? '', wrong.includes(name));
      }
      return wrong;
    },

    /** @returns [name, text] of what is written and counts */
    entries: () =>
      [...fields].flatMap(([name, { input }]) =>
        input.value.trim() !== '' && counts(name) ? [[name, input.value.trim()]] : [],
      ),

    /** @param input what the API would use, as a dry run tells */
    resolve(input) {
      resolved = input;
      refresh();
    },

    /** @param values by name; what is absent is emptied */
    fill(values) {
      for (const [name, { input }] of fields) {
        input.value = values[name] ?? '';
        show(name, '', false);
      }
      document.querySelector('[name="size"]').checked = true;
      $('size-numbers').hidden = true;
      resolved = {};
      refresh();
    },
  };
}

function helpOf(schema) {
  const about = schema.description.replace(/\. Only for .*$/, ''); // it is only shown then
  const range = rangeOf(schema);
  return range ? `${about} (${range})` : about;
}

function optionsOf({ enum: values, default: own }) {
  const first = element('option', { value: '' }, own ? `${nameOf(own)} (default)` : 'default');
  return [first, ...values.map((value) => element('option', { value }, nameOf(value)))];
}

function typingOf({ type }) {
  if (type === 'string') return { type: 'url', inputmode: 'url', spellcheck: 'false' };
  return { type: 'text', inputmode: type === 'integer' ? 'numeric' : 'decimal' };
}

/**
 * A task's parameters as they have to be asked for again: those that differ from what would be used anyway.
 * @param input of a task, where everything has its value
 */
export function settingsOf(input, parameters) {
  const { default: chunk } = parameters.decoding_t;
  const isUsual = (name) =>
    input[name] === parameters[name].default ||
    (name === 'decoding_t' && input.decoding_t === Math.min(chunk, input.T)) || // of few frames at most all
    (name === 'order' && input.order === input.steps);
  const names = Object.keys(parameters).filter((name) => !SOURCES.includes(name) && name !== 'image_index');
  return Object.fromEntries(
    names.filter((name) => input[name] !== undefined && !isUsual(name)).map((name) => [name, input[name]]),
  );
}
