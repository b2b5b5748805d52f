/** Follows a task by its events, reconnecting where they break off. */
import { isActive } from '../core/task-status.ts';
import { SECOND } from '../core/time.ts';
import { followEvents } from './events.js';
import { ApiError } from './http.ts';
import type { Task } from './types.ts';

/** The API sends something every 15 s, so a stream that is silent for longer than this has broken off. */
const IDLE_TIMEOUT = 45 * SECOND;

/** A task that can be followed: iterating gives its current state and each later one, until it ends. */
export interface FollowedTask extends AsyncIterable<Task> {
  readonly id: string;
  /** @returns the task when it has ended, with any status */
  done(): Promise<Task>;
}

interface FollowOptions {
  /** requests the events once, without retries */
  request: (init: { headers: Record<string, string>; signal: AbortSignal }) => Promise<Response>;
  /** milliseconds without success after which reconnecting ends */
  retryBudget: number;
  onBreak: (error?: unknown) => void;
  signal: AbortSignal | undefined;
}

/**
 * Iterating gives the task's current state and each later one, until it ends.
 * @throws ApiError when the API refuses the events, or cannot be reached within the retry budget; the signal's reason
 */
export function followTask(id: string, options: FollowOptions): FollowedTask {
  return {
    id,
    [Symbol.asyncIterator]: () => changes(options),
    async done() {
      let latest: Task | undefined;
      for await (const task of changes(options)) latest = task;
      return latest!;
    },
  };
}

async function* changes({ request, retryBudget, onBreak, signal: given }: FollowOptions): AsyncGenerator<Task, void> {
  const stop = new AbortController();
  const signal = given ? AbortSignal.any([given, stop.signal]) : stop.signal;
  let lastActivity = Date.now();
  const onActivity = () => {
    lastActivity = Date.now();
  };

  async function connect(headers: Record<string, string>) {
    try {
      const { status, body } = await request({ headers, signal });
      onActivity();
      return { status, body: body && withIdleTimeout(body, onActivity) };
    } catch (error) {
      if (error instanceof ApiError && Date.now() - lastActivity > retryBudget) error.retryable = false;
      throw error;
    }
  }

  try {
    for await (const data of followEvents(connect, { onBreak, signal })) {
      const task = JSON.parse(data) as Task;
      yield task;
      if (!isActive(task.status)) return;
    }
    given?.throwIfAborted();
  } finally {
    stop.abort(); // ends the connection
  }
}

/** A body that fails after IDLE_TIMEOUT without data: a network may go away without closing the connection. */
function withIdleTimeout(body: ReadableStream<Uint8Array>, onActivity: () => void): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  return new ReadableStream({
    async pull(controller) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const timeout = new Promise<never>((_, reject) => {
        timer = setTimeout(reject, IDLE_TIMEOUT, new Error(`no data for ${IDLE_TIMEOUT / SECOND} s`));
      });
      try {
        const { done, value } = await Promise.race([reader.read(), timeout]);
        if (done) return controller.close();
        onActivity();
        controller.enqueue(value);
      } catch (error) {
        reader.cancel(error).catch(() => {}); // it may be broken
        throw error;
      } finally {
        clearTimeout(timer);
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}
