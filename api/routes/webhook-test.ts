import * as v from 'valibot';
import { parameters } from '../../core/parameters.ts';
import { urlErrors } from '../http/check-urls.ts';
import { endpoint } from '../http/endpoint.ts';
import { invalidInput } from '../http/problem.ts';
import { WEBHOOK_URL_EXAMPLE } from '../openapi/examples.ts';
import { jsonResponse, problem } from '../openapi/parts.ts';
import { DELIVERY_EXAMPLES, presentDelivery } from './deliveries.ts';

const { webhook_url } = parameters({ maxFrames: 1, maxFps: 1 }, 'svd'); // the same for all limits and models

export const webhookTest = endpoint({
  method: 'POST',
  path: '/webhooks/test',
  scope: 'submit',
  query: v.object({
    webhook_url: v.pipe(
      webhook_url,
      v.metadata({ description: 'URL to send the event to', examples: [WEBHOOK_URL_EXAMPLE] }),
    ),
  }),
  describe: () => ({
    operationId: 'test',
    tags: ['webhooks'],
    summary: 'Send an event webhook.test, once',
    description: 'GET /webhooks/deliveries?id= shows the result.',
    responses: {
      202: jsonResponse('The delivery', 'Delivery', { 'it will be sent': example() }),
      422: problem(
        'No URL, or one that is not allowed',
        invalidInput([{ field: 'webhook_url', message: 'must be an https URL' }]),
      ),
    },
  }),
  handle:
    ({ config, webhooks }) =>
    async (c, { webhook_url }) => {
      const errors = urlErrors({ webhook_url }, config);
      if (errors.length > 0) throw invalidInput(errors);
      return c.json(presentDelivery(await webhooks.test(c.get('key').id, webhook_url)), 202);
    },
});

function example() {
  const { id, url, status, created_at } = DELIVERY_EXAMPLES.pending;
  return { id, type: 'webhook.test', url, status, created_at, attempts: 0 };
}
