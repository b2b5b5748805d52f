/** Tasks by paths of their own. They do the same as `/status`; creating, canceling and deleting are aliases of their endpoints. */
import * as v from 'valibot';
import { endpoint } from '../http/endpoint.ts';
import { invalidInput } from '../http/problem.ts';
import { json, list, ref } from '../openapi/parts.ts';
import { LIST_QUERY, PAGE_HEADERS, respondWithList } from './list.ts';
import { TASK_ERRORS, TASK_QUERY } from './require-own-task.ts';
import { eventStream, respondWithEvents, respondWithTask } from './status.ts';

export const listTasks = endpoint({
  method: 'GET',
  path: '/tasks',
  scope: 'read',
  query: v.object(LIST_QUERY),
  describe: ({ tasks }) => ({
    operationId: 'listTasks',
    tags: ['tasks'],
    summary: 'List all tasks, newest first',
    description: 'The same as `GET /status` without `id`. With `limit` or `cursor` the answer is a page of the list.',
    responses: {
      200: {
        description: 'The list',
        headers: PAGE_HEADERS,
        content: json(list(ref('Task')), { 'two tasks': [tasks.running, tasks.succeeded] }),
      },
    },
    errors: [invalidInput([{ field: 'limt', message: 'unknown; did you mean limit?' }])],
  }),
  handle: (services) => (c, query) => respondWithList(c, services, c.get('key').id, query),
});

export const getTask = endpoint({
  method: 'GET',
  path: '/tasks/:id',
  scope: 'read',
  query: TASK_QUERY,
  describe: ({ tasks }) => ({
    operationId: 'getTask',
    tags: ['tasks'],
    summary: 'Get one task',
    description: 'The same as `GET /status?id=`, also with `Accept: text/event-stream`.',
    responses: {
      200: { description: 'The task', content: { ...json(ref('Task'), tasks), ...eventStream(tasks) } },
      204: { description: 'Events only: the task has ended, and no more events follow' },
    },
    errors: TASK_ERRORS,
  }),
  handle:
    (services) =>
    (c, { id }) =>
      respondWithTask(c, services, id),
});

export const taskEvents = endpoint({
  method: 'GET',
  path: '/tasks/:id/events',
  scope: 'read',
  query: TASK_QUERY,
  describe: ({ tasks }) => ({
    operationId: 'taskEvents',
    tags: ['tasks'],
    summary: 'Follow a task by events',
    description: 'The events of `GET /status?id=`, with any `Accept`.',
    responses: {
      200: { description: 'The whole task at each change, until it ends', content: eventStream(tasks) },
      204: { description: 'The task has ended, and no more events follow' },
    },
    errors: TASK_ERRORS,
  }),
  handle:
    (services) =>
    (c, { id }) =>
      respondWithEvents(c, services, id),
});
