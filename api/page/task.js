// @ts-check
// What the page derives from a task: its title, its picture, and the requests that make it again.
import { hasKey } from './api.js';
import { curlSnippet, javascriptSnippet, pythonSnippet } from './snippets.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Parameters } from './settings.js' */
/** @import { Entry } from './source.js' */
/** @typedef {(id: string) => Task | undefined} GetTask finds a task among those that the page shows */

/** @param {Task} task */
export const isActive = ({ finished_at }) => finished_at === undefined;

/** Whether its files and its prompt were deleted. @param {Task} task */
export const isDeleted = ({ expired_at }) => expired_at !== undefined;

/** Whether the task must be requested again before its links are used. @param {Task} task */
export const areLinksExpired = ({ links_expire_at }) => Date.parse(links_expire_at ?? '') < Date.now();

/** The link of a task's picture, as small as a page needs it. @param {Task} task */
export const stillLink = ({ still }) => still?.preview?.link ?? still?.link;

/**
 * The URL of a task's picture, if the page knows one.
 * @param {Task} task
 * @param {GetTask} getTask
 * @param {Map<string, { url: string }>} uploads pictures that this page has sent, by task id
 * @returns {string | undefined}
 */
export function pictureOf(task, getTask, uploads) {
  const origin = getTask(task.input.still_of ?? '');
  return (
    uploads.get(task.id)?.url ??
    stillLink(task) ??
    (origin?.input.image_index === task.input.image_index ? pictureOf(origin, getTask, uploads) : undefined)
  );
}

/** The task with the prompt whose four pictures this one is made from, if the page knows it. @param {Task} task @param {GetTask} getTask */
export function promptTaskOf(task, getTask) {
  if (task.input.prompt) return task;
  const origin = getTask(task.input.still_of ?? '');
  return origin?.input.prompt ? origin : undefined;
}

/** What a task was made from. @param {Task} task @param {GetTask} getTask @returns {string} */
export function titleOf({ input: { prompt, image, image_url, still_of } }, getTask) {
  const origin = getTask(still_of ?? '');
  if (prompt) return prompt;
  if (origin) return titleOf(origin, getTask);
  if (image_url && URL.canParse(image_url)) {
    const { host, pathname } = new URL(image_url);
    return `${decoded(pathname.split('/').at(-1) ?? '') || 'Picture'} from ${host}`;
  }
  return image ?? (still_of ? 'Picture of an earlier clip' : 'Your picture');
}

/** A part of a URL as text, or as it is if its percent signs make no text. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** What can be copied of a task, by its label. @param {Task} task @param {Record<string, string>} settings @returns {Record<string, string>} */
export function copiesOf(task, settings) {
  const { prompt, image, image_url, still_of, image_index } = task.input;
  const name = prompt ? 'prompt' : image_url ? 'image_url' : 'still_of';
  const text = prompt ?? image_url ?? still_of;
  /** @type {Entry[]} */
  const source = text ? [[name, text], ...choiceOf(image_index)] : [['image', new File([], image ?? 'photo.jpg')]];
  const entries = [...source, ...Object.entries(settings)];
  const request = { url: `${location.origin}/img2vid`, entries, needsKey: hasKey() };
  const link = (task.grid ?? task.videos?.[0])?.link;
  return {
    ...(task.share_link && { 'Share link': task.share_link }),
    ...(link && { 'Link to the video': link }),
    Id: task.id,
    curl: curlSnippet(request),
    JavaScript: javascriptSnippet(request),
    Python: pythonSnippet(request),
  };
}

/**
 * The settings of a task that differ from the defaults.
 * @param {Task['input']} input where every parameter has its value
 * @param {Parameters} parameters
 * @returns {Record<string, string>}
 */
export function changedSettings(input, parameters) {
  const values = /** @type {Record<string, unknown>} */ (input);
  const set = parameters.speed?.['x-sets']?.[input.speed];
  /** @param {string} name */
  const isDefault = (name) =>
    values[name] === (set?.[name] ?? parameters[name]?.default) ||
    (name === 'decoding_t' && values[name] === Math.min(Number(parameters.decoding_t?.default), input.T)) || // at most T
    (name === 'order' && values[name] === input.steps); // at most steps
  const names = Object.entries(parameters)
    .filter(([name, schema]) => schema['x-group'] !== 'Source' && name !== 'image_index')
    .map(([name]) => name);
  return Object.fromEntries(
    names.filter((name) => values[name] !== undefined && !isDefault(name)).map((name) => [name, String(values[name])]),
  );
}

/** The parameter for one of the four pictures of a prompt. @param {number} index @returns {Entry[]} */
const choiceOf = (index) => (index === 1 ? [] : [['image_index', String(index)]]);

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
  const choice = choiceOf(index);
  if (task.still && !isDeleted(task)) return [['still_of', task.id], ...(prompt ? choice : [])];
  if (prompt) return [['prompt', prompt], ...choice];
  if (image_url) return [['image_url', image_url]];
  if (still_of) return [['still_of', still_of], ...choice];
  return file && [['image', file]];
}
