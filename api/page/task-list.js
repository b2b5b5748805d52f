// @ts-check
// The list of tasks: a card each, loaded in pages, newest first. Active tasks are followed to their end.
import { reportErrors, request, requestJson } from './api.js';
import { isActive, taskTitle } from './card.js';
import { $, announce, element } from './dom.js';
import { createFollower } from './follow.js';
import { failureLabel, STATUSES } from './labels.js';
import { isDeleted } from './repeat.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Card } from './card.js' */
/** @typedef {ReturnType<typeof createTaskList>} TaskList */

const PAGE_SIZE = 20;
const TITLE = document.title;

/**
 * @param {object} options
 * @param {(task: Task) => Card} options.createCard
 * @param {(task: Task) => void} options.onEnd gets each task that ends while it is shown
 */
export function createTaskList({ createCard, onEnd }) {
  /** @type {Map<string, Card>} by task id */
  const cards = new Map();
  /** @type {string | undefined} query of the next page */
  let nextPage;
  const follower = createFollower({ getTask: get, onTask: update, onProblem: showProblem, onMissing: remove });

  /** @param {string} id */
  function get(id) {
    return cards.get(id)?.task();
  }

  /** @param {string} id @param {string} text */
  function showProblem(id, text) {
    cards.get(id)?.showProblem(text);
  }
  /** @param {string} text */
  function showListProblem(text) {
    $('list-problem').textContent = text;
  }

  /** Adds or updates tasks. Ids rise with time, so they give the order. @param {Task[]} tasks */
  function put(tasks) {
    for (const task of tasks.filter((one) => !isDeleted(one))) {
      const known = cards.get(task.id);
      if (known) known.update(task);
      else {
        const card = createCard(task);
        cards.set(task.id, card);
        const older = [...$('tasks').children].find(({ id }) => id < task.id);
        $('tasks').insertBefore(card.node, older ?? null);
      }
      if (isActive(task)) follower.follow(task.id);
    }
    render();
  }

  /** @param {Task} task one whose state may have changed */
  function update(task) {
    const card = cards.get(task.id);
    if (!card) return;
    const before = card.task();
    card.showProblem('');
    card.update(task);
    render();
    if (isActive(task) || !isActive(before)) return;
    const status = STATUSES[task.status];
    announce(`${task.error ? `${status}: ${failureLabel(task.error)[0]}` : status}. ${taskTitle(task)}`);
    onEnd(task);
  }

  function render() {
    $('empty').hidden = cards.size > 0;
    $('empty').dataset.filtered = String($('filter').value !== '');
    $('more').hidden = nextPage === undefined;
    const [first, ...others] = [...cards.values()].map((card) => card.task()).filter(isActive);
    const progress = others.length > 0 ? `${1 + others.length} clips` : `${Math.round(100 * (first?.progress ?? 0))} %`;
    document.title = first ? `${progress} · ${TITLE}` : TITLE;
  }

  /** @param {string} id */
  function remove(id) {
    cards.get(id)?.node.remove();
    cards.delete(id);
    render();
  }

  /** Loads the newest tasks; the cards that are there stay. @throws as `request` */
  async function load() {
    const status = $('filter').value;
    await loadPage(`?limit=${PAGE_SIZE}${status && `&status=${status}`}`);
  }

  /** Loads a page, and further ones while all its tasks are deleted ones, which have no card. @param {string} query */
  async function loadPage(query) {
    const response = await request(`/status${query}`);
    /** @type {Task[]} */
    const tasks = await response.json();
    const link = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1];
    nextPage = link && new URL(link).search; // only the query: its origin is PUBLIC_URL's
    put(tasks);
    if (nextPage && tasks.every(isDeleted)) await loadPage(nextPage);
  }

  function clear() {
    cards.clear();
    nextPage = undefined;
    $('tasks').replaceChildren();
    render();
  }

  async function reload() {
    clear();
    await reportErrors(load, showListProblem);
  }

  $('filter').append(
    element('option', { value: '' }, 'All'),
    ...Object.entries(STATUSES).map(([value, label]) => element('option', { value }, label)),
  );
  $('filter').addEventListener('change', reload);
  $('more').addEventListener('click', async () => {
    const last = $('tasks').lastElementChild;
    $('more').disabled = true;
    await reportErrors(() => loadPage(nextPage ?? ''), showListProblem);
    $('more').disabled = false;
    if ($('more').hidden) focusCard(last?.nextElementSibling); // the focus was on the button
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && !$('clips').hidden) reportErrors(load, showListProblem);
  });

  return {
    get,
    showProblem,
    load,
    /** Shows all tasks, if there is a filter. */
    async clearFilter() {
      if ($('filter').value === '') return;
      $('filter').value = '';
      await reload();
    },
    /** @param {Task} task a new one */
    add: (task) => put([task]),
    update,
    /** @param {string} id */
    refresh: async (id) => update(await requestJson(`/status?id=${id}`)),
    tasks: () => [...cards.values()].map((card) => card.task()),
    /** Removes a card, and focuses the next one. @param {string} id */
    removeFocused(id) {
      const node = cards.get(id)?.node;
      const neighbour = node?.nextElementSibling ?? node?.previousElementSibling;
      remove(id);
      if (!focusCard(neighbour)) $('clips').focus();
    },
    /** Removes all cards and stops following, for another API key. */
    reset() {
      follower.reset();
      clear();
    },
  };
}

/** Focuses a card's first button. @param {Element | null | undefined} card @returns the button */
function focusCard(card) {
  /** @type {HTMLElement | null | undefined} */
  const first = card?.querySelector('.buttons button');
  first?.focus();
  return first;
}
