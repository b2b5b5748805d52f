// Asking the API: with the key of this tab, refusals in words, and whether there is anybody who answers.

import { parseRetryAfter } from '../../core/retry-after.js';

let key = storedKey(); // null: none
/** Aborted when the key changes: what was begun with another one then ends. */
let session = new AbortController();
let isAway = false;

/** Told by the API's answers, and heard by the page. */
export const news = new EventTarget();

/** A request that was refused, and why, in words. */
export class Refusal extends Error {
  /** @param problem application/problem+json */
  constructor({ status, headers }, { detail, code, errors = [] }) {
    super(detail);
    Object.assign(this, { name: 'Refusal', status, code, errors });
    this.retryAfter = Math.ceil((parseRetryAfter(headers.get('retry-after')) ?? 0) / 1000); // seconds
    this.retryable = status === 429 || status >= 500;
  }
}

/** Nobody answered, or somebody else than the API, such as a proxy. */
export class NoAnswer extends Error {
  constructor() {
    super(navigator.onLine ? 'The service does not answer.' : 'You are offline.');
    this.name = 'NoAnswer';
  }
}

/**
 * fetch with the API key. A wrong or missing key is told as news, `key`, with what was wrong.
 * @throws Refusal, NoAnswer, AbortError: nobody wants to know any more
 */
export async function ask(address, { headers, signal, ...init } = {}) {
  const asked = session;
  const signals = signal ? [asked.signal, signal] : [asked.signal];
  const authorization = key === null ? {} : { authorization: `Bearer ${key}` };
  const options = { ...init, signal: AbortSignal.any(signals), headers: { ...headers, ...authorization } };
  let response;
  let problem;
  try {
    response = await fetch(address, options);
    if (!response.ok) problem = await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
  }
  if (!response || (!response.ok && problem?.detail === undefined)) {
    lost();
    throw new NoAnswer();
  }
  if (response.ok) return response;
  const refusal = new Refusal(response, problem);
  if (refusal.status === 401 && !asked.signal.aborted)
    news.dispatchEvent(new CustomEvent('key', { detail: key === null ? '' : refusal.message }));
  throw refusal;
}

/** The answer's JSON. @throws as ask */
export async function askJson(address, init) {
  const response = await ask(address, init);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    lost(); // it broke off
    throw new NoAnswer();
  }
}

/** What did not work, in words, or '' where that has been said already or nobody needs to know. */
export const inWords = (error) => (error.status === 401 || error.name === 'AbortError' ? '' : error.message);

/** Milliseconds between looks whether the API is back. */
const SHORTEST = 1000;
const LONGEST = 10_000;

/** Says so, once, and looks until it is back. */
async function lost() {
  if (isAway) return;
  isAway = true;
  for (let pause = SHORTEST; isAway; pause = Math.min(2 * pause, LONGEST)) {
    news.dispatchEvent(new CustomEvent('away', { detail: new NoAnswer().message }));
    await new Promise((resolve) => {
      setTimeout(resolve, pause);
      addEventListener('online', resolve, { once: true });
    });
    const answer = await fetch('/healthz').catch(() => undefined);
    isAway = !answer?.ok;
  }
  news.dispatchEvent(new CustomEvent('back'));
}

/** The key of this tab: in no other storage, and in no address. */
function storedKey() {
  try {
    return sessionStorage.getItem('api-key');
  } catch {
    return null; // a browser that stores nothing asks again after a reload
  }
}

/** Keeps the key that is in use, or forgets the one before. */
export function storeKey() {
  try {
    if (key === null) sessionStorage.removeItem('api-key');
    else sessionStorage.setItem('api-key', key);
  } catch {} // as above: it is then asked for after a reload
}

/** Takes this key for all that follows, null: none. What is under way with the one before ends. */
export function useKey(text) {
  session.abort();
  session = new AbortController();
  key = text;
}

export const hasKey = () => key !== null;
export const sessionSignal = () => session.signal;
