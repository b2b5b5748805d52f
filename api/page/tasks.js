// The list of tasks: loaded in pages, each open one followed to its end, and what can be done with them.

import { followEvents } from '../../client/events.js';
import { ask, askJson, inWords, sessionSignal } from './api.js';
import { createCard, titleOf } from './card.js';
import { $, element, say, wantsStillness } from './dom.js';
import { duration, failure, STATUSES } from './labels.js';
import { settingsOf } from './settings.js';

const PAGE = 20; // tasks
/** Tasks followed by events at a time: a browser has six connections to a server, for all its tabs. The rest are asked for now and then. */
const FOLLOWED = 2;
const SECOND = 1000;
const ASK_EVERY = 3 * SECOND;
const LOOK_AT_LINKS_EVERY = 60 * SECOND;

/**
 * @param parameters the schemas of what may be asked for, by name
 * @param form see form.js
 * @param onEnd told each task that has ended
 */
export function createTasks(parameters, { form, onEnd }) {
  const cards = new Map(); // by task
  const files = new Map(); // the pictures that this page has sent, by task
  let watched = new Set(); // ids
  let following = 0;
  let next; // where the next page of the list is
  const isOpen = (task) => task.finished_at === undefined;
  const isGone = (task) => task.expired_at !== undefined;

  /** Puts tasks into the list, where each has one place: ids rise with time. */
  function put(tasks) {
    for (const task of tasks.filter((one) => !isGone(one))) {
      const known = cards.get(task.id);
      if (known) known.update(task);
      else {
        const card = createCard(task, { actions, fourOf });
        cards.set(task.id, card);
        const after = [...$('tasks').children].find(({ id }) => id < task.id);
        $('tasks').insertBefore(card.node, after ?? null);
      }
      if (isOpen(task)) watch(task.id);
    }
    show();
  }

  function show() {
    const isFiltered = $('filter').value !== '';
    $('empty').hidden = cards.size > 0;
    $('empty').dataset.filtered = String(isFiltered);
    $('more').hidden = next === undefined;
    const open = [...cards.values()].map(({ task }) => task()).filter(isOpen);
    const percent = open.length === 1 ? `${Math.round(100 * open[0].progress)} %` : `${open.length} clips`;
    document.title = open.length > 0 ? `${percent} · Text to Video` : 'Text to Video';
  }

  function forget(id) {
    cards.get(id)?.node.remove();
    cards.delete(id);
    show();
  }

  /** The newest tasks. Those that are shown stay as they are, but for what has changed. @throws as ask */
  async function load() {
    const status = $('filter').value;
    await loadPage(`?limit=${PAGE}${status && `&status=${status}`}`);
  }

  /** A page of the list, and further ones while all in it are deleted ones, which are not shown. */
  async function loadPage(query) {
    const response = await ask(`/status${query}`);
    const tasks = await response.json();
    const [, link] = /<([^>]+)>; rel="next"/.exec(response.headers.get('link') ?? '') ?? [];
    next = link && new URL(link).search; // its origin is PUBLIC_URL's, which need not be this page's
    put(tasks);
    if (next && tasks.every(isGone)) await loadPage(next);
  }

  async function trying(action, complain) {
    complain('');
    try {
      await action();
      return true;
    } catch (error) {
      complain(inWords(error) + (error.retryAfter ? `; again in ${duration(error.retryAfter)}` : ''));
      return false;
    }
  }
  const onList = (text) => {
    $('list-problem').textContent = text;
  };
  const onCard =
    ({ id }) =>
    (text) =>
      cards.get(id)?.complain(text);

  /** Follows a task until it has ended: by events, or where enough are followed already or nobody looks, by asking. */
  async function watch(id) {
    if (watched.has(id)) return;
    const mine = watched.add(id);
    const session = sessionSignal();
    while (!session.aborted && cards.has(id) && isOpen(cards.get(id).task())) {
      try {
        if (following < FOLLOWED && !document.hidden) await follow(id, session);
        else {
          await new Promise((resolve) => setTimeout(resolve, ASK_EVERY));
          if (!session.aborted) changed(await askJson(`/status?id=${id}`));
        }
      } catch (error) {
        if (error.name !== 'Refusal' || error.retryable) continue;
        if (error.status === 404) forget(id);
        else onCard({ id })(inWords(error));
        break;
      }
    }
    mine.delete(id);
  }

  async function follow(id, session) {
    const hidden = new AbortController();
    const stop = () => document.hidden && hidden.abort();
    document.addEventListener('visibilitychange', stop);
    following++;
    try {
      await followEvents((headers) => ask(`/status?id=${id}`, { headers, signal: hidden.signal }), {
        onData(data) {
          const task = JSON.parse(data);
          changed(task);
          return !isOpen(task) || !cards.has(id);
        },
        onBreak: (error) => onCard({ id })(error?.name === 'Refusal' ? inWords(error) : ''), // of silence the whole page tells
        signal: AbortSignal.any([hidden.signal, session]),
      });
    } finally {
      following--;
      document.removeEventListener('visibilitychange', stop);
    }
  }

  function changed(task) {
    const card = cards.get(task.id);
    if (!card) return;
    const before = card.task();
    onCard(task)('');
    card.update(task);
    show();
    if (isOpen(task) || !isOpen(before)) return;
    const end = task.error ? `${STATUSES[task.status]}: ${failure(task.error)[0]}` : STATUSES[task.status];
    say(`${end}. ${titleOf(task)}`);
    onEnd(task);
  }

  /** The prompt task that has the four pictures of one of which this task is made, as far as that is known here. */
  function fourOf(task) {
    if (task.input.prompt) return task;
    const origin = cards.get(task.input.still_of)?.task();
    return origin?.input.prompt ? origin : undefined;
  }

  /** What a task began with, to begin with it again: the picture itself where it is kept, so that none is paid for twice. */
  function beginningOf(task, index = task.input.image_index) {
    const { prompt, image_url, still_of } = task.input;
    const which = index === 1 ? [] : [['image_index', String(index)]];
    if (task.still && !isGone(task)) return [['still_of', task.id], ...(prompt ? which : [])];
    if (prompt) return [['prompt', prompt], ...which];
    if (image_url) return [['image_url', image_url]];
    if (still_of) return [['still_of', still_of], ...which];
    return files.has(task.id) ? [['image', files.get(task.id)]] : undefined;
  }

  /** @returns what was made, or undefined if it was refused because of this field */
  async function sendUnless(field, entries) {
    try {
      return await form.send(entries);
    } catch (error) {
      if (error.errors?.some((one) => one.field === field)) return undefined;
      throw error;
    }
  }

  let answer; // to whoever asked last
  function isConfirmed() {
    answer?.(false); // it was closed, though the event may be yet to come
    $('confirm').returnValue = '';
    $('confirm').showModal();
    return new Promise((resolve) => {
      answer = resolve;
    });
  }

  const actions = {
    cancel: (task) =>
      trying(async () => changed(await askJson(`/cancel?id=${task.id}`, { method: 'POST' })), onCard(task)),

    /** Asks in the page before it is done. */
    async remove(task) {
      if (!(await isConfirmed())) return;
      const neighbour = cards.get(task.id).node.nextElementSibling ?? cards.get(task.id).node.previousElementSibling;
      const isDone = await trying(() => ask(`/delete?id=${task.id}`, { method: 'POST' }), onCard(task));
      if (!isDone) return;
      forget(task.id);
      say('Deleted');
      (neighbour?.querySelector('.buttons button') ?? $('clips')).focus();
    },

    /** The same with another seed, or of another of the four pictures. */
    another: (task, index) =>
      trying(async () => {
        const { seed, ...settings } = settingsOf(task.input, parameters);
        const four = index === undefined ? task : fourOf(task);
        const entries = [...beginningOf(four, index), ...Object.entries(settings)];
        if (index !== undefined) entries.push(['seed', seed]);
        await made(await form.send(entries));
      }, onCard(task)),

    again: (task) =>
      trying(async () => {
        const settings = Object.entries(settingsOf(task.input, parameters));
        const beginning = beginningOf(task);
        if (!beginning) return actions.reuse(task);
        const isPaidAgain = beginning[0][0] === 'prompt' && !isGone(task); // unless its pictures were kept before it failed
        const kept =
          isPaidAgain && (await sendUnless('still_of', [['still_of', task.id], ...beginning.slice(1), ...settings]));
        await made(kept || (await form.send([...beginning, ...settings])));
      }, onCard(task)),

    /** Puts its settings, and what it began with, into the form. */
    reuse(task) {
      const { prompt, image_url, image_index } = task.input;
      if (prompt) form.source.usePrompt(prompt);
      else if (task.still) form.source.useEarlier(task);
      else if (image_url) form.source.useAddress(image_url);
      else if (files.has(task.id)) form.source.useFile(files.get(task.id));
      form.fill({ ...settingsOf(task.input, parameters), ...(prompt && image_index !== 1 && { image_index }) });
      $('compose').scrollIntoView({ block: 'start', behavior: wantsStillness() ? 'auto' : 'smooth' });
      $('make').focus({ preventScroll: true });
      say('The settings are in the form');
    },

    /** Asks for a task whose links have expired. */
    refresh: (task) => trying(async () => changed(await askJson(`/status?id=${task.id}`)), onCard(task)),
  };

  /** Whether the list is below the form, as on phones, and not beside it. */
  const isBelow = () => $('clips').offsetTop >= $('compose').offsetTop + $('compose').offsetHeight;

  /** Shows a task that was just made, and follows it. */
  async function made({ task, file }) {
    if (file) files.set(task.id, file);
    if ($('filter').value !== '') {
      $('filter').value = '';
      clear();
      await trying(load, onList);
    }
    put([task]);
    say('The clip is on its way');
    const behavior = wantsStillness() ? 'auto' : 'smooth';
    if (isBelow()) $('clips').scrollIntoView({ behavior });
    else scrollTo({ top: 0, behavior });
  }

  function clear() {
    cards.clear();
    next = undefined;
    $('tasks').replaceChildren();
    show();
  }

  $('confirm').addEventListener('close', ({ target }) => {
    if (!target.open) answer(target.returnValue === 'yes'); // else it was opened again before its event came
  });
  $('keep').addEventListener('click', () => $('confirm').close());
  $('delete').addEventListener('click', () => $('confirm').close('yes'));
  $('filter').append(
    element('option', { value: '' }, 'All'),
    ...Object.entries(STATUSES).map(([value, words]) => element('option', { value }, words)),
  );
  $('filter').addEventListener('change', () => {
    clear();
    trying(load, onList);
  });
  $('more').addEventListener('click', async () => {
    $('more').disabled = true;
    const last = $('tasks').lastElementChild;
    await trying(() => loadPage(next), onList);
    $('more').disabled = false;
    if ($('more').hidden) last?.nextElementSibling?.querySelector('.buttons button')?.focus();
  });
  document.addEventListener('visibilitychange', () => !document.hidden && !$('clips').hidden && trying(load, onList));
  setInterval(() => {
    for (const { task } of cards.values())
      if (Date.parse(task().links_expire_at) < Date.now() + LOOK_AT_LINKS_EVERY && !document.hidden)
        actions.refresh(task());
  }, LOOK_AT_LINKS_EVERY);

  return {
    load,
    made,
    /** For another key: all that was shown is gone, and its tasks are followed anew if it comes back. */
    forgetAll() {
      watched = new Set();
      files.clear();
      clear();
    },
  };
}
