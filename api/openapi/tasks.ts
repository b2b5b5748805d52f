/** The paths about tasks: create, look, cancel, delete. */

import { STATUSES } from '../../core/responses.ts';
import { KEY } from '../http/idempotency.ts';
import { LONGEST_WAIT } from '../http/prefer.ts';
import { DRY_RUN } from '../routes/img2vid.ts';
import { LARGEST_PAGE, PAGE } from '../routes/list.ts';
import { TASK_ID } from '../tasks/id.ts';
import { type Examples, ID, REQUESTS } from './examples.ts';
import { examplesOf, header, json, list, ofTask, problem, query, ref, text, time } from './parts.ts';
import type { Keyed } from './refusals.ts';

export function taskPaths({ tasks, events, dryRun, problems }: Examples, keyed: Keyed) {
  const headers = {
    Location: { description: 'Where its status is', schema: text },
    'Idempotency-Replayed': {
      description: 'Only if an earlier request with this Idempotency-Key has made the task',
      schema: { const: 'true' },
    },
    'Preference-Applied': { description: 'Only after Prefer: wait=N, with the N that counted', schema: text },
  };
  const task = (examples: Record<string, unknown>) => ({
    description: 'The task',
    content: json(ref('Task'), examples),
  });
  const unlessThere = {
    ...keyed,
    404: problem('There is no such task', problems.noTask),
    422: problem('No id, or a query that is unknown', problems.id),
  };
  const { 'a prompt': simple } = REQUESTS;

  return {
    '/img2vid': {
      post: {
        operationId: 'img2vid',
        tags: ['tasks'],
        summary: 'Create a task',
        description:
          'Needs a prompt, an image_url, a picture (multipart only) or still_of. Every other parameter is optional.',
        parameters: [
          query(
            'dry_run',
            { type: 'string', enum: DRY_RUN },
            '1 or true: everything is checked as for a real post, and nothing is stored; the answer tells what the task would be',
          ),
          header(
            'Idempotency-Key',
            { type: 'string', minLength: 1, maxLength: 255, pattern: KEY.source },
            'A word of your own for this request: sent again with it within a day, the same request gives the same task',
          ),
          header(
            'Prefer',
            text,
            `wait=N: the answer may take up to N seconds, at most ${LONGEST_WAIT}, if the task may have ended by then (RFC 7240)`,
          ),
        ],
        requestBody: {
          required: true,
          content: {
            ...json(ref('Request'), REQUESTS),
            'application/x-www-form-urlencoded': {
              schema: ref('Request'),
              examples: examplesOf({ 'a prompt': simple }),
            },
            'multipart/form-data': {
              schema: ref('Upload'),
              examples: examplesOf({ 'a picture': { image: '(the file)', seed: 23 } }),
            },
          },
        },
        responses: {
          200: {
            description: 'The task, if it has ended within the time that Prefer gave it; with dry_run what it would be',
            headers,
            content: json(
              { oneOf: [ref('Task'), ref('DryRun')] },
              { 'with Prefer: wait, if it has ended': tasks.succeeded, 'with dry_run': dryRun },
            ),
          },
          202: {
            ...task({ created: tasks.queued }),
            headers,
            links: Object.fromEntries(
              ['status', 'cancel', 'delete'].map((operationId) => [
                operationId,
                { operationId, parameters: { id: '$response.body#/id' } },
              ]),
            ),
          },
          400: problem('The body can’t be read', problems.unreadable),
          ...keyed,
          402: problem('The API key’s budget does not hold what the task may cost', problems.budget),
          409: problem('The Idempotency-Key stands for another request', problems.idempotency),
          413: problem('The body or the picture is too large', problems.tooLarge),
          415: problem('Another content type', problems.type),
          422: problem(
            'Wrong values: every field with what is allowed; code image_rejected for a picture that is none',
            problems.fields,
            problems.picture,
            problems.bridge,
          ),
          429: {
            ...problem('Too many', problems.submissions, problems.open, problems.requests),
            headers: keyed[429].headers,
          },
          503: { ...problem('The task could not be stored', problems.notStored), headers: keyed[503].headers },
        },
      },
    },
    '/status': {
      get: {
        operationId: 'status',
        tags: ['tasks'],
        summary: 'One task, or all of them',
        description:
          'With `Accept: text/event-stream` and an id: an event `task` with the whole task at each change, until it ends.',
        parameters: [
          query('id', { type: 'string', minLength: 1 }, 'The task; without it, the list of all tasks, newest first'),
          query(
            'limit',
            { type: 'integer', minimum: 1, maximum: LARGEST_PAGE },
            `Of the list one page of so many tasks, ${PAGE} if only a cursor is given; the header Link has the next one's address`,
          ),
          query(
            'cursor',
            { type: 'string', pattern: TASK_ID.source },
            'Of the list what follows a page: taken from its Link',
          ),
          query('status', { type: 'string', enum: STATUSES }, 'Of the list the tasks with this status'),
          query('since', time, 'Of the list what was created at this time or later'),
          query('until', time, 'Of the list what was created before this time'),
        ],
        responses: {
          200: {
            description: 'The task, or the list',
            headers: {
              Link: {
                description: 'Of a page, if there is more: the address of the next, with rel="next"',
                schema: text,
              },
            },
            content: {
              ...json(
                { oneOf: [ref('Task'), list(ref('Task'))] },
                { ...tasks, 'the list': [tasks.running, tasks.succeeded] },
              ),
              'text/event-stream': { schema: text, example: events },
            },
          },
          204: { description: 'Events only: the task had ended before, nothing more will come' },
          ...keyed,
          404: problem('There is no such task', problems.noTask),
          422: problem('Every unknown, repeated or wrong value of the query, with what is allowed', problems.query),
        },
      },
    },
    '/cancel': {
      post: {
        operationId: 'cancel',
        tags: ['tasks'],
        summary: 'Cancel a task',
        description:
          'A queued task is canceled at once. Of a running one RunPod is asked; whichever comes first, its result or the cancellation, wins. Repeatable.',
        parameters: [ofTask(ID)],
        responses: {
          202: task({ 'it was queued': tasks.canceled, 'it runs': tasks.running }),
          409: problem('The task has succeeded or failed', problems.ended),
          ...unlessThere,
        },
      },
    },
    '/delete': {
      post: {
        operationId: 'delete',
        tags: ['tasks'],
        summary: 'Delete the files and the prompt of an ended task',
        description: 'What is left shows `expired_at` instead of links. Repeatable.',
        parameters: [ofTask(ID)],
        responses: {
          200: task({ 'what is left': tasks.deleted }),
          409: problem('The task has not ended', problems.notEnded),
          ...unlessThere,
          503: {
            ...problem('The bucket is away; the files are no longer shown, and will be deleted', problems.bucket),
            headers: keyed[503].headers,
          },
        },
      },
    },
  };
}
