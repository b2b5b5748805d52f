import { endpoint } from '../http/endpoint.ts';
import { invalidInput } from '../http/problem.ts';
import { jsonResponse, problem } from '../openapi/parts.ts';
import {
  DELIVERY_EXAMPLES,
  DELIVERY_QUERY,
  noSuchDelivery,
  presentDelivery,
  requireOwnDelivery,
} from './deliveries.ts';

export const webhookReplay = endpoint({
  method: 'POST',
  path: '/webhooks/replay',
  scope: 'submit',
  query: DELIVERY_QUERY,
  describe: () => ({
    operationId: 'replay',
    tags: ['webhooks'],
    summary: 'Send a delivery again, under the same id',
    description: 'A URL that was disabled by a 410 is enabled again, also for later deliveries.',
    responses: {
      202: jsonResponse('The delivery', 'Delivery', { 'it is sent again': DELIVERY_EXAMPLES.pending }),
      404: problem('There is no such delivery', noSuchDelivery()),
      422: problem(
        'No id, or an unknown query parameter',
        invalidInput([{ field: 'id', message: 'must be the id of a delivery' }]),
      ),
    },
  }),
  handle:
    (services) =>
    async (c, { id }) => {
      const delivery = await requireOwnDelivery(c, services, id);
      return c.json(presentDelivery(await services.webhooks.replay(delivery)), 202);
    },
});
