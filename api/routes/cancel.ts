import type { Context } from 'hono';
import { endpoint } from '../http/endpoint.ts';
import { Problem } from '../http/problem.ts';
import { jsonResponse } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/task.ts';
import { requireOwnTask, TASK_ERRORS, TASK_QUERY } from './require-own-task.ts';

const alreadyEnded = (status: string) => new Problem('ended', `the task has already ended: ${status}`);

/** Cancels a task. @throws Problem 404 there is no such task, 409 it has ended */
export async function cancelTask(c: Context, services: Services, id: string): Promise<Task> {
  const task = await services.lifecycle.cancel(await requireOwnTask(c, services, id));
  if (task.status === 'succeeded' || task.status === 'failed') throw alreadyEnded(task.status);
  return task;
}

export const cancel = endpoint({
  method: 'POST',
  path: '/cancel',
  alias: { method: 'POST', path: '/tasks/:id/cancel', operationId: 'cancelTask' },
  scope: 'submit',
  query: TASK_QUERY,
  describe: ({ tasks }) => ({
    operationId: 'cancel',
    tags: ['tasks'],
    summary: 'Cancel a task',
    description:
      'A queued task is canceled at once. A running task ends when RunPod has canceled its job, and may still succeed before. The cost includes the GPU time so far, and the still if a bridge has accepted the prompt. The request can be repeated.',
    responses: {
      202: jsonResponse('The task', 'Task', { 'it was queued': tasks.canceled, 'it was running': tasks.running }),
    },
    errors: [...TASK_ERRORS, alreadyEnded('succeeded')],
  }),
  handle:
    (services) =>
    async (c, { id }) =>
      c.json(await services.presentTask(await cancelTask(c, services, id)), 202),
});
