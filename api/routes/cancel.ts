import { Hono } from 'hono';
import { Problem } from '../http/problem.ts';
import type { Services } from '../services.ts';
import { presentTask } from '../tasks/present.ts';
import { requireOwnTask } from './require-own-task.ts';

/** POST /cancel?id=: a queued task is canceled at once; of a running one RunPod is asked, and its result may still come first. */
export function cancel(services: Services) {
  const { config, bucket, lifecycle, now } = services;
  return new Hono().post('/cancel', async (c) => {
    const task = await lifecycle.cancel(await requireOwnTask(c, services));
    if (task.status === 'succeeded' || task.status === 'failed')
      throw new Problem(409, 'ended', `there is nothing left to cancel: the task has ${task.status}`);
    return c.json(await presentTask(task, { bucket, linkSeconds: config.linkSeconds, now }), 202);
  });
}
