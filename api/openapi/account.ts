/** The paths about an API key's account and its webhooks, and what is POSTed to those. */
import { LARGEST_PAGE, PAGE } from '../routes/list.ts';
import { DELIVERY_STATUSES } from '../store/delivery.ts';
import { TASK_ID } from '../tasks/id.ts';
import type { Examples } from './examples.ts';
import { day, json, list, ofTask, problem, query, ref, text, uri } from './parts.ts';
import type { Keyed } from './refusals.ts';

export function accountPaths({ usage, noBudget, deliveries, problems }: Examples, keyed: Keyed) {
  const delivery = (examples: Record<string, unknown>) => ({
    description: 'The delivery',
    content: json(ref('Delivery'), examples),
  });
  return {
    '/usage': {
      get: {
        operationId: 'usage',
        tags: ['account'],
        summary: 'What the API key has spent, and may still spend',
        description:
          'By the day, UTC, on which tasks ended: this month’s, or those from `since` to `until`, both included. Amounts are in millionths of the currency.',
        parameters: ['since', 'until'].map((name) => query(name, day, 'A day')),
        responses: {
          200: {
            description: 'The account',
            content: json(ref('Usage'), { 'with a budget': usage, 'without any limit': noBudget }),
          },
          ...keyed,
          422: problem('A wrong day, or a query that is unknown', problems.day),
        },
      },
    },
    '/webhooks/deliveries': {
      get: {
        operationId: 'deliveries',
        tags: ['webhooks'],
        summary: 'What the API key’s webhooks were told, newest first',
        parameters: [
          query('id', { type: 'string', pattern: TASK_ID.source }, 'This one alone'),
          query('task', { type: 'string', pattern: TASK_ID.source }, 'Those of this task'),
          query('status', { type: 'string', enum: DELIVERY_STATUSES }, 'Those with this status'),
          query('limit', { type: 'integer', minimum: 1, maximum: LARGEST_PAGE }, `So many, ${PAGE} if it is not said`),
          query('cursor', { type: 'string', pattern: TASK_ID.source }, 'What follows a page: taken from its Link'),
        ],
        responses: {
          200: {
            description: 'The deliveries',
            headers: { Link: { description: 'If there are more: the address of the next page', schema: text } },
            content: json(list(ref('Delivery')), { 'two deliveries': [deliveries.pending, deliveries.delivered] }),
          },
          ...keyed,
          404: problem('There is no delivery with this id', problems.noDelivery),
          422: problem('Every unknown, repeated or wrong value of the query', problems.query),
        },
      },
    },
    '/webhooks/replay': {
      post: {
        operationId: 'replay',
        tags: ['webhooks'],
        summary: 'Send a delivery again, under the same id',
        description: 'Also to a receiver that has answered 410: what is still to come is sent there again, too.',
        parameters: [{ ...ofTask(deliveries.pending.id), description: 'The delivery' }],
        responses: {
          202: delivery({ 'it is sent again': deliveries.pending }),
          ...keyed,
          404: problem('There is no such delivery', problems.noDelivery),
          422: problem('No id, or a query that is unknown', problems.id),
        },
      },
    },
    '/webhooks/test': {
      post: {
        operationId: 'test',
        tags: ['webhooks'],
        summary: 'Send an event webhook.test, once',
        description: 'GET /webhooks/deliveries?id= tells how it went.',
        parameters: [{ ...query('webhook_url', uri, 'Where to'), required: true, example: deliveries.pending.url }],
        responses: {
          202: delivery({ 'it will be sent': deliveries.test }),
          ...keyed,
          422: problem('No address, or one that is not allowed', problems.hook),
        },
      },
    },
  };
}

/** What receivers hear. */
export const announcements = ({ tasks }: Examples) => ({
  task: {
    post: {
      operationId: 'announcement',
      tags: ['webhooks'],
      summary: 'How a task has ended',
      description:
        'Signed as Standard Webhooks says, in the headers webhook-id, webhook-timestamp and webhook-signature. Anything but an answer of 2xx within 20 s is tried again, ten times in all.',
      requestBody: {
        required: true,
        content: json(ref('Event'), {
          succeeded: { type: 'task.succeeded', timestamp: tasks.succeeded.finished_at, data: tasks.succeeded },
          failed: { type: 'task.failed', timestamp: tasks.failed.finished_at, data: tasks.failed },
          'a test': {
            type: 'webhook.test',
            timestamp: tasks.failed.finished_at,
            data: { message: 'this receiver can be reached' },
          },
        }),
      },
      responses: {
        '2XX': { description: 'It is heard' },
        410: { description: 'Nothing more is sent to this address' },
      },
    },
  },
});
