// @ts-check
import { errorText, RefusedError } from './api.js';
import { formatDuration } from './format.js';

/**
 * Runs an action and shows its error, if there is one.
 * @param {() => unknown} action
 * @param {(text: string) => void} show gets '' first
 * @returns whether it succeeded
 */
export async function reportErrors(action, show) {
  show('');
  try {
    await action();
    return true;
  } catch (error) {
    const seconds = error instanceof RefusedError ? error.retryAfter : 0;
    show(errorText(error) + (seconds ? `; again in ${formatDuration(seconds)}` : ''));
    return false;
  }
}
