/** Deliveries of webhooks: their list, repeats and tests. */
import type { Context } from 'hono';
import * as v from 'valibot';
import { choice, webhookUrl } from '../../core/parameter-types.ts';
import { DELIVERY_STATUSES } from '../../core/responses.ts';
import { urlErrors } from '../http/check-urls.ts';
import { endpoint } from '../http/endpoint.ts';
import { invalidInput, Problem } from '../http/problem.ts';
import { secondsUntilNext, takeToken } from '../keys/rate.ts';
import { TASK_ID_EXAMPLE, WEBHOOK_URL_EXAMPLE } from '../openapi/examples.ts';
import { json, jsonResponse, list, ref } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { Delivery } from '../store/delivery.ts';
import { idParameter, TASK_ID } from '../tasks/id.ts';
import { cursor, limit, PAGE_HEADERS, respondWithPage } from './list.ts';

const DELIVERY_ID_EXAMPLE = '019a2f3c-9e70-7a51-a4c8-2b6f1d0e8a94';
const created = { id: DELIVERY_ID_EXAMPLE, url: WEBHOOK_URL_EXAMPLE, created_at: '2025-11-29T12:00:40.770Z' };
const attempted = {
  ...{ ...created, type: 'task.succeeded', task_id: TASK_ID_EXAMPLE },
  ...{ attempts: 1, attempted_at: '2025-11-29T12:00:40.911Z' },
};
const EXAMPLES = {
  delivered: { ...attempted, status: 'delivered', status_code: 204, delivered_at: '2025-11-29T12:00:41.003Z' },
  pending: { ...attempted, status: 'pending', next_attempt_at: '2025-11-29T12:00:46.100Z', error: 'ECONNREFUSED' },
  test: { ...created, type: 'webhook.test', status: 'pending', attempts: 0 },
};

const invalidId = 'must be the id of a delivery';
const deliveryId = v.pipe(idParameter(invalidId), v.regex(TASK_ID, invalidId));

/** With one key in one process. */
const TESTS_PER_MINUTE = 10;

const tooManyTests = (retryAfter = 1) =>
  new Problem('too_many_requests', `this API key may send at most ${TESTS_PER_MINUTE} webhook tests a minute`, {
    headers: { 'retry-after': String(retryAfter) },
  });
const noSuchDelivery = () => new Problem('not_found', 'there is no such delivery');

export const deliveries = endpoint({
  method: 'GET',
  path: '/webhooks/deliveries',
  scope: 'read',
  query: v.object({
    id: v.optional(v.pipe(deliveryId, v.description('Only this delivery'))),
    task: v.optional(
      v.pipe(
        idParameter('must be the id of a task'),
        v.regex(TASK_ID, 'must be the id of a task'),
        v.description('Only deliveries of this task'),
      ),
    ),
    status: v.optional(choice(DELIVERY_STATUSES, 'Only deliveries with this status')),
    limit,
    cursor,
  }),
  describe: () => ({
    operationId: 'deliveries',
    tags: ['webhooks'],
    summary: 'Deliveries to the API key’s webhooks, newest first',
    responses: {
      200: {
        description: 'The deliveries',
        headers: PAGE_HEADERS,
        content: json(list(ref('Delivery')), { 'two deliveries': [EXAMPLES.pending, EXAMPLES.delivered] }),
      },
    },
    errors: [noSuchDelivery(), invalidInput([{ field: 'limt', message: 'unknown; did you mean limit?' }])],
  }),
  handle:
    (services) =>
    async (c, { id, task, status, limit, cursor }) => {
      if (id !== undefined) return c.json([presentDelivery(await requireOwnDelivery(c, services, id))]);
      const owner = c.get('key').id;
      const read = (limit: number) => services.store.listDeliveries({ owner, task, status, before: cursor, limit });
      return respondWithPage(c, services, limit, read, presentDelivery);
    },
});

export const replay = endpoint({
  method: 'POST',
  path: '/webhooks/replay',
  scope: 'submit',
  query: v.object({
    id: v.pipe(deliveryId, v.metadata({ description: 'Id of the delivery', examples: [DELIVERY_ID_EXAMPLE] })),
  }),
  describe: () => ({
    operationId: 'replay',
    tags: ['webhooks'],
    summary: 'Send a delivery again, under the same id',
    description: 'If a response 410 has disabled the URL, this enables it again, also for later deliveries.',
    responses: { 202: jsonResponse('The delivery', 'Delivery', { 'it is sent again': EXAMPLES.pending }) },
    errors: [noSuchDelivery(), invalidInput([{ field: 'id', message: invalidId }])],
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const delivery = await requireOwnDelivery(c, services, id);
      return c.json(presentDelivery(await services.webhooks.replay(delivery)), 202);
    },
});

export const testWebhook = endpoint({
  method: 'POST',
  path: '/webhooks/test',
  scope: 'submit',
  query: v.object({
    webhook_url: webhookUrl({ description: 'URL to send the event to', examples: [WEBHOOK_URL_EXAMPLE] }),
  }),
  describe: () => ({
    operationId: 'test',
    tags: ['webhooks'],
    summary: 'Send one test event, webhook.test',
    description: `GET /webhooks/deliveries?id= shows the result for a day. An API key may send at most ${TESTS_PER_MINUTE} tests a minute.`,
    responses: { 202: jsonResponse('The delivery', 'Delivery', { 'it will be sent': EXAMPLES.test }) },
    errors: [invalidInput([{ field: 'webhook_url', message: 'must be an https URL' }]), tooManyTests()],
  }),
  handle({ config, webhooks, uptime }) {
    const arrivals = new Map<string, number>(); // by key: see rate.ts
    return async (c, { webhook_url }) => {
      const errors = urlErrors({ webhook_url }, config);
      if (errors.length > 0) throw invalidInput(errors);
      const { id } = c.get('key');
      const tat = arrivals.get(id) ?? uptime();
      const next = takeToken(tat, uptime(), TESTS_PER_MINUTE);
      if (next === undefined) throw tooManyTests(secondsUntilNext(tat, uptime(), TESTS_PER_MINUTE));
      arrivals.set(id, next);
      return c.json(presentDelivery(await webhooks.test(id, webhook_url)), 202);
    };
  },
});

/** @returns the delivery with this id, if it belongs to the request's API key. @throws Problem 404 */
async function requireOwnDelivery(c: Context, { store }: Pick<Services, 'store'>, id: string): Promise<Delivery> {
  const delivery = await store.getDelivery(c.get('key').id, id);
  if (!delivery) throw noSuchDelivery();
  return delivery;
}

/** A delivery as clients see it. */
function presentDelivery(delivery: Delivery) {
  const { id, type, task_id, url, status, created_at, attempts, next_attempt_at, ...last } = delivery;
  const time = (ms: number | null) => (ms === null ? undefined : new Date(ms).toISOString());
  return {
    id,
    type,
    task_id: task_id ?? undefined,
    url,
    status,
    created_at: time(created_at),
    attempts,
    attempted_at: time(last.attempted_at),
    next_attempt_at: status === 'pending' ? time(next_attempt_at) : undefined,
    status_code: last.status_code ?? undefined,
    error: last.error ?? undefined,
    delivered_at: time(last.delivered_at),
  };
}
