// Server-sent events by fetch: unlike EventSource it can send an API key.

/** Pauses between attempts; milliseconds. Each is twice the one before, until something has been heard again. */
const SHORTEST = 1000;
const LONGEST = 30_000;

/**
 * Follows a stream of events, and takes it up again where it broke off.
 * @param connect `(headers) => Promise<Response>`. An error that it throws is worth another attempt unless `again` in it is false;
 *   `again.after` is the least pause before that, in seconds
 * @param onData told each event's data; what it returns says whether that was the last one
 * @param onBreak told why nothing comes for a while; nothing where the stream has just ended
 * @returns when the last event has come, the server has said that there is nothing more (204), or `signal` is aborted
 * @throws the error that is not worth another attempt
 */
export async function followEvents(connect, { onData, onBreak, signal }) {
  let last = '';
  let pause = SHORTEST;
  while (!signal.aborted) {
    let least = 0;
    try {
      const response = await connect({ accept: 'text/event-stream', ...(last && { 'last-event-id': last }) });
      if (response.status === 204) return;
      for await (const { id = last, data } of read(response.body)) {
        last = id;
        pause = SHORTEST;
        if (signal.aborted || onData(data)) return;
      }
      onBreak();
    } catch (error) {
      if (signal.aborted) return;
      if (error.again === false) throw error;
      least = 1000 * (error.again?.after ?? 0);
      onBreak(error);
    }
    await resting(Math.max(pause, least), signal);
    pause = Math.min(2 * pause, LONGEST);
  }
}

/** Ends early where the signal aborts. */
function resting(ms, signal) {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', over);
      resolve();
    };
    const timer = setTimeout(over, ms);
    signal.addEventListener('abort', over);
    if (signal.aborted) over();
  });
}

/** The events in a body of text/event-stream. What breaks off amid one is none. */
async function* read(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split(/\r?\n\r?\n/);
      text = events.pop();
      for (const event of events) {
        const { id, data } = fields(event);
        if (data !== undefined) yield { id, data }; // else it is a comment: the server is still there
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // it may be broken
  }
}

function fields(event) {
  const found = {};
  for (const line of event.split(/\r?\n/)) {
    const [, name, value] = /^([^:]+)(?:: ?(.*))?$/s.exec(line) ?? []; // a comment has nothing before the colon
    if (name) found[name] = name in found && name === 'data' ? `${found.data}\n${value ?? ''}` : (value ?? '');
  }
  return found;
}
