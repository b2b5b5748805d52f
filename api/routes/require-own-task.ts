import type { Context } from 'hono';
import * as v from 'valibot';
import { Problem } from '../http/problem.ts';
import { readQuery } from '../http/read-query.ts';
import type { Services } from '../services.ts';
import type { Task } from '../store/task.ts';

const anId = 'must be the id of a task';
const QUERY = v.object({ id: v.pipe(v.string(anId), v.nonEmpty(anId)) });

/** @returns the task of the request's owner with the id in `?id=`. @throws Problem 404 no such task; 422 no id, or another parameter */
export async function requireOwnTask(c: Context, { store }: Pick<Services, 'store'>): Promise<Task> {
  const task = await store.getOwn(c.get('key').id, readQuery(c, QUERY).id);
  if (!task) throw new Problem(404, 'not_found', 'there is no such task');
  return task;
}
