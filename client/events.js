// @ts-check
// Server-sent events by fetch: EventSource cannot send an API key. JavaScript, because the web page loads this module as it is.
import { sleep } from './sleep.js';

/** Pauses between connections double from the first to the second of these, in ms; data resets them. */
const FIRST_PAUSE = 1000;
const MAX_PAUSE = 30_000;

/**
 * Follows a stream of events, and reconnects after the last event where it breaks off. Resolves after the last event, when the server
 * has no more of them (204), and when `signal` is aborted.
 * @param {(headers: Record<string, string>) => Promise<{ status: number, body: ReadableStream<Uint8Array> | null }>} connect
 *   An error that it throws ends everything if its `retryable` is false. Else its `retryAfter`, seconds, is the shortest pause.
 * @param {object} options
 * @param {(data: string) => boolean} options.onData gets each event's data; returns whether this was the last event
 * @param {(error?: unknown) => void} options.onBreak called before each pause, with the error if there is one
 * @param {AbortSignal} options.signal
 * @throws the error that is not retryable
 * @example
 * await followEvents((headers) => fetch(`/status?id=${id}`, { headers }), {
 *   onData: (data) => JSON.parse(data).finished_at !== undefined,
 *   onBreak: () => console.warn('reconnecting'),
 *   signal: AbortSignal.timeout(60_000),
 * });
 */
export async function followEvents(connect, { onData, onBreak, signal }) {
  let lastId = '';
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    let minPause = 0;
    try {
      const response = await connect({ accept: 'text/event-stream', ...(lastId && { 'last-event-id': lastId }) });
      if (response.status === 204) return;
      for await (const { id = lastId, data } of readEvents(response.body)) {
        lastId = id;
        pause = FIRST_PAUSE;
        if (signal.aborted || onData(data)) return;
      }
      onBreak();
    } catch (error) {
      const { retryable, retryAfter = 0 } = /** @type {{ retryable?: boolean, retryAfter?: number }} */ (error);
      if (signal.aborted) return;
      if (retryable === false) throw error;
      minPause = 1000 * retryAfter;
      onBreak(error);
    }
    await sleep(Math.max(pause, minPause), signal).catch(() => undefined); // only rejects on abort, which ends the loop
    pause = Math.min(2 * pause, MAX_PAUSE);
  }
}

/**
 * The events of a text/event-stream body. An event that breaks off in the middle is dropped.
 * @param {ReadableStream<Uint8Array> | null} body
 * @returns {AsyncGenerator<{ id: string | undefined, data: string }, void>}
 */
async function* readEvents(body) {
  if (!body) return;
  const reader = body
    .pipeThrough(/** @type {ReadableWritablePair<string, any>} */ (new TextDecoderStream()))
    .getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split(/\r?\n\r?\n/);
      text = events.pop() ?? '';
      for (const { id, data } of events.map(parseFields)) if (data !== undefined) yield { id, data }; // else a comment, sent to keep the connection
    }
  } finally {
    reader.cancel().catch(() => undefined); // it may be broken
  }
}

/**
 * @param {string} event
 * @returns {Record<string, string | undefined>} fields by name; lines of `data` are joined
 */
function parseFields(event) {
  /** @type {Record<string, string | undefined>} */
  const fields = {};
  for (const line of event.split(/\r?\n/)) {
    const [, name, value = ''] = /^([^:]+)(?:: ?(.*))?$/s.exec(line) ?? []; // a comment has nothing before the colon
    if (name) fields[name] = name === 'data' && fields.data !== undefined ? `${fields.data}\n${value}` : value;
  }
  return fields;
}
