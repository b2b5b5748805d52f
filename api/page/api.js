// @ts-check
// Requests to the API: the API key of this tab, errors, outages, and posts that make at most one task each.
import { parseRetryAfter } from '../../core/retry-after.js';
import { formatDuration } from './format.js';

/** @import { FieldNote } from '../../core/invalid-request.ts' */
/** @import { PresentedTask as Task } from '../../core/responses.ts' */
/** @import { Entry } from './source.js' */
/** @typedef {{ task: Task, file?: File }} Submission a task, and the file that it is made from, if any */

const STORED_KEY = 'api-key'; // in sessionStorage: for this tab only
/** Pauses between checks whether the API is back double from the first to the second of these, in ms. */
const FIRST_PAUSE = 1000;
const MAX_PAUSE = 10_000;

let key = readStoredKey(); // null: none
/** Aborted when the key changes: ends all requests with the key before. */
let session = new AbortController();
let isAway = false;

const events = new EventTarget();

/**
 * Listens for news of the API: `key` (a key is needed; the message says what is wrong with the last one), `away` and `back`.
 * @param {'key' | 'away' | 'back'} name
 * @param {(message: string) => void} listener
 * @param {AddEventListenerOptions} [options]
 */
export const onApi = (name, listener, options) =>
  events.addEventListener(name, (event) => listener(/** @type {CustomEvent<string>} */ (event).detail), options);

/** @param {'key' | 'away' | 'back'} name */
const emit = (name, message = '') => events.dispatchEvent(new CustomEvent(name, { detail: message }));

/** The API refused a request. */
export class RefusedError extends Error {
  /** @override */
  name = 'RefusedError';
  /** @type {FieldNote[]} every wrong field */
  errors;

  /** @param {Response} response @param {{ detail: string, errors?: FieldNote[] }} problem application/problem+json */
  constructor({ status, headers }, { detail, errors = [] }) {
    super(detail);
    this.status = status;
    this.errors = errors;
    this.retryAfter = Math.ceil((parseRetryAfter(headers.get('retry-after')) ?? 0) / 1000); // seconds
    this.retryable = status === 429 || status >= 500;
  }
}

/** There was no response, or one of something else than the API, such as a proxy. */
export class UnreachableError extends Error {
  /** @override */
  name = 'UnreachableError';

  constructor() {
    super(navigator.onLine ? 'The service does not answer.' : 'You are offline.');
  }
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof Error && error.name === 'AbortError';

/**
 * fetch with the API key. A missing or wrong key emits `key`.
 * @param {string} url
 * @param {Omit<RequestInit, 'signal'> & { signal?: AbortSignal, headers?: Record<string, string> }} [init]
 * @returns {Promise<Response>} a success
 * @throws RefusedError, UnreachableError; AbortError when `signal` aborts or the key changes
 */
export async function request(url, { headers, signal, ...init } = {}) {
  const { signal: sessionSignal } = session;
  const authorization = key === null ? {} : { authorization: `Bearer ${key}` };
  let response;
  let problem;
  try {
    response = await fetch(url, {
      ...init,
      signal: AbortSignal.any(signal ? [sessionSignal, signal] : [sessionSignal]),
      headers: { ...headers, ...authorization },
    });
    if (!response.ok) problem = await response.json();
  } catch (error) {
    if (isAbort(error)) throw error;
  }
  if (response?.ok) return response;
  if (!response || problem?.detail === undefined) {
    waitForApi();
    throw new UnreachableError();
  }
  const refusal = new RefusedError(response, problem);
  if (refusal.status === 401 && !sessionSignal.aborted) emit('key', key === null ? '' : refusal.message);
  throw refusal;
}

/** The JSON of a response. @param {Parameters<typeof request>} args as of `request` @throws as `request` */
export async function requestJson(...args) {
  const response = await request(...args);
  try {
    return await response.json();
  } catch (error) {
    if (isAbort(error)) throw error;
    waitForApi(); // the response broke off
    throw new UnreachableError();
  }
}

/**
 * The text that an error is shown with; '' for one that the page already shows elsewhere, and for aborts.
 * @param {unknown} error
 */
export const errorText = (error) =>
  (error instanceof RefusedError && error.status === 401) || isAbort(error) ? '' : /** @type {Error} */ (error).message;

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

/** Emits `away`, checks until the API is back, and emits `back`. */
async function waitForApi() {
  if (isAway) return;
  isAway = true;
  for (let pause = FIRST_PAUSE; isAway; pause = Math.min(2 * pause, MAX_PAUSE)) {
    emit('away', new UnreachableError().message);
    await new Promise((resolve) => {
      setTimeout(resolve, pause);
      addEventListener('online', resolve, { once: true });
    });
    const response = await fetch('/healthz').catch(() => undefined);
    isAway = !response?.ok;
  }
  emit('back');
}

/** @returns {string | null} */
function readStoredKey() {
  try {
    return sessionStorage.getItem(STORED_KEY);
  } catch {
    return null; // a browser without storage asks for the key after each reload
  }
}

/** Stores the key that is in use, or removes the stored one. */
export function storeKey() {
  try {
    if (key === null) sessionStorage.removeItem(STORED_KEY);
    else sessionStorage.setItem(STORED_KEY, key);
  } catch {} // as in readStoredKey
}

/**
 * Uses another key from now on, and aborts all requests with the one before.
 * @param {string | null} newKey null: none
 */
export function useKey(newKey) {
  session.abort();
  session = new AbortController();
  key = newKey;
}

export const hasKey = () => key !== null;
/** Aborts when the key changes. */
export const sessionSignal = () => session.signal;

/** @type {{ key: string, entries: Entry[] } | undefined} a post that may have arrived or not */
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
