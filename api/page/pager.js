// @ts-check
// Loads the list of tasks page by page, filtered by status.
import { reportErrors, request } from './api.js';
import { focusCard } from './card-list.js';
import { $, element } from './dom.js';
import { STATUSES } from './labels.js';
import { isDeleted } from './repeat.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { CardList } from './card-list.js' */
/** @typedef {ReturnType<typeof createPager>} Pager */

const PAGE_SIZE = 20;

/** @param {CardList} list */
export function createPager(list) {
  /** @type {string | undefined} query of the next page */
  let nextPage;

  /** @param {string} text */
  function showProblem(text) {
    $('list-problem').textContent = text;
  }

  /** Loads the newest tasks; the cards that are there stay. @throws as `request` */
  async function load() {
    const status = $('filter').value;
    $('empty').dataset.filtered = String(status !== '');
    await loadPage(`?limit=${PAGE_SIZE}${status && `&status=${status}`}`);
  }

  /** Loads a page, and further ones while all its tasks are deleted ones, which have no card. @param {string} query */
  async function loadPage(query) {
    const response = await request(`/status${query}`);
    /** @type {Task[]} */
    const tasks = await response.json();
    const link = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '')?.[1];
    setNextPage(link && new URL(link).search); // only the query: its origin is PUBLIC_URL's
    list.put(tasks);
    if (nextPage && tasks.every(isDeleted)) await loadPage(nextPage);
  }

  /** @param {string | undefined} query */
  function setNextPage(query) {
    nextPage = query;
    $('more').hidden = query === undefined;
  }

  function clear() {
    $('empty').dataset.filtered = String($('filter').value !== '');
    setNextPage(undefined);
    list.clear();
  }

  async function reload() {
    clear();
    await reportErrors(load, showProblem);
  }

  $('filter').append(
    element('option', { value: '' }, 'All'),
    ...Object.entries(STATUSES).map(([value, label]) => element('option', { value }, label)),
  );
  $('filter').addEventListener('change', reload);
  $('more').addEventListener('click', async () => {
    const last = $('tasks').lastElementChild;
    $('more').disabled = true;
    await reportErrors(() => loadPage(nextPage ?? ''), showProblem);
    $('more').disabled = false;
    if ($('more').hidden) focusCard(last?.nextElementSibling); // the focus was on the button
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && !$('clips').hidden) reportErrors(load, showProblem);
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
