import { Hono } from 'hono';
import * as v from 'valibot';
import { SECOND } from '../../core/time.ts';
import { Problem } from '../http/problem.ts';
import type { Services } from '../services.ts';

/** What is used of RunPod's message: which job it is about. */
const message = v.object({ id: v.pipe(v.string(), v.regex(/^[\w-]{1,100}$/)) });

/**
 * POST /runpod/callback/TOKEN: RunPod says that a job has ended. It signs nothing, so its word is not believed: it only makes us look,
 * at most once a second a task. A job that the task does not know is looked up at RunPod.
 */
export function callback({ store, lifecycle, now }: Services) {
  const recent = new Map<string, number>(); // task id → when a callback last made us look

  return new Hono().post('/runpod/callback/:token', async (c) => {
    const task = await store.findByCallbackToken(c.req.param('token'));
    if (!task) throw new Problem(404, 'not_found', 'there is no such task');
    const body = v.safeParse(message, await c.req.json().catch(() => undefined)); // anything else still makes us look
    for (const [id, at] of recent) if (now() - at > SECOND) recent.delete(id);
    if (!recent.has(task.id)) {
      recent.set(task.id, now());
      lifecycle.onCallback(task, body.success ? body.output.id : undefined);
    }
    return c.body(null, 200);
  });
}
