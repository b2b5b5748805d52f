/** The query parameter `id`, and the task that it names. */
import type { Context } from 'hono';
import * as v from 'valibot';
import { invalidInput, Problem } from '../http/problem.ts';
import { TASK_ID_EXAMPLE } from '../openapi/examples.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/task.ts';
import { idParameter } from '../tasks/id.ts';

const message = 'must be the id of a task';

export const TASK_QUERY = v.object({
  id: v.pipe(idParameter(message), v.metadata({ description: 'Id of the task', examples: [TASK_ID_EXAMPLE] })),
});

export const noSuchTask = () => new Problem('not_found', 'there is no such task');

export const TASK_ERRORS = [noSuchTask(), invalidInput([{ field: 'id', message }])];

/** @returns the task with this id, if it belongs to the request's API key. @throws Problem 404 */
export async function requireOwnTask(c: Context, { store }: Pick<Services, 'store'>, id: string): Promise<Task> {
  const task = await store.getOwn(c.get('key').id, id);
  if (!task) throw noSuchTask();
  return task;
}
