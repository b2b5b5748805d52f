// @ts-check
// The dialog that asks before a task is deleted.
import { $ } from './dom.js';

/** Resolves the promise of the dialog that is open. @type {(isConfirmed: boolean) => void} */
let answer = () => {};

/** @returns {Promise<boolean>} */
export function confirmDelete() {
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
