/** The paths about files and the service itself. */
import type { Examples } from './examples.ts';
import { json, object, problem, ref, text } from './parts.ts';
import type { Keyed } from './refusals.ts';

const open: object[] = []; // needs no API key

export function servicePaths({ ready, notReady, stopping, metrics, problems }: Examples, keyed: Keyed) {
  const onlyFromHere = problem('Without API keys: not from this machine', problems.host);
  return {
    '/files/{key}': {
      get: {
        operationId: 'file',
        tags: ['files'],
        security: open,
        summary: 'A picture or video, by a link from a task',
        parameters: [
          { name: 'key', in: 'path', required: true, description: 'Where it lies in the bucket', schema: text },
          { name: 'expires', in: 'query', required: true, description: 'Seconds since 1970', schema: text },
          { name: 'signature', in: 'query', required: true, description: 'That of the link', schema: text },
        ],
        responses: {
          200: { description: 'The file', content: { 'video/mp4': {}, 'image/png': {} } },
          206: { description: 'The part that Range asked for', content: { 'video/mp4': {}, 'image/png': {} } },
          304: { description: 'It has not changed' },
          403: problem('The link is not valid, or has expired', problems.link),
          404: problem('There is no such file', problems.noFile),
          416: problem('The file has no such part', problems.range),
        },
      },
    },
    '/healthz': {
      get: {
        operationId: 'health',
        tags: ['service'],
        security: open,
        summary: 'Whether the API runs',
        responses: {
          200: { description: 'It does', content: json(object({ status: text }), { 'it does': { status: 'ok' } }) },
          403: onlyFromHere,
        },
      },
    },
    '/readyz': {
      get: {
        operationId: 'ready',
        tags: ['service'],
        security: open,
        summary: 'Whether requests can be taken, and how each part does',
        description: 'At most one look a second. It is ready without RunPod: tasks are kept, and sent when it is back.',
        responses: {
          200: { description: 'They can', content: json(ref('Readiness'), { 'ready, without RunPod': ready }) },
          403: onlyFromHere,
          503: {
            description: 'They can’t, or the process stops',
            content: json(ref('Readiness'), { 'no store': notReady, 'it stops': stopping }),
          },
        },
      },
    },
    '/metrics': {
      get: {
        operationId: 'metrics',
        tags: ['service'],
        summary: 'What was counted and timed, in Prometheus’ text format; for admins’ API keys',
        responses: {
          200: {
            description: 'Counters, gauges and histograms',
            content: { 'text/plain': { schema: text, example: metrics } },
          },
          ...keyed,
        },
      },
    },
    '/openapi.json': {
      get: {
        operationId: 'openapi',
        tags: ['service'],
        security: open,
        summary: 'This document',
        responses: {
          200: {
            description: 'OpenAPI 3.1',
            content: json({ type: 'object' }, { 'its beginning': { openapi: '3.1.0' } }),
          },
          403: onlyFromHere,
        },
      },
    },
  };
}
