// @ts-check
// What can be done with tasks: the buttons of a card, and showing a new task.
import { hasKey, RefusedError, reportErrors, request, requestJson, submit } from './api.js';
import { isDeleted } from './card.js';
import { stillLink } from './card-media.js';
import { $, announce, scrollBehavior } from './dom.js';
import { curlSnippet, javascriptSnippet, pythonSnippet } from './snippets.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { CardList } from './card-list.js' */
/** @import { Form } from './form.js' */
/** @import { Parameters } from './settings.js' */
/** @import { Entry } from './source.js' */
/** @import { Submission } from './api.js' */
/** @typedef {ReturnType<typeof createActions>} Actions */

/** @param {{ parameters: Parameters, form: Form, list: CardList }} options */
export function createActions({ parameters, form, list }) {
  /** @type {Map<string, { file: File, url: string }>} pictures that this page has sent, by task id */
  const uploads = new Map();

  /** Shows a new task and scrolls to it. @param {Submission} submission */
  async function showNew({ task, file }) {
    if (file) uploads.set(task.id, { file, url: URL.createObjectURL(file) });
    await list.clearFilter();
    list.put([task]);
    announce('The clip is on its way');
    const isBelow = $('clips').offsetTop >= $('compose').offsetTop + $('compose').offsetHeight; // as on phones
    if (isBelow) $('clips').scrollIntoView({ behavior: scrollBehavior() });
    else scrollTo({ top: 0, behavior: scrollBehavior() });
  }

  /** Runs an action, and shows its error on the task's card. @param {Task} task @param {() => unknown} action */
  const attempt = (task, action) => reportErrors(action, (text) => list.showProblem(task.id, text));
  const settingsOf = (/** @type {Task} */ task) => changedSettings(task.input, parameters);
  /** @param {Task} task @param {number} [index] */
  const sourceOf = (task, index) => sourceEntries(task, { ...(index && { index }), file: uploads.get(task.id)?.file });

  /** The task with the prompt whose four pictures this one is made from, if the page knows it. @param {Task} task */
  function promptTaskOf(task) {
    if (task.input.prompt) return task;
    const origin = list.get(task.input.still_of ?? '');
    return origin?.input.prompt ? origin : undefined;
  }

  /** The URL of a task's picture, if the page knows one. @param {Task} task @returns {string | undefined} */
  function pictureOf(task) {
    const origin = list.get(task.input.still_of ?? '');
    return (
      uploads.get(task.id)?.url ??
      stillLink(task) ??
      (origin?.input.image_index === task.input.image_index ? pictureOf(origin) : undefined)
    );
  }

  /** What a task was made from. @param {Task} task @returns {string} */
  function titleOf(task) {
    const { prompt, image_url, still_of } = task.input;
    const origin = list.get(still_of ?? '');
    if (prompt || origin) return prompt ?? titleOf(/** @type {Task} */ (origin));
    if (image_url && URL.canParse(image_url)) {
      const { host, pathname } = new URL(image_url);
      return `${decoded(pathname.split('/').at(-1) ?? '') || 'Picture'} from ${host}`;
    }
    const name = uploads.get(task.id)?.file.name ?? task.input.image;
    return name ?? (still_of ? 'Picture of an earlier clip' : 'Your picture');
  }

  /** What can be copied of a task, by its label. @param {Task} task @returns {Record<string, string>} */
  function copiesOf(task) {
    const { prompt, image_url, still_of, image_index } = task.input;
    const name = prompt ? 'prompt' : image_url ? 'image_url' : 'still_of';
    const text = prompt ?? image_url ?? still_of;
    const file = uploads.get(task.id)?.file ?? new File([], 'photo.jpg');
    /** @type {Entry[]} */
    const source = text ? [[name, text], ...choiceOf(image_index)] : [['image', file]];
    const entries = [...source, ...Object.entries(settingsOf(task))];
    const request = { url: `${location.origin}/img2vid`, entries, needsKey: hasKey() };
    const link = (task.grid ?? task.videos?.[0])?.link;
    return {
      ...(task.share_link && { 'Share link': task.share_link }),
      ...(link && { 'Link to the video': link }),
      Id: task.id,
      curl: curlSnippet(request),
      JavaScript: javascriptSnippet(request),
      Python: pythonSnippet(request),
    };
  }

  /** Puts settings and source of a task into the form. @param {Task} task */
  function reuse(task) {
    const { prompt, image_url, still_of, image_index } = task.input;
    const upload = uploads.get(task.id)?.file;
    const origin = list.get(still_of ?? '');
    if (prompt) form.source.usePrompt(prompt);
    else if (task.still) form.source.useEarlier(task);
    else if (image_url) form.source.useUrl(image_url);
    else if (upload) form.source.useFile(upload);
    else if (origin?.still) form.source.useEarlier(origin);
    form.fill({ ...settingsOf(task), ...(prompt && image_index !== 1 && { image_index }) });
    $('compose').scrollIntoView({ block: 'start', behavior: scrollBehavior() });
    $('make').focus({ preventScroll: true });
    announce('The settings are in the form');
  }

  return {
    copiesOf,
    pictureOf,
    titleOf,
    promptTaskOf,
    reuse,
    showNew,

    /** @param {Task} task */
    cancel: (task) =>
      attempt(task, async () => list.update(await requestJson(`/cancel?id=${task.id}`, { method: 'POST' }))),

    /** @param {Task} task */
    async remove(task) {
      if (!(await confirmDelete())) return;
      if (!(await attempt(task, () => request(`/delete?id=${task.id}`, { method: 'POST' })))) return;
      list.removeFocused(task.id);
      announce('Deleted');
    },

    /** The same with another seed, or with the same seed and another of the four pictures. @param {Task} task @param {number} [index] */
    another: (task, index) =>
      attempt(task, async () => {
        const { seed, ...settings } = settingsOf(task);
        const source = sourceOf((index && promptTaskOf(task)) || task, index) ?? [];
        const entries = [...source, ...Object.entries(settings)];
        await showNew(await submit(index && seed !== undefined ? [...entries, ['seed', seed]] : entries));
      }),

    /** The same once more. @param {Task} task */
    again: (task) =>
      attempt(task, async () => {
        const source = sourceOf(task);
        if (!source) return reuse(task);
        const [[name], ...others] = /** @type {[Entry, ...Entry[]]} */ (source);
        const settings = Object.entries(settingsOf(task));
        // The pictures of a prompt may be kept although the task does not show them: then they are not paid for again.
        const isPaid = name === 'prompt' && !isDeleted(task);
        const kept = isPaid && (await submitUnlessGone([['still_of', task.id], ...others, ...settings]));
        await showNew(kept || (await submit([...source, ...settings])));
      }),

    /** Gets the task with new links. @param {Task} task */
    refresh: (task) => attempt(task, () => list.refresh(task.id)),

    /** Removes all that belongs to an API key. */
    reset() {
      for (const { url } of uploads.values()) URL.revokeObjectURL(url);
      uploads.clear();
      list.reset();
    },
  };
}

/** @param {Entry[]} entries with still_of @returns undefined if that task has no picture */
async function submitUnlessGone(entries) {
  try {
    return await submit(entries);
  } catch (error) {
    if (error instanceof RefusedError && error.errors.some(({ field }) => field === 'still_of')) return undefined;
    throw error;
  }
}

/** Resolves the promise of the dialog that is open. @type {(isConfirmed: boolean) => void} */
let answer = () => {};

/** Asks before a task is deleted. @returns {Promise<boolean>} */
function confirmDelete() {
  answer(false); // the dialog before was closed, though its event may still come
  $('confirm').returnValue = '';
  $('confirm').showModal();
  return new Promise((resolve) => {
    answer = resolve;
  });
}

$('confirm').addEventListener('close', () => {
  if (!$('confirm').open) answer($('confirm').returnValue === 'yes'); // else it was opened again before this event
});
$('keep').addEventListener('click', () => $('confirm').close());
$('delete').addEventListener('click', () => $('confirm').close('yes'));

/**
 * The settings of a task that differ from the defaults.
 * @param {Task['input']} input where every parameter has its value
 * @param {Parameters} parameters
 * @returns {Record<string, string>}
 */
function changedSettings(input, parameters) {
  const values = /** @type {Record<string, unknown>} */ (input);
  /** @param {string} name */
  const isDefault = (name) =>
    values[name] === parameters[name]?.default ||
    (name === 'decoding_t' && values[name] === Math.min(Number(parameters.decoding_t?.default), input.T)) || // at most T
    (name === 'order' && values[name] === input.steps); // at most steps
  const names = Object.entries(parameters)
    .filter(([name, schema]) => schema['x-group'] !== 'Source' && name !== 'image_index')
    .map(([name]) => name);
  return Object.fromEntries(
    names.filter((name) => values[name] !== undefined && !isDefault(name)).map((name) => [name, String(values[name])]),
  );
}

/** A part of a URL as text, or as it is if its percent signs make no text. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The parameter for one of the four pictures of a prompt. @param {number} index @returns {Entry[]} */
const choiceOf = (index) => (index === 1 ? [] : [['image_index', String(index)]]);

/**
 * What a task was made from: its picture where that is kept, so that none is paid for twice.
 * @param {Task} task
 * @param {object} options
 * @param {number} [options.index] of the four pictures of a prompt
 * @param {File | undefined} options.file the picture that this page uploaded for the task
 * @returns {Entry[] | undefined} undefined if that is gone
 */
function sourceEntries(task, { index = task.input.image_index, file }) {
  const { prompt, image_url, still_of } = task.input;
  const choice = choiceOf(index);
  if (task.still && !isDeleted(task)) return [['still_of', task.id], ...(prompt ? choice : [])];
  if (prompt) return [['prompt', prompt], ...choice];
  if (image_url) return [['image_url', image_url]];
  if (still_of) return [['still_of', still_of], ...choice];
  return file && [['image', file]];
}
