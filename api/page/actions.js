// @ts-check
// What can be done with tasks: the buttons of a card, and showing a new task.
import { RefusedError, reportErrors, request, requestJson, submit } from './api.js';
import { $, announce, scrollBehavior } from './dom.js';
import { changedSettings, copiesOf, isDeleted, pictureOf, promptTaskOf, sourceEntries, titleOf } from './task.js';

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
    /** @param {Task} task */
    titleOf: (task) => titleOf(task, list.get),
    /** @param {Task} task */
    pictureOf: (task) => pictureOf(task, list.get, uploads),
    /** @param {Task} task */
    promptTaskOf: (task) => promptTaskOf(task, list.get),
    /** @param {Task} task */
    copiesOf: (task) => copiesOf(task, settingsOf(task)),
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
        const source = sourceOf((index && promptTaskOf(task, list.get)) || task, index) ?? [];
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

    /** Forgets the picture that this page has sent for a task. @param {string} id */
    forget(id) {
      URL.revokeObjectURL(uploads.get(id)?.url ?? '');
      uploads.delete(id);
    },

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
