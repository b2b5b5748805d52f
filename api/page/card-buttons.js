// @ts-check
// The buttons of a card.
import { announce, button, copyText, element } from './dom.js';
import { areLinksExpired, isActive } from './task.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Actions } from './actions.js' */
/** @import { Files } from './card-media.js' */

/**
 * @param {() => Task} getTask
 * @param {{ actions: Actions, files: Files, cancel: () => Promise<boolean> }} options
 */
export function renderButtons(getTask, { actions, files, cancel }) {
  const task = getTask();
  const another = button('Another seed', 'again', () => actions.another(getTask()));
  const reuse = button('Use settings', 'settings', () => actions.reuse(getTask()));
  const remove = button('', 'trash', () => actions.remove(getTask()), { class: 'icon-button', 'aria-label': 'Delete' });
  const copy = renderCopy(getTask, actions);
  const drawn = actions.promptTaskOf(task);
  const count = drawn ? (drawn.pictures ?? 4) : 1;
  const four = count > 1 ? [renderFour(getTask, actions, count)] : [];
  if (isActive(task)) {
    another.disabled = true;
    for (const choice of four.flatMap((node) => [...node.querySelectorAll('button')])) choice.disabled = true;
    return [renderCancel(cancel), another, reuse, ...copy, ...four];
  }
  if (task.status !== 'succeeded') {
    const again = button('Try again', 'again', () => actions.again(getTask()));
    return [...(task.status === 'canceled' || task.error?.retryable ? [again] : []), reuse, ...copy, remove];
  }
  const download = task.grid
    ? files.downloadLink((latest) => latest.grid, 'Grid')
    : files.downloadLink((latest) => latest.videos?.[0], 'Download');
  return [download, another, reuse, ...copy, remove, ...four];
}

/** @param {() => Promise<boolean>} cancel resolves to whether the service stops the task */
function renderCancel(cancel) {
  const node = button('Cancel', 'stop', async () => {
    node.disabled = true;
    node.disabled = await cancel();
  });
  return node;
}

/** A button that opens the list of what can be copied. @param {() => Task} getTask @param {Actions} actions */
function renderCopy(getTask, actions) {
  const id = `copy-${getTask().id}`;
  const list = element('div', { class: 'copy', id, popover: '', role: 'group', 'aria-label': 'Copy' });
  list.addEventListener('beforetoggle', ({ newState }) => {
    if (newState !== 'open') return;
    // Before the choice, because some browsers copy only during a click.
    const isFresh = !areLinksExpired(getTask()) || actions.refresh(getTask());
    const choices = Object.keys(actions.copiesOf(getTask())).map((label) =>
      button(label, 'copy', async () => {
        list.hidePopover();
        if (!(await isFresh)) return; // the card shows why
        const isCopied = await copyText(actions.copiesOf(getTask())[label] ?? '');
        announce(isCopied ? `${label} copied` : 'The browser refused to copy');
      }),
    );
    list.replaceChildren(...choices);
  });
  return [button('Copy', 'copy', () => {}, { popovertarget: id }), list];
}

/** Buttons for the other pictures of a prompt, mostly of four. @param {() => Task} getTask @param {Actions} actions @param {number} count */
function renderFour(getTask, actions, count) {
  const all = ['two', 'three', 'four'][count - 2];
  const choices = [1, 2, 3, 4].slice(0, count).map((index) => {
    const isThis = index === getTask().input.image_index;
    const attributes = { 'aria-pressed': String(isThis), 'aria-label': `Picture ${index} of ${all}` };
    const choice = element('button', { type: 'button', ...attributes }, String(index));
    choice.addEventListener('click', () => !isThis && actions.another(getTask(), index));
    return choice;
  });
  const label = element('span', { class: 'soft small' }, `Use another of the ${all} pictures`);
  return element('div', { class: 'four' }, label, ...choices);
}
