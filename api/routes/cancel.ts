import { endpoint } from '../http/endpoint.ts';
import { Problem } from '../http/problem.ts';
import { jsonResponse } from '../openapi/parts.ts';
import { requireOwnTask, TASK_ERRORS, TASK_QUERY } from './require-own-task.ts';

const alreadyEnded = (status: string) =>
  new Problem('ended', `there is nothing left to cancel: the task has ${status}`);

export const cancel = endpoint({
  method: 'POST',
  path: '/cancel',
  scope: 'submit',
  query: TASK_QUERY,
  describe: ({ tasks }) => ({
    operationId: 'cancel',
    tags: ['tasks'],
    summary: 'Cancel a task',
    description:
      'A queued task is canceled at once. For a running one the service asks RunPod; its result may still come first. GPU time that has begun is charged, and a still that a bridge has accepted. Repeatable.',
    responses: {
      202: jsonResponse('The task', 'Task', { 'it was queued': tasks.canceled, 'it runs': tasks.running }),
    },
    errors: [...TASK_ERRORS, alreadyEnded('succeeded')],
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const task = await services.lifecycle.cancel(await requireOwnTask(c, services, id));
      if (task.status === 'succeeded' || task.status === 'failed') throw alreadyEnded(task.status);
      return c.json(await services.presentTask(task), 202);
    },
});
