import { Hono } from 'hono';
import { streamSSE } from 'hono/streaming';
import { breakOff } from '../break-off.ts';
import { Problem } from '../problem.ts';
import { invalid } from '../read-body.ts';
import type { Services } from '../services.ts';
import { isOpen, type Task } from '../store/store.ts';
import { present } from '../tasks/present.ts';

const PAGE = 100; // tasks read from the store at a time
const SECOND = 1000;
const KEEP_ALIVE = 15 * SECOND;

/** GET /status: one task, its changes as they come, or all tasks. */
export function status({ config, store, bucket, lifecycle, stopping, now }: Services) {
  const shown = (task: Task) => present(task, { bucket, linkSeconds: config.linkSeconds, now });

  return new Hono().get('/status', async (c) => {
    const { id, ...unknown } = c.req.query();
    const strays = Object.keys(unknown);
    if (strays.length > 0) invalid(strays.map((field) => ({ field, message: 'unknown; did you mean id?' })));
    if (id === undefined) return c.body(breakOff(c, listOfAll()), 200, { 'content-type': 'application/json' });
    if (id === '') invalid([{ field: 'id', message: 'must be the id of a task' }]);

    const task = await store.get(id);
    if (!task) throw new Problem(404, 'not_found', 'there is no such task');
    const wantsEvents = c.req.method === 'GET' && (c.req.header('accept') ?? '').includes('text/event-stream');
    if (!wantsEvents) {
      lifecycle.watch(task);
      return c.json(await shown(task));
    }
    if (!isOpen(task.status) && c.req.header('last-event-id') === String(task.version)) return c.body(null, 204); // nothing more will come
    const broken = (error: unknown) => c.get('log').error({ error }, 'the events broke off'); // the caller will reconnect
    return streamSSE(c, (stream) => {
      c.header('cache-control', 'no-store'); // instead of streamSSE's own: there are links in events
      c.header('x-accel-buffering', 'no'); // nginx would keep them back
      return events(task, stream).catch(broken);
    });
  });

  /** The task at once and at each change, until it ends or the process stops; coalesced for a slow reader. */
  async function events(task: Task, stream: Parameters<Parameters<typeof streamSSE>[1]>[0]) {
    let latest: Task | undefined = task;
    let current = task;
    let wake = () => {};
    const forget = lifecycle.onChange(task.id, (changed) => {
      if (changed.version <= current.version) return; // it was read from the store already
      latest = changed;
      wake();
    });
    const stop = () => wake();
    stream.onAbort(stop);
    stopping.addEventListener('abort', stop);
    try {
      // A change between the reading of the task and the listening would go unseen: read it again.
      latest = (await store.get(task.id)) ?? task;
      while (!stream.aborted && !stopping.aborted) {
        if (latest) {
          current = latest;
          latest = undefined;
          await stream.writeSSE({
            event: 'task',
            id: String(current.version),
            data: JSON.stringify(await shown(current)),
          });
          if (!isOpen(current.status)) return;
          continue;
        }
        lifecycle.watch(current);
        const timedOut = await new Promise<boolean>((resolve) => {
          const timer = setTimeout(resolve, KEEP_ALIVE, true);
          wake = () => {
            clearTimeout(timer);
            resolve(false);
          };
        });
        if (timedOut) await stream.write(': still here\n\n');
      }
    } finally {
      forget();
      stopping.removeEventListener('abort', stop);
    }
  }

  /** Newest first, a page in memory at a time: each page begins below the last id of the one before. */
  function listOfAll(): ReadableStream<Uint8Array> {
    const encoder = new TextEncoder();
    let before: string | undefined;
    return new ReadableStream({
      async pull(controller) {
        const tasks = await store.list({ before, limit: PAGE });
        const texts = await Promise.all(tasks.map(async (task) => JSON.stringify(await shown(task))));
        const opening = before === undefined ? '[' : texts.length > 0 ? ',' : '';
        const isLast = tasks.length < PAGE;
        controller.enqueue(encoder.encode(opening + texts.join(',') + (isLast ? ']' : '')));
        if (isLast) controller.close();
        else before = tasks.at(-1)!.id;
      },
    });
  }
}
