// @ts-check
// What a task is requested with again.

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Parameters } from './settings.js' */
/** @import { Entry } from './source.js' */

/** Whether its files and its prompt were deleted. @param {Task} task */
export const isDeleted = (task) => task.expired_at !== undefined;

/**
 * The settings of a task that differ from the defaults.
 * @param {Task['input']} input where every parameter has its value
 * @param {Parameters} parameters
 * @returns {Record<string, string>}
 */
export function changedSettings(input, parameters) {
  const values = /** @type {Record<string, unknown>} */ (input);
  /** @param {string} name */
  const isDefault = (name) =>
    values[name] === parameters[name]?.default ||
    (name === 'decoding_t' && values[name] === Math.min(Number(parameters.decoding_t?.default), input.T)) || // at most T
    (name === 'order' && values[name] === input.steps); // at most steps
  const names = Object.entries(parameters)
    .filter(([name, schema]) => schema['x-group'] !== 'Source' && name !== 'image_index')
    .map(([name]) => name);
  return Object.fromEntries(
    names.filter((name) => values[name] !== undefined && !isDefault(name)).map((name) => [name, String(values[name])]),
  );
}

/**
 * What a task was made from: its picture where that is kept, so that none is paid for twice.
 * @param {Task} task
 * @param {object} options
 * @param {number} [options.index] of the four pictures of a prompt
 * @param {File | undefined} options.file the picture that this page uploaded for the task
 * @returns {Entry[] | undefined} undefined if that is gone
 */
export function sourceEntries(task, { index = task.input.image_index, file }) {
  const { prompt, image_url, still_of } = task.input;
  /** @type {Entry[]} */
  const choice = index === 1 ? [] : [['image_index', String(index)]];
  if (task.still && !isDeleted(task)) return [['still_of', task.id], ...(prompt ? choice : [])];
  if (prompt) return [['prompt', prompt], ...choice];
  if (image_url) return [['image_url', image_url]];
  if (still_of) return [['still_of', still_of], ...choice];
  return file && [['image', file]];
}
