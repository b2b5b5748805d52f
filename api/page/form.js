// The form for a new clip: checked while it is filled in, with what it will cost, and sent.
import { askJson, inWords } from './api.js';
import { $, say } from './dom.js';
import { duration, money } from './labels.js';
import { problemWith } from './schema.js';
import { createSettings } from './settings.js';
import { createSource } from './source.js';

const PAUSE = 400; // milliseconds without a keystroke, after which what is written is looked at
/** Stands for any picture in a dry run: it costs the same wherever it comes from, and a large one need not be sent for that. */
const ANY_PICTURE = ['image_url', 'https://example.com/picture.png'];

/**
 * @param parameters the schemas of what may be asked for, by name
 * @param onTask told the task that was made, and what it was made of, as sent
 */
export function createForm(parameters, { onTask }) {
  const source = createSource({ onChange: changed });
  const settings = createSettings(parameters, { isOfFour: source.isPrompt });
  let pause;
  let trial = new AbortController(); // the dry run under way
  let isSettled = false; // what is said of the cost is of the form as it stands
  let attempt; // {key, entries}: a post that may have arrived or not
  let hints = []; // fields that the last dry run said something about

  function changed() {
    settings.refresh();
    settings.check({ isAll: false });
    isSettled = false;
    clearTimeout(pause);
    pause = setTimeout(settle, PAUSE);
  }

  /** Says what is wrong, and if nothing is, what it will cost. */
  async function settle() {
    if ($('compose').hidden) return; // a key is asked for first
    trial.abort();
    trial = new AbortController();
    const wrong = settings.check({ isAll: true });
    const isWrong = checkSource({ isNeeded: false });
    if (wrong.length > 0 || isWrong) return showCost();
    const entry = source.entry();
    const begin = !entry || entry[0] === 'image' ? ANY_PICTURE : entry;
    try {
      const body = new URLSearchParams([begin, ...settings.entries()]);
      const answer = await askJson('/img2vid?dry_run=1', { method: 'POST', body, signal: trial.signal });
      settings.resolve(answer.input);
      showHints(answer.warnings, false);
      showCost(answer.cost_estimate);
    } catch (error) {
      if (error.name === 'AbortError') return;
      showHints(error.errors ?? [], true);
      showCost();
    }
  }

  function showCost(estimate) {
    isSettled = true;
    const time = estimate && `up to ${duration(estimate.gpu_seconds)} of computing`;
    $('cost').textContent = !estimate
      ? ''
      : estimate.amount > 0
        ? `At most ${money(estimate)}, ${time}`
        : `Takes ${time}`;
  }

  function showHints(notes, isProblem) {
    for (const name of hints) if (!notes.some(({ field }) => field === name)) showAt(name, '', false);
    hints = notes.map(({ field }) => field);
    for (const { field, message } of notes) showAt(field, message, isProblem);
  }

  /** Puts words beside a field. @returns the field's input, or undefined if there is no such field */
  function showAt(name, text, isProblem) {
    if (settings.has(name)) {
      settings.show(name, text, isProblem);
      return settings.input(name);
    }
    const [place, input] =
      {
        prompt: [$('prompt-problem'), $('prompt')],
        image: [$('image-problem'), $('chosen').hidden ? $('image') : $('remove')],
        still_of: [$('image-problem'), $('remove')],
        image_url: [$('image_url-problem'), $('image_url')],
      }[name] ?? [];
    if (!place) return undefined;
    place.textContent = text;
    place.classList.toggle('caution', !isProblem);
    if (isProblem && text) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
    return input;
  }

  /** @param isNeeded whether nothing at all is wrong, too. @returns the input that is wrong, if one is */
  function checkSource({ isNeeded }) {
    for (const name of ['prompt', 'image_url']) if (!hints.includes(name)) showAt(name, '', false);
    const entry = source.entry();
    if (entry) {
      const [name, value] = entry;
      const problem = typeof value === 'string' ? problemWith(parameters[name], value) : undefined;
      return problem && showAt(name, problem, true);
    }
    if (!isNeeded) return undefined;
    return source.isPrompt()
      ? showAt('prompt', 'Write what the clip shall show', true)
      : showAt('image', 'Choose a picture', true);
  }

  async function submit(event) {
    event.preventDefault();
    refuse('');
    // What is now said must not be taken back by a look at the form that is still to come: nothing need be given for that, and any
    // picture will do.
    clearTimeout(pause);
    trial.abort();
    const [wrong] = settings.check({ isAll: true });
    const first = checkSource({ isNeeded: true }) ?? (wrong && settings.input(wrong));
    if (first) {
      if (!isSettled) showCost();
      return first.focus();
    }
    $('make').disabled = true;
    $('make').textContent = 'Sending…';
    try {
      onTask(await send([source.entry(), ...settings.entries()]));
      if (!isSettled) changed(); // what it costs has not been said yet
    } catch (error) {
      const inputs = (error.errors ?? []).map(({ field, message }) => showAt(field, message, true)).filter(Boolean);
      hints = (error.errors ?? []).map(({ field }) => field);
      const isTold = inputs.length > 0 && inputs.length === error.errors.length;
      refuse(isTold ? '' : inWords(error), error.retryAfter);
      $('make').disabled = false; // what is disabled takes no focus from here
      inputs[0]?.focus();
    } finally {
      $('make').disabled = false;
      $('make').textContent = 'Make a clip';
    }
  }

  /**
   * Posts a request. The same one again, after there was no answer, makes no second task.
   * @param entries [name, text or File]
   * @returns the task, and the file that it was made of, if any
   */
  async function send(entries) {
    const isSame =
      attempt?.entries.length === entries.length &&
      entries.every(([name, value], i) => attempt.entries[i][0] === name && attempt.entries[i][1] === value);
    if (!isSame) attempt = { key: newKey(), entries };
    const file = entries.find(([name]) => name === 'image')?.[1];
    const body = file ? new FormData() : new URLSearchParams();
    for (const [name, value] of entries) body.append(name, value);
    try {
      const task = await askJson('/img2vid', { method: 'POST', headers: { 'idempotency-key': attempt.key }, body });
      attempt = undefined;
      return { task, file };
    } catch (error) {
      if (error.name === 'Refusal') attempt = undefined;
      throw error;
    }
  }

  let countdown;
  /** Says why it was refused, and counts down until it may be tried again; seconds. */
  function refuse(text, after = 0) {
    clearInterval(countdown);
    $('refusal').textContent = text;
    const until = Date.now() + 1000 * after;
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      $('countdown').textContent = left > 0 ? `Again in ${duration(left)}` : '';
      if (left > 0 || after === 0) return;
      clearInterval(countdown);
      $('refusal').textContent = '';
      say('You may try again now');
    };
    tick();
    if (after > 0) countdown = setInterval(tick, 1000);
  }

  $('form').addEventListener('submit', submit);
  $('form').addEventListener('input', ({ target: { name, type } }) => {
    if (['source', 'size', ''].includes(name) || type === 'file') return; // what follows from these is told by itself
    if (hints.includes(name) || !settings.has(name)) showAt(name, '', false);
    hints = hints.filter((one) => one !== name);
    changed();
  });
  $('form').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('form').requestSubmit();
  });
  $('reset').addEventListener('click', () => {
    settings.fill({});
    changed();
    $('make').focus();
  });
  source.show();

  return {
    source,
    send,
    /** Reads the price anew. */
    settle,
    /** @param values of settings by name */
    fill(values) {
      settings.fill(values);
      changed();
    },
    clear() {
      source.clear();
      settings.fill({});
      refuse('');
      changed();
    },
  };
}

/** A word for Idempotency-Key. crypto.randomUUID is not there on a page that came by plain http. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
