// @ts-check
// The card of one task: its media, its facts, and buttons for what can be done with it.
import { renderButtons } from './card-buttons.js';
import { createFiles, createProgress, renderFailure, renderStills, renderVideos } from './card-media.js';
import { element } from './dom.js';
import { formatClipLength, formatMoney, formatTime } from './format.js';
import { labelOf, plainText } from './labels.js';
import { isActive } from './task.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Actions } from './actions.js' */
/** @typedef {ReturnType<typeof createCard>} Card */

/** @param {Task} first @param {Actions} actions */
export function createCard(first, actions) {
  let task = first;
  const getTask = () => task;
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
  const files = createFiles({ getTask, refresh: () => actions.refresh(task), showProblem });

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
      buttons.replaceChildren(...renderButtons(getTask, { actions, files, cancel }));
    }
    if (isActive(task)) progress.update(task, isCanceling);
  }

  function renderMedia() {
    if (task.videos) return renderVideos(task, actions.pictureOf, files);
    if (task.status === 'failed') return [element('div', { class: 'frame' }, renderFailure(task))];
    const stills = renderStills(task, actions.pictureOf(task), files);
    return [...stills, isActive(task) ? progress.node : element('p', { class: 'overlay' }, 'Canceled')];
  }

  /** @returns whether the service stops the task */
  async function cancel() {
    isCanceling = await actions.cancel(task);
    if (isActive(task)) progress.update(task, isCanceling);
    return isCanceling;
  }

  update(task);
  return { node, update, showProblem, task: getTask };
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
