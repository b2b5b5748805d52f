import { type Endpoint, endpoint } from '../http/endpoint.ts';
import { openApiDocument } from '../openapi/document.ts';
import { json } from '../openapi/parts.ts';

/** @param endpoints those that the document describes, this one included */
export const openapi = (endpoints: () => Endpoint[]) =>
  endpoint({
    method: 'GET',
    path: '/openapi.json',
    describe: () => ({
      operationId: 'openapi',
      tags: ['service'],
      summary: 'This document',
      responses: {
        200: {
          description: 'OpenAPI 3.1',
          content: json({ type: 'object' }, { 'its beginning': { openapi: '3.1.0' } }),
        },
      },
    }),
    handle({ config }) {
      const document = openApiDocument(config, endpoints());
      return (c) => c.json(document);
    },
  });
