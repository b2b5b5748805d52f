// @ts-check
// Posts requests, each at most once.
import { RefusedError, requestJson } from './api.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Entry } from './source.js' */
/** @typedef {{ task: Task, file?: File }} Submission a task, and the file that it is made from, if any */

/** @type {{ key: string, entries: Entry[] } | undefined} a request that may have arrived or not */
let unanswered;

/**
 * Posts a request. The same request after one without a response has the same idempotency key, so it makes no second task.
 * @param {Entry[]} entries
 * @returns {Promise<Submission>}
 */
export async function submit(entries) {
  const isRetry =
    unanswered?.entries.length === entries.length &&
    entries.every(([name, value], i) => unanswered?.entries[i]?.[0] === name && unanswered.entries[i][1] === value);
  const { key } = isRetry && unanswered ? unanswered : { key: randomKey() };
  unanswered = { key, entries };
  const file = entries.map(([, value]) => value).find((value) => value instanceof File);
  const body = file ? new FormData() : new URLSearchParams();
  for (const [name, value] of entries) /** @type {FormData} */ (body).append(name, value);
  try {
    const task = await requestJson('/img2vid', { method: 'POST', headers: { 'idempotency-key': key }, body });
    unanswered = undefined;
    return { task, ...(file && { file }) };
  } catch (error) {
    if (error instanceof RefusedError) unanswered = undefined;
    throw error;
  }
}

/** crypto.randomUUID is missing on pages loaded by plain http. */
const randomKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
