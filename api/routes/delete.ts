import { Hono } from 'hono';
import { isActive } from '../../core/responses.ts';
import { Problem } from '../http/problem.ts';
import type { Services } from '../services.ts';
import { presentTask } from '../tasks/present.ts';
import { requireOwnTask } from './require-own-task.ts';

/** POST /delete?id=: the pictures, videos and prompt of an ended task are gone; that there was one stays. Repeatable. */
export function remove(services: Services) {
  const { config, bucket, lifecycle, now } = services;
  return new Hono().post('/delete', async (c) => {
    const task = await requireOwnTask(c, services);
    if (isActive(task.status))
      throw new Problem(409, 'not_ended', `the task is ${task.status}: cancel it first, or wait for its end`);
    return c.json(await presentTask(await lifecycle.expire(task), { bucket, linkSeconds: config.linkSeconds, now }));
  });
}
