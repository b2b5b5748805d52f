/** What the service POSTs to webhook URLs. */
import { type DocumentContext, json, ref } from './parts.ts';

export const events = ({ tasks }: DocumentContext) => ({
  task: {
    post: {
      operationId: 'announcement',
      tags: ['webhooks'],
      summary: 'A task has ended',
      description:
        'Signed as Standard Webhooks specifies, in the headers webhook-id, webhook-timestamp and webhook-signature. Without a 2xx response within 20 s the delivery is retried, up to ten attempts in all.',
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
        '2XX': { description: 'Delivered' },
        410: { description: 'Disables the URL: nothing more is sent to it' },
      },
    },
  },
});
