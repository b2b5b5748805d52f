import type { Context } from 'hono';
import { type SSEStreamingApi, streamSSE } from 'hono/streaming';
import * as v from 'valibot';
import type { PresentedTask } from '../../core/responses.ts';
import { isActive } from '../../core/task-status.ts';
import { endpoint } from '../http/endpoint.ts';
import { prefers } from '../http/prefers.ts';
import { invalidInput } from '../http/problem.ts';
import { type DocumentContext, json, list, ref } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { PublicTask } from '../store/task.ts';
import { follow } from '../tasks/follow.ts';
import { idParameter } from '../tasks/id.ts';
import { LIST_QUERY, PAGE_HEADERS, respondWithList } from './list.ts';
import { noSuchTask } from './require-own-task.ts';

export const status = endpoint({
  method: 'GET',
  path: '/status',
  scope: 'read',
  query: v.object({
    id: v.optional(
      v.pipe(
        idParameter('must be the id of a task'),
        v.description('Id of a task; without it, the list of all tasks, newest first'),
      ),
    ),
    ...LIST_QUERY,
  }),
  describe: ({ tasks }) => ({
    operationId: 'status',
    tags: ['tasks'],
    summary: 'Get one task, or list all tasks',
    description:
      'With `id` and `Accept: text/event-stream`, the response is a stream. It sends the whole task as an event `task` at each change, until the task ends. All other parameters are for the list. With `limit` or `cursor` the answer is a page of the list.',
    responses: {
      200: {
        description: 'The task, or the list',
        headers: PAGE_HEADERS,
        content: {
          ...json(
            { oneOf: [ref('Task'), list(ref('Task'))] },
            { ...tasks, 'the list': [tasks.running, tasks.succeeded] },
          ),
          ...eventStream(tasks),
        },
      },
      204: { description: 'Events only: the task has ended, and no more events follow' },
    },
    errors: [noSuchTask(), invalidInput([{ field: 'limt', message: 'unknown; did you mean limit?' }])],
  }),
  handle:
    (services) =>
    (c, { id, ...query }) => {
      if (id === undefined) return respondWithList(c, services, c.get('key').id, query);
      const listOnly = Object.keys(query);
      if (listOnly.length > 0)
        throw invalidInput(listOnly.map((field) => ({ field, message: 'is only for the list; send it without id' })));
      return respondWithTask(c, services, id);
    },
});

/** Responds with a task, or with its events if the request prefers them. @throws Problem 404 */
export async function respondWithTask(c: Context, services: Services, id: string): Promise<Response> {
  if (c.req.method === 'GET' && prefers(c, 'Accept', 'text/event-stream', 'application/json'))
    return respondWithEvents(c, services, id);
  const task = await requirePublicTask(c, services, id);
  services.lifecycle.watch(task);
  return c.json(await services.presentTask(task));
}

/** Responds with the events of a task: a stream, or 204 if the client has seen the last one. @throws Problem 404 */
export async function respondWithEvents(c: Context, services: Services, id: string): Promise<Response> {
  const task = await requirePublicTask(c, services, id);
  if (c.req.method === 'HEAD') return c.body(null, 200, { 'content-type': 'text/event-stream' });
  const hasSeenEnd = !isActive(task.status) && c.req.header('last-event-id') === eventId(task);
  if (hasSeenEnd) return c.body(null, 204);
  return streamSSE(c, (stream) => {
    c.header('cache-control', 'no-store'); // instead of streamSSE's own: events contain links
    c.header('x-accel-buffering', 'no'); // nginx would buffer them
    return writeEvents(services, c.get('key').id, task, stream, c.get('isAdmitted')).catch(
      (error) => c.get('log').error({ error }, 'event stream failed'), // the client reconnects
    );
  });
}

/** The task of the request's key. @throws Problem 404 */
export async function requirePublicTask(c: Context, { store }: Services, id: string): Promise<PublicTask> {
  const task = await store.getPublic(c.get('key').id, id);
  if (!task) throw noSuchTask();
  return task;
}

/** Writes the task now and at each change, until it ends, the key is revoked or the process stops. */
async function writeEvents(
  services: Services,
  owner: string,
  task: PublicTask,
  stream: SSEStreamingApi,
  isAdmitted: () => Promise<boolean>,
): Promise<void> {
  const disconnected = new AbortController();
  stream.onAbort(() => disconnected.abort());
  for await (const changed of follow(owner, task, services, [disconnected.signal, services.stopping], isAdmitted)) {
    if (!changed) await stream.write(': still here\n\n');
    else {
      const data = JSON.stringify(await services.presentTask(changed));
      await stream.writeSSE({ event: 'task', id: eventId(changed), data });
    }
  }
}

/** Rises with each change. That of an ended task stays, although a late callback or its expiry still raises the task's version. */
const eventId = ({ version, finished_at }: PublicTask) => String(finished_at ?? version);

/** The events of a task, for the OpenAPI document. */
export const eventStream = ({ running, succeeded }: DocumentContext['tasks']) => ({
  'text/event-stream': {
    // without a schema: OpenAPI 3.1 has none for a stream, and readers apply it to each event
    example: exampleEvent(running, 7) + exampleEvent(succeeded, Date.parse(succeeded.finished_at)),
  },
});

const exampleEvent = (task: PresentedTask, version: number) =>
  `event: task\ndata: ${JSON.stringify(task)}\nid: ${version}\n\n`;
