// @ts-check
// The form for a new clip: checked while it is edited, with the highest cost, and submitted.
import { errorText, isAbort, RefusedError, requestJson, submit } from './api.js';
import { $, announce, showNote } from './dom.js';
import { formatDuration, formatMoney } from './format.js';
import { plainText } from './labels.js';
import { createSettings } from './settings.js';
import { createSource } from './source.js';

/** @import { FieldNote } from '../../core/invalid-request.ts' */
/** @import { CostEstimate } from '../../core/responses.ts' */
/** @import { Parameters, Settings } from './settings.js' */
/** @import { Entry } from './source.js' */
/** @import { Submission } from './api.js' */
/** @typedef {ReturnType<typeof createForm>} Form */

const CHECK_DELAY = 400; // ms after the last keystroke
/** Stands for any picture in a dry run: the cost is the same, and a large file need not be sent. @type {Entry} */
const ANY_PICTURE = ['image_url', 'https://example.com/picture.png'];

/** @param {Parameters} parameters @param {{ onTask: (submission: Submission) => void }} options */
export function createForm(parameters, { onTask }) {
  const source = createSource({ onChange });
  const settings = createSettings(parameters, { isOfFour: source.isPrompt });
  const notes = createNotes(settings);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let checkTimer;
  let dryRun = new AbortController();
  let isChecked = false; // whether notes and cost are those of the current values

  function onChange() {
    settings.refresh();
    isChecked = false;
    clearTimeout(checkTimer);
    dryRun.abort();
    checkTimer = setTimeout(check, CHECK_DELAY);
  }

  /** Asks the API what is wrong, and for the highest cost. */
  async function check() {
    if ($('compose').hidden) return; // an API key is needed first
    dryRun.abort();
    dryRun = new AbortController();
    const entry = source.entry();
    const first = !entry || entry[0] === 'image' ? ANY_PICTURE : entry;
    const body = new URLSearchParams(/** @type {[string, string][]} */ ([first, ...settings.entries()]));
    try {
      const answer = await requestJson('/img2vid?dry_run=1', { method: 'POST', body, signal: dryRun.signal });
      settings.resolve(answer.input);
      notes.replace(answer.warnings, false);
      $('cost').textContent = costText(answer.cost_estimate);
    } catch (error) {
      if (isAbort(error)) return;
      notes.replace(fieldErrors(error), true);
      $('cost').textContent = '';
    }
    isChecked = true;
  }

  /** @param {Event} event */
  async function onSubmit(event) {
    event.preventDefault();
    showRefusal('');
    const entry = source.entry();
    if (!entry) {
      const [name, text] = source.isPrompt()
        ? ['prompt', 'Describe what the clip shows']
        : ['image', 'Choose a picture'];
      return notes.show(name, text, true)?.focus();
    }
    if (isChecked && notes.wrong().length > 0) return notes.wrong()[0]?.focus();
    clearTimeout(checkTimer); // a check sends another picture, so it must not replace the notes of this request
    dryRun.abort();
    setSending(true);
    try {
      onTask(await submit([entry, ...settings.entries()]));
      if (!isChecked) onChange();
    } catch (error) {
      const errors = fieldErrors(error);
      const isShown = errors.length > 0 && notes.replace(errors, true);
      isChecked = false;
      showRefusal(isShown ? '' : plainText(errorText(error)), error instanceof RefusedError ? error.retryAfter : 0);
      setSending(false); // a disabled button would not give the focus away
      if (errors.length > 0) notes.wrong()[0]?.focus();
    } finally {
      setSending(false);
    }
  }

  $('form').addEventListener('submit', onSubmit);
  $('form').addEventListener('input', ({ target }) => {
    const { name, type } = /** @type {HTMLInputElement} */ (target);
    if (name === '' || type === 'radio' || type === 'file') return; // these call onChange themselves
    notes.remove(name);
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

/** @param {unknown} error */
const fieldErrors = (error) => (error instanceof RefusedError ? error.errors : []);

/** @param {CostEstimate} estimate */
function costText(estimate) {
  const { amount, expected_seconds, gpu_seconds } = estimate;
  const isKnown = expected_seconds !== undefined;
  const time = `${isKnown ? 'about' : 'up to'} ${formatDuration(expected_seconds ?? gpu_seconds)} of computing`;
  return amount > 0 ? `At most ${formatMoney(estimate)}, ${time}` : `Takes ${time}`;
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

/** Notes of the API under the fields: problems and warnings. @param {Settings} settings */
function createNotes(settings) {
  /** @type {string[]} fields with a note from the API */
  let noted = [];
  /** @type {HTMLElement[]} inputs that the API found wrong */
  let wrong = [];

  /**
   * Replaces the notes from the API.
   * @param {FieldNote[]} notes
   * @param {boolean} areProblems
   * @returns whether the form has all their fields
   */
  function replace(notes, areProblems) {
    for (const name of noted) if (!notes.some(({ field }) => field === name)) show(name, '', false);
    noted = notes.map(({ field }) => field);
    const inputs = notes.map(({ field, message }) => show(field, message, areProblems));
    wrong = areProblems ? inputs.filter((input) => input !== undefined) : [];
    return !inputs.includes(undefined);
  }

  /**
   * Shows a note under a field.
   * @param {string} name @param {string} text @param {boolean} isProblem
   * @returns {HTMLElement | undefined} the field's input; undefined if the form has no such field
   */
  function show(name, text, isProblem) {
    if (settings.has(name)) {
      settings.show(name, text, isProblem);
      return settings.input(name);
    }
    const field = sourceFields()[name];
    if (field) showNote(field, plainText(text), isProblem);
    return field?.input;
  }

  /** @param {string} name of a field that was edited */
  function remove(name) {
    if (noted.includes(name) || !settings.has(name)) show(name, '', false);
    noted = noted.filter((one) => one !== name);
  }

  return { replace, show, remove, wrong: () => wrong };
}

/** Inputs and places for notes of what a clip is made from. @returns {Record<string, { place: HTMLElement, input: HTMLElement }>} */
const sourceFields = () => ({
  prompt: { place: $('prompt-problem'), input: $('prompt') },
  image: { place: $('image-problem'), input: $('chosen').hidden ? $('image') : $('remove') },
  still_of: { place: $('image-problem'), input: $('remove') },
  image_url: { place: $('image_url-problem'), input: $('image_url') },
});
