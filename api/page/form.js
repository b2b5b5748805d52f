// @ts-check
// The form for a new clip: checked while it is edited, with the highest cost, and submitted.
import { errorText, isAbort, RefusedError, requestJson } from './api.js';
import { $, announce, showNote } from './dom.js';
import { formatDuration, formatMoney } from './format.js';
import { findProblem } from './schema.js';
import { createSettings } from './settings.js';
import { createSource } from './source.js';
import { submit } from './submit.js';

/** @import { ParameterSchema } from '../../core/parameter-schema.ts' */
/** @import { FieldNote } from '../../core/request.ts' */
/** @import { CostEstimate } from '../../core/responses.ts' */
/** @import { Parameters } from './settings.js' */
/** @import { Entry } from './source.js' */
/** @import { Submission } from './submit.js' */
/** @typedef {ReturnType<typeof createForm>} Form */

const CHECK_DELAY = 400; // ms after the last keystroke
/** Stands for any picture in a dry run: the cost is the same, and a large file need not be sent. @type {Entry} */
const ANY_PICTURE = ['image_url', 'https://example.com/picture.png'];

/**
 * @param {Parameters} parameters
 * @param {{ onTask: (submission: Submission) => void }} options
 */
export function createForm(parameters, { onTask }) {
  const source = createSource({ onChange });
  const settings = createSettings(parameters, { isOfFour: source.isPrompt });
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let checkTimer;
  let dryRun = new AbortController();
  let isCostCurrent = false;
  /** @type {string[]} fields with a note from the API */
  let noted = [];

  function onChange() {
    settings.refresh();
    settings.check({ isAll: false });
    isCostCurrent = false;
    clearTimeout(checkTimer);
    checkTimer = setTimeout(check, CHECK_DELAY);
  }

  /** Shows what is wrong, or else the highest cost. */
  async function check() {
    if ($('compose').hidden) return; // an API key is needed first
    dryRun.abort();
    dryRun = new AbortController();
    const wrong = settings.check({ isAll: true });
    const wrongSource = checkSource({ isRequired: false });
    if (wrong.length > 0 || wrongSource) return showCost();
    const entry = source.entry();
    const first = !entry || entry[0] === 'image' ? ANY_PICTURE : entry;
    try {
      const body = new URLSearchParams(/** @type {[string, string][]} */ ([first, ...settings.entries()]));
      const answer = await requestJson('/img2vid?dry_run=1', { method: 'POST', body, signal: dryRun.signal });
      settings.resolve(answer.input);
      showNotes(answer.warnings, false);
      showCost(answer.cost_estimate);
    } catch (error) {
      if (isAbort(error)) return;
      showNotes(fieldErrors(error), true);
      showCost();
    }
  }

  /** @param {CostEstimate} [estimate] */
  function showCost(estimate) {
    isCostCurrent = true;
    $('cost').textContent = estimate ? costText(estimate) : '';
  }

  /** @param {FieldNote[]} notes replace those of the last dry run @param {boolean} areProblems */
  function showNotes(notes, areProblems) {
    for (const name of noted) if (!notes.some(({ field }) => field === name)) showAt(name, '', false);
    noted = notes.map(({ field }) => field);
    return notes.map(({ field, message }) => showAt(field, message, areProblems));
  }

  /**
   * Shows a note under a field.
   * @param {string} name @param {string} text @param {boolean} isProblem
   * @returns {HTMLElement | undefined} the field's input; undefined if the form has no such field
   */
  function showAt(name, text, isProblem) {
    if (settings.has(name)) {
      settings.show(name, text, isProblem);
      return settings.input(name);
    }
    const field = sourceFields()[name];
    if (field) showNote(field, text, isProblem);
    return field?.input;
  }

  /** @param {{ isRequired: boolean }} options @returns {HTMLElement | undefined} the input that is wrong */
  function checkSource({ isRequired }) {
    for (const name of ['prompt', 'image_url']) if (!noted.includes(name)) showAt(name, '', false);
    const [name, value] = source.entry() ?? [];
    if (name !== undefined) {
      const schema = /** @type {ParameterSchema} */ (parameters[name]);
      const problem = typeof value === 'string' ? findProblem(schema, value) : undefined;
      return problem === undefined ? undefined : showAt(name, problem, true);
    }
    if (!isRequired) return undefined;
    return source.isPrompt()
      ? showAt('prompt', 'Write what the clip shall show', true)
      : showAt('image', 'Choose a picture', true);
  }

  /** @param {Event} event */
  async function onSubmit(event) {
    event.preventDefault();
    showRefusal('');
    // A check that is still to come must not take back what this one shows: it ignores a missing source, and sends another picture.
    clearTimeout(checkTimer);
    dryRun.abort();
    const [wrong] = settings.check({ isAll: true });
    const first = checkSource({ isRequired: true }) ?? (wrong === undefined ? undefined : settings.input(wrong));
    const entry = source.entry();
    if (first || !entry) {
      if (!isCostCurrent) showCost();
      return first?.focus();
    }
    setSending(true);
    try {
      onTask(await submit([entry, ...settings.entries()]));
      if (!isCostCurrent) onChange();
    } catch (error) {
      const errors = fieldErrors(error);
      const inputs = errors.length > 0 ? showNotes(errors, true) : [];
      const isShown = inputs.length > 0 && !inputs.includes(undefined);
      const seconds = error instanceof RefusedError ? error.retryAfter : 0;
      showRefusal(isShown ? '' : errorText(error), seconds);
      setSending(false); // a disabled button would not give the focus away
      inputs.find((input) => input)?.focus();
    } finally {
      setSending(false);
    }
  }

  $('form').addEventListener('submit', onSubmit);
  $('form').addEventListener('input', ({ target }) => {
    const { name, type } = /** @type {HTMLInputElement} */ (target);
    if (['source', 'size', ''].includes(name) || type === 'file') return; // these call onChange themselves
    if (noted.includes(name) || !settings.has(name)) showAt(name, '', false);
    noted = noted.filter((one) => one !== name);
    onChange();
  });
  $('form').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('form').requestSubmit();
  });
  /** @param {Record<string, unknown>} values settings by name */
  function fill(values) {
    settings.fill(values);
    onChange();
  }
  $('reset').addEventListener('click', () => {
    fill({});
    $('make').focus();
  });
  source.render();

  return {
    source,
    check,
    fill,
    clear() {
      source.clear();
      showRefusal('');
      fill({});
    },
  };
}

/** Inputs and places for notes of what a clip is made from. @returns {Record<string, { place: HTMLElement, input: HTMLElement }>} */
const sourceFields = () => ({
  prompt: { place: $('prompt-problem'), input: $('prompt') },
  image: { place: $('image-problem'), input: $('chosen').hidden ? $('image') : $('remove') },
  still_of: { place: $('image-problem'), input: $('remove') },
  image_url: { place: $('image_url-problem'), input: $('image_url') },
});

/** @param {unknown} error */
const fieldErrors = (error) => (error instanceof RefusedError ? error.errors : []);

/** @param {CostEstimate} estimate */
function costText(estimate) {
  const time = `up to ${formatDuration(estimate.gpu_seconds)} of computing`;
  return estimate.amount > 0 ? `At most ${formatMoney(estimate)}, ${time}` : `Takes ${time}`;
}

/** @param {boolean} isSending */
function setSending(isSending) {
  $('make').disabled = isSending;
  $('make').textContent = isSending ? 'Sending…' : 'Make a clip';
}

/** @type {ReturnType<typeof setInterval> | undefined} */
let countdown;

/**
 * Shows why a request was refused, and counts down until it may be sent again.
 * @param {string} text '' removes it
 * @param {number} [seconds]
 */
function showRefusal(text, seconds = 0) {
  clearInterval(countdown);
  $('refusal').textContent = text;
  const end = Date.now() + 1000 * seconds;
  const tick = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    $('countdown').textContent = left > 0 ? `Again in ${formatDuration(left)}` : '';
    if (left > 0 || seconds === 0) return;
    clearInterval(countdown);
    $('refusal').textContent = '';
    announce('You may try again now');
  };
  tick();
  if (seconds > 0) countdown = setInterval(tick, 1000);
}
