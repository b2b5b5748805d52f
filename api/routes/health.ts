import { endpoint } from '../http/endpoint.ts';
import { json, text } from '../openapi/parts.ts';

export const health = endpoint({
  method: 'GET',
  path: '/healthz',
  describe: () => ({
    operationId: 'health',
    tags: ['service'],
    summary: 'Whether the API runs',
    responses: {
      200: {
        description: 'API is running',
        content: json(
          { type: 'object', required: ['status'], properties: { status: text } },
          { running: { status: 'ok' } },
        ),
      },
    },
  }),
  handle: () => (c) => c.json({ status: 'ok' }),
});
