// @ts-check
// The list of tasks: loaded page by page, filtered by status, a card for each, newest first. Active tasks are followed to their end.
import { reportErrors, request, requestJson } from './api.js';
import { $, announce, element } from './dom.js';
import { createFollower } from './follow.js';
import { failureLabel, STATUSES } from './labels.js';
import { isActive, isDeleted } from './task.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Card } from './card.js' */
/** @typedef {ReturnType<typeof createCardList>} CardList */

const TITLE = document.title;
const PAGE_SIZE = 20;

/** @param {Parameters<typeof createCards>[0]} options */
export function createCardList(options) {
  const cards = createCards(options);
  const { clear, ...pager } = createPager(cards);
  return {
    ...cards,
    ...pager,
    /** Removes all cards and stops following, for another API key. */
    reset() {
      cards.stopFollowing();
      clear();
    },
  };
}

/**
 * @param {object} options
 * @param {(task: Task) => Card} options.createCard
 * @param {(task: Task) => string} options.titleOf what a task is made from
 * @param {(task: Task) => void} options.onEnd gets each task that ends while shown
 * @param {(id: string) => void} options.onRemove gets the id of each task that no longer exists
 */
function createCards({ createCard, titleOf, onEnd, onRemove }) {
  /** @type {Map<string, Card>} by task id */
  const cards = new Map();
  const follower = createFollower({ getTask: get, onTask: update, onProblem: showProblem, onMissing: remove });

  /** @param {string} id */
  function get(id) {
    return cards.get(id)?.task();
  }

  /** @param {string} id @param {string} text */
  function showProblem(id, text) {
    cards.get(id)?.showProblem(text);
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
    announce(`${task.error ? `${status}: ${failureLabel(task.error)[0]}` : status}. ${titleOf(task)}`);
    onEnd(task);
  }

  function render() {
    $('empty').hidden = cards.size > 0;
    showInTitle([...cards.values()].map((card) => card.task()).filter(isActive), titleOf);
  }

  /** @param {string} id */
  function remove(id) {
    cards.get(id)?.node.remove();
    cards.delete(id);
    onRemove(id);
    render();
  }

  /** Gets a task with new links. @param {string} id */
  async function refresh(id) {
    update(await requestJson(`/status?id=${id}`));
  }

  function clear() {
    cards.clear();
    $('tasks').replaceChildren();
    render();
  }

  return {
    get,
    showProblem,
    put,
    update,
    refresh,
    clear,
    /** Removes a card, and focuses the next one. @param {string} id */
    removeFocused(id) {
      const node = cards.get(id)?.node;
      const neighbour = node?.nextElementSibling ?? node?.previousElementSibling;
      remove(id);
      if (!focusCard(neighbour)) $('clips').focus();
    },
    stopFollowing: follower.reset,
  };
}

/** Loads the tasks page by page, filtered by status. @param {ReturnType<typeof createCards>} cards */
function createPager(cards) {
  /** @type {string | undefined} query of the next page */
  let nextPage;
  let generation = 0; // counts clears, so that a response from before one is ignored

  /** Loads the newest tasks; the cards that are there stay. @throws as `request` */
  async function load() {
    const status = $('filter').value;
    $('empty').dataset.filtered = String(status !== '');
    await loadPage(`?limit=${PAGE_SIZE}${status && `&status=${status}`}`);
  }

  /** Loads a page, and further ones while all its tasks are deleted ones, which have no card. @param {string} query */
  async function loadPage(query) {
    const current = generation;
    const response = await request(`/status${query}`);
    /** @type {Task[]} */
    const tasks = await response.json();
    if (current !== generation) return;
    const link = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1];
    setNextPage(link && new URL(link).search); // only the query: its origin is PUBLIC_URL's
    cards.put(tasks);
    if (nextPage && tasks.every(isDeleted)) await loadPage(nextPage);
  }

  /** @param {string | undefined} query */
  function setNextPage(query) {
    nextPage = query;
    $('more').hidden = query === undefined;
  }

  function clear() {
    generation++;
    $('empty').dataset.filtered = String($('filter').value !== '');
    setNextPage(undefined);
    cards.clear();
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
    load,
    clear,
    /** Shows all tasks, if there is a filter. */
    async clearFilter() {
      if ($('filter').value === '') return;
      $('filter').value = '';
      await reload();
    },
  };
}

/** @param {string} text */
function showListProblem(text) {
  $('list-problem').textContent = text;
}

/** Shows the progress of the active tasks in the page's title. @param {Task[]} tasks @param {(task: Task) => string} titleOf */
function showInTitle([first, ...others], titleOf) {
  const one = first && `${Math.round(100 * first.progress)} % · ${titleOf(first)}`;
  document.title = first ? `${others.length > 0 ? `${1 + others.length} clips` : one} · ${TITLE}` : TITLE;
}

/** Focuses a card's first button. @param {Element | null | undefined} card @returns the button */
function focusCard(card) {
  /** @type {HTMLElement | null | undefined} */
  const first = card?.querySelector('.buttons button');
  first?.focus();
  return first;
}
