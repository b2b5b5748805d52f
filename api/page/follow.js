// @ts-check
// Follows tasks until they end: by events, or by polling where enough are followed already or the page is hidden.
import { followEvents } from '../../client/events.js';
import { sleep } from '../../client/sleep.js';
import { errorText, RefusedError, request, requestJson, sessionSignal } from './api.js';
import { isActive } from './task.js';

/** @import { PresentedTask as Task } from '../../core/responses.ts' */

/** Tasks followed by events at a time: a browser has six connections to a server, for all its tabs. */
const MAX_STREAMS = 2;
const POLL_INTERVAL = 3000; // ms

/**
 * @param {object} options
 * @param {(id: string) => Task | undefined} options.getTask undefined: nobody follows it any more
 * @param {(task: Task) => void} options.onTask gets each new state
 * @param {(id: string, text: string) => void} options.onProblem '' : it is over
 * @param {(id: string) => void} options.onMissing the task does not exist any more
 */
export function createFollower({ getTask, onTask, onProblem, onMissing }) {
  /** @type {Set<string>} ids */
  let followed = new Set();
  let streams = 0;

  /** @param {string} id */
  function isFollowed(id) {
    const task = getTask(id);
    return task !== undefined && isActive(task);
  }

  /** @param {string} id */
  async function follow(id) {
    if (followed.has(id)) return;
    const own = followed.add(id); // `reset` replaces the set
    const session = sessionSignal();
    while (!session.aborted && isFollowed(id)) {
      try {
        if (streams < MAX_STREAMS && !document.hidden) await stream(id, session);
        else {
          await sleep(POLL_INTERVAL, session);
          onTask(await requestJson(`/status?id=${id}`));
        }
      } catch (error) {
        if (!(error instanceof RefusedError) || error.retryable) continue;
        if (error.status === 404) onMissing(id);
        else onProblem(id, errorText(error));
        break;
      }
    }
    own.delete(id);
  }

  /** Follows by events until the task ends or the page is hidden. @param {string} id @param {AbortSignal} session */
  async function stream(id, session) {
    const hidden = new AbortController();
    const onVisibility = () => document.hidden && hidden.abort();
    document.addEventListener('visibilitychange', onVisibility);
    streams++;
    try {
      const signal = AbortSignal.any([hidden.signal, session]);
      const updates = followEvents((headers) => request(`/status?id=${id}`, { headers, signal }), {
        onBreak: (error) => onProblem(id, error instanceof RefusedError ? errorText(error) : ''), // outages: see api.js
        signal,
      });
      for await (const data of updates) {
        onTask(JSON.parse(data));
        if (!isFollowed(id)) break;
      }
    } finally {
      streams--;
      document.removeEventListener('visibilitychange', onVisibility);
    }
  }

  return {
    follow,
    /** Forgets all tasks. Those followed until now end by themselves; the same ids can be followed again. */
    reset() {
      followed = new Set();
    },
  };
}
