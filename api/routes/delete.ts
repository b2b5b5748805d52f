import { isActive } from '../../core/responses.ts';
import { endpoint } from '../http/endpoint.ts';
import { bucketUnavailable, Problem } from '../http/problem.ts';
import { jsonResponse, problem, retryLater } from '../openapi/parts.ts';
import { requireOwnTask, TASK_QUERY, TASK_REFUSALS } from './require-own-task.ts';

const notEnded = (status: string) =>
  new Problem(409, 'not_ended', `the task is ${status}: cancel it first, or wait for its end`);

export const deleteTask = endpoint({
  method: 'POST',
  path: '/delete',
  scope: 'submit',
  query: TASK_QUERY,
  describe: ({ tasks }) => ({
    operationId: 'delete',
    tags: ['tasks'],
    summary: 'Delete the files and the prompt of an ended task',
    description: 'The task remains, with `expired_at` instead of links. Repeatable.',
    responses: {
      ...TASK_REFUSALS,
      200: jsonResponse('The task', 'Task', { 'what is left': tasks.deleted }),
      409: problem('The task has not ended', notEnded('running')),
      503: retryLater(
        'The bucket is unavailable; the files are no longer shown, and will be deleted',
        bucketUnavailable(),
      ),
    },
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const task = await requireOwnTask(c, services, id);
      if (isActive(task.status)) throw notEnded(task.status);
      return c.json(await services.presentTask(await services.lifecycle.expire(task)));
    },
});
