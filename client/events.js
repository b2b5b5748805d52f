// @ts-check
// Server-sent events by fetch: EventSource cannot send an API key. JavaScript, because the web page loads this module as it is.
import { sleep } from './sleep.js';

/** Pauses between connections double from the first to the second of these, in ms. An event resets them. */
const FIRST_PAUSE = 1000;
const MAX_PAUSE = 30_000;

/**
 * The data of each event of a stream. Where the stream breaks off, it is continued after the last event. The generator ends when the
 * server has no more events (204) and when `signal` is aborted.
 * @param {(headers: Record<string, string>) => Promise<{ status: number, body: ReadableStream<Uint8Array> | null }>} connect
 *   An error that it throws ends everything if its `retryable` is false. Else its `retryAfter`, seconds, is the shortest pause.
 * @param {{ onBreak: (error?: unknown) => void, signal: AbortSignal }} options onBreak is called before each pause
 * @returns {AsyncGenerator<string, void>}
 * @throws the error that is not retryable
 * @example
 * const connect = (headers) => fetch(`/status?id=${id}`, { headers });
 * for await (const data of followEvents(connect, { onBreak: console.warn, signal })) console.log(JSON.parse(data));
 */
export async function* followEvents(connect, { onBreak, signal }) {
  let lastId = '';
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    let minPause = 0;
    try {
      const response = await connect({ accept: 'text/event-stream', ...(lastId && { 'last-event-id': lastId }) });
      if (response.status === 204) return;
      for await (const { id = lastId, data } of readEvents(response.body)) {
        if (signal.aborted) return;
        lastId = id;
        pause = FIRST_PAUSE;
        yield data;
      }
      onBreak();
    } catch (error) {
      const { retryable, retryAfter = 0 } = /** @type {{ retryable?: boolean, retryAfter?: number }} */ (error);
      if (signal.aborted) return;
      if (retryable === false) throw error;
      minPause = 1000 * retryAfter;
      onBreak(error);
    }
    await sleep(Math.max(pause, minPause), signal).catch(() => undefined); // rejects only on abort, which ends the loop
    pause = Math.min(2 * pause, MAX_PAUSE);
  }
}

/**
 * The events of a text/event-stream body. One that breaks off in the middle is dropped.
 * @param {ReadableStream<Uint8Array> | null} body
 * @returns {AsyncGenerator<{ id: string | undefined, data: string }, void>}
 */
async function* readEvents(body) {
  if (!body) return;
  const decoder = /** @type {ReadableWritablePair<string, any>} */ (new TextDecoderStream());
  const reader = body.pipeThrough(decoder).getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split(/\r?\n\r?\n/);
      text = events.pop() ?? '';
      for (const { id, data } of events.map(parseFields)) if (data !== undefined) yield { id, data }; // else a heartbeat
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
