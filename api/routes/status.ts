import { Hono } from 'hono';
import { streamSSE } from 'hono/streaming';
import * as v from 'valibot';
import { isActive } from '../../core/responses.ts';
import { Problem } from '../http/problem.ts';
import { invalid } from '../http/read-body.ts';
import { readQuery } from '../http/read-query.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/task.ts';
import { follow } from '../tasks/follow.ts';
import { presentTask } from '../tasks/present.ts';
import { LIST_QUERY, listOf } from './list.ts';

const QUERY = v.object({
  id: v.optional(v.pipe(v.string(), v.nonEmpty('must be the id of a task'))),
  ...LIST_QUERY,
});

/** GET /status: one task, its changes as they come, or the list. */
export function status(services: Services) {
  const { config, store, bucket, lifecycle, stopping, now } = services;
  const list = listOf(services);
  const shown = (task: Task) => presentTask(task, { bucket, linkSeconds: config.linkSeconds, now });

  return new Hono().get('/status', async (c) => {
    const owner = c.get('key').id;
    const { id, ...query } = readQuery(c, QUERY);
    if (id === undefined) return list(c, owner, query);
    const strays = Object.keys(query);
    if (strays.length > 0) invalid(strays.map((field) => ({ field, message: 'only for the list, which has no id' })));

    const task = await store.getOwn(owner, id);
    if (!task) throw new Problem(404, 'not_found', 'there is no such task');
    const wantsEvents = c.req.method === 'GET' && (c.req.header('accept') ?? '').includes('text/event-stream');
    if (!wantsEvents) {
      lifecycle.watch(task);
      return c.json(await shown(task));
    }
    if (!isActive(task.status) && c.req.header('last-event-id') === String(task.version)) return c.body(null, 204); // nothing more will come
    const broken = (error: unknown) => c.get('log').error({ error }, 'the events broke off'); // the caller will reconnect
    return streamSSE(c, (stream) => {
      c.header('cache-control', 'no-store'); // instead of streamSSE's own: there are links in events
      c.header('x-accel-buffering', 'no'); // nginx would keep them back
      return events(owner, task, stream).catch(broken);
    });
  });

  /** The task at once and at each change, until it ends or the process stops. */
  async function events(owner: string, task: Task, stream: Parameters<Parameters<typeof streamSSE>[1]>[0]) {
    const gone = new AbortController();
    stream.onAbort(() => gone.abort());
    for await (const changed of follow(owner, task, services, [gone.signal, stopping])) {
      if (!changed) await stream.write(': still here\n\n');
      else {
        const data = JSON.stringify(await shown(changed));
        await stream.writeSSE({ event: 'task', id: String(changed.version), data });
      }
    }
  }
}
