// @ts-check
// Puts the list of tasks, their cards and their actions together.
import { createActions } from './actions.js';
import { createCard } from './card.js';
import { $, announce, scrollBehavior } from './dom.js';
import { createTaskList } from './task-list.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Form } from './form.js' */
/** @import { Parameters } from './settings.js' */
/** @import { Submission } from './submit.js' */

const LINK_CHECK_INTERVAL = 60_000; // ms

/**
 * @param {Parameters} parameters
 * @param {{ form: Form, onEnd: (task: Task) => void }} options
 */
export function createTasks(parameters, { form, onEnd }) {
  /** @type {Map<string, File>} pictures that this page has sent, by task id */
  const uploads = new Map();
  const list = createTaskList({ createCard: (task) => createCard(task, actions), onEnd });
  const actions = createActions({ parameters, form, list, uploads, onTask: showNew });

  /** Shows a new task and scrolls to it. @param {Submission} submission */
  async function showNew({ task, file }) {
    if (file) uploads.set(task.id, file);
    await list.clearFilter();
    list.add(task);
    announce('The clip is on its way');
    const isBelow = $('clips').offsetTop >= $('compose').offsetTop + $('compose').offsetHeight; // as on phones
    if (isBelow) $('clips').scrollIntoView({ behavior: scrollBehavior() });
    else scrollTo({ top: 0, behavior: scrollBehavior() });
  }

  setInterval(() => {
    if (document.hidden) return;
    const expiry = Date.now() + LINK_CHECK_INTERVAL;
    for (const task of list.tasks()) if (Date.parse(task.links_expire_at ?? '') < expiry) actions.refresh(task);
  }, LINK_CHECK_INTERVAL);

  return {
    load: list.load,
    showNew,
    /** Removes all that belongs to an API key. */
    reset() {
      uploads.clear();
      list.reset();
    },
  };
}
