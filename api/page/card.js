// @ts-check
// The card of one task: its media, its facts, and buttons for what can be done with it.
import { createFiles, createProgress, renderFailure, renderStills, renderVideos } from './card-media.js';
import { announce, button, copyText, element } from './dom.js';
import { formatClipLength, formatMoney, formatTime } from './format.js';
import { labelOf, plainText } from './labels.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Actions } from './actions.js' */
/** @typedef {ReturnType<typeof createCard>} Card */

/** @param {Task} task */
export const isActive = ({ finished_at }) => finished_at === undefined;

/** Whether its files and its prompt were deleted. @param {Task} task */
export const isDeleted = ({ expired_at }) => expired_at !== undefined;

/** @param {Task} first @param {Actions} actions */
export function createCard(first, actions) {
  let task = first;
  let isCanceling = false; // until the worker has stopped
  let shownMedia = ''; // status and files that the media were made for
  let shownButtons = ''; // status and files that the buttons were made for
  const media = element('div', { class: 'media' });
  const title = element('h3', { class: 'title', id: `title-${task.id}` });
  const facts = element('p', { class: 'facts soft small digits' });
  const notes = element('ul', { class: 'notes caution small' });
  const problem = element('p', { class: 'problem', role: 'alert' });
  const buttons = element('div', { class: 'buttons', role: 'group', 'aria-labelledby': title.id });
  const body = element('div', { class: 'body' }, title, facts, notes, problem, buttons);
  const node = element('li', { id: task.id, class: 'card' }, media, body);
  const progress = createProgress();
  const files = createFiles({ getTask: () => task, refresh: () => actions.refresh(task), showProblem });

  /** @param {string} text */
  function showProblem(text) {
    problem.textContent = text;
  }

  /** @param {Task} latest */
  function update(latest) {
    task = latest;
    node.dataset.status = task.status;
    title.textContent = actions.titleOf(task);
    facts.replaceChildren(...renderFacts(task));
    notes.replaceChildren(...task.warnings.map(renderWarning));
    const links = task.videos ? task.videos.map(({ link }) => link) : [actions.pictureOf(task)];
    const now = [task.status, ...links.map(pathOf)].join(); // a link that was only signed again is the same file
    if (now !== shownMedia) {
      shownMedia = now;
      media.className = `media ${task.status}`;
      media.classList.toggle('many', task.input.num_cols > 1 && task.status !== 'failed');
      media.style.setProperty('--columns', String(Math.ceil(Math.sqrt(task.input.num_cols))));
      const { W, H } = task.input; // absent until the picture is known
      if (W && H) media.style.setProperty('--aspect', `${W} / ${H}`);
      media.replaceChildren(...renderMedia());
    }
    // A button that was replaced while the mouse is down gets no click, so those of an active task stay.
    const buttonsNow = isActive(task) ? 'active' : now;
    if (buttonsNow !== shownButtons) {
      shownButtons = buttonsNow;
      buttons.replaceChildren(...renderButtons());
    }
    if (isActive(task)) progress.update(task, isCanceling);
  }

  function renderMedia() {
    const picture = actions.pictureOf(task);
    if (task.videos) return renderVideos(task, picture, files);
    if (task.status === 'failed') return [element('div', { class: 'frame' }, renderFailure(task))];
    const stills = renderStills(task, picture, files);
    return [...stills, isActive(task) ? progress.node : element('p', { class: 'overlay' }, 'Canceled')];
  }

  function renderButtons() {
    const another = button('Another seed', 'again', () => actions.another(task));
    const reuse = button('Use settings', 'settings', () => actions.reuse(task));
    const remove = button('', 'trash', () => actions.remove(task), { class: 'icon-button', 'aria-label': 'Delete' });
    const four = actions.promptTaskOf(task) ? [renderFour()] : [];
    if (isActive(task)) {
      another.disabled = true;
      for (const choice of four.flatMap((node) => [...node.querySelectorAll('button')])) choice.disabled = true;
      return [renderCancel(), another, reuse, ...renderCopy(), ...four];
    }
    if (task.status !== 'succeeded') {
      const again = button('Try again', 'again', () => actions.again(task));
      return [...(task.status === 'canceled' || task.error?.retryable ? [again] : []), reuse, ...renderCopy(), remove];
    }
    const download = task.grid
      ? files.downloadLink((latest) => latest.grid, 'Grid')
      : files.downloadLink((latest) => latest.videos?.[0], 'Download');
    return [download, another, reuse, ...renderCopy(), remove, ...four];
  }

  /** A button that opens the list of what can be copied. */
  function renderCopy() {
    const id = `copy-${task.id}`;
    const list = element('div', { class: 'copy', id, popover: '', role: 'group', 'aria-label': 'Copy' });
    list.addEventListener('beforetoggle', () => {
      const choices = Object.entries(actions.copiesOf(task)).map(([label, text]) =>
        button(label, 'copy', async () => {
          list.hidePopover();
          announce((await copyText(text)) ? `${label} copied` : 'The browser refused to copy');
        }),
      );
      list.replaceChildren(...choices);
    });
    return [button('Copy', 'copy', () => {}, { popovertarget: id }), list];
  }

  function renderCancel() {
    const cancel = button('Cancel', 'stop', async () => {
      cancel.disabled = true;
      isCanceling = await actions.cancel(task);
      cancel.disabled = isCanceling;
      if (isActive(task)) progress.update(task, isCanceling);
    });
    return cancel;
  }

  /** Buttons for the other three of the four pictures of a prompt. */
  function renderFour() {
    const choices = [1, 2, 3, 4].map((index) => {
      const isThis = index === task.input.image_index;
      const attributes = { 'aria-pressed': String(isThis), 'aria-label': `Picture ${index} of four` };
      const choice = element('button', { type: 'button', ...attributes }, String(index));
      choice.addEventListener('click', () => !isThis && actions.another(task, index));
      return choice;
    });
    return element(
      'div',
      { class: 'four' },
      element('span', { class: 'soft small' }, 'Use another of the four pictures'),
      ...choices,
    );
  }

  update(task);
  return { node, update, showProblem, task: () => task };
}

/** @param {string | undefined} link */
const pathOf = (link) => (link ? new URL(link).pathname : '');

/** @param {{ field: string, message: string }} warning */
const renderWarning = ({ field, message }) => element('li', {}, `${labelOf(field)}: ${plainText(message)}`);

/** @param {Task} task */
function renderFacts({ input, videos, cost, created_at }) {
  const { T, fps, seed, num_cols } = input;
  const { width, height } = videos?.[0] ?? { width: input.W, height: input.H };
  const which = num_cols > 1 ? `${num_cols} videos` : `Seed ${seed}`;
  const texts = [...(width && height ? [`${width} × ${height}`] : []), formatClipLength(T, fps), which];
  if (cost && cost.amount > 0) texts.push(formatMoney(cost));
  const time = element('time', { datetime: created_at }, formatTime(created_at));
  return [...texts.map((text) => element('span', {}, text)), time];
}
