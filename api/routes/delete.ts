import { isActive } from '../../core/task-status.ts';
import { endpoint } from '../http/endpoint.ts';
import { bucketUnavailable, Problem } from '../http/problem.ts';
import { jsonResponse } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/task.ts';
import { requireOwnTask, TASK_ERRORS, TASK_QUERY } from './require-own-task.ts';

export const notEnded = (status: string) =>
  new Problem('not_ended', `the task is ${status}: cancel it first (POST /cancel?id=ID), or wait for its end`);

/** Deletes the files and the prompt of a task. @throws Problem 409 it has not ended */
export async function expireTask({ lifecycle }: Pick<Services, 'lifecycle'>, task: Task): Promise<Task> {
  if (isActive(task.status)) throw notEnded(task.status);
  return lifecycle.expire(task);
}

export const deleteTask = endpoint({
  method: 'POST',
  path: '/delete',
  alias: { method: 'DELETE', path: '/tasks/:id', operationId: 'deleteTask' },
  scope: 'submit',
  query: TASK_QUERY,
  describe: ({ tasks }) => ({
    operationId: 'delete',
    tags: ['tasks'],
    summary: 'Delete the files and the prompt of an ended task',
    description:
      'The task remains, with `expired_at` instead of links. If the bucket is unavailable, the files are hidden now and deleted later. The request can be repeated.',
    responses: {
      200: jsonResponse('The task', 'Task', { 'without its files': tasks.deleted }),
    },
    errors: [...TASK_ERRORS, notEnded('running'), bucketUnavailable()],
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const task = await requireOwnTask(c, services, id);
      return c.json(await services.presentTask(await expireTask(services, task)));
    },
});
