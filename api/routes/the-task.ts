import type { Context } from 'hono';
import { Problem } from '../problem.ts';
import { invalid } from '../read-body.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/store.ts';

/** The task that ?id= names. @throws Problem 404 there is none; 422 no id, or anything beside it */
export async function theTask(c: Context, { store }: Pick<Services, 'store'>): Promise<Task> {
  const { id, ...strays } = c.req.query();
  const errors = Object.keys(strays).map((field) => ({ field, message: 'unknown; did you mean id?' }));
  if (!id) errors.push({ field: 'id', message: 'must be the id of a task' });
  if (errors.length > 0) invalid(errors);
  const task = await store.get(id!);
  if (!task) throw new Problem(404, 'not_found', 'there is no such task');
  return task;
}
