import { Hono } from 'hono';
import { Problem } from '../problem.ts';
import type { Services } from '../services.ts';

const SECOND = 1000;

/**
 * POST /runpod/callback/TOKEN: RunPod says that a job has ended. It signs nothing, so its word is not believed: it only makes us look,
 * at most once a second a task.
 */
export function callback({ store, lifecycle, now }: Services) {
  const recent = new Map<string, number>(); // task id → when a callback last made us look

  return new Hono().post('/runpod/callback/:token', async (c) => {
    const task = await store.byCallbackToken(c.req.param('token'));
    if (!task) throw new Problem(404, 'not_found', 'there is no such task');
    for (const [id, at] of recent) if (now() - at > SECOND) recent.delete(id);
    if (!recent.has(task.id)) {
      recent.set(task.id, now());
      lifecycle.wake(task.id);
    }
    return c.body(null, 200);
  });
}
