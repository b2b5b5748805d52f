/** Building blocks of the OpenAPI document. */
import { type Problem, problemBody } from '../http/problem.ts';
import type { About, TaskExamples } from './examples.ts';

/** What an endpoint's description may depend on. */
export type DocumentContext = About & { tasks: TaskExamples };

/** An OpenAPI operation; the document adds query parameters, security and the refusals of the access check. */
export interface Operation {
  operationId: string;
  tags: string[];
  summary: string;
  description?: string;
  /** those in headers and in the path */
  parameters?: object[];
  requestBody?: object;
  responses: Record<string, object>;
}

export const text = { type: 'string' };
export const number = { type: 'number' };
export const whole = { type: 'integer' };
export const time = { type: 'string', format: 'date-time' };
export const day = { type: 'string', format: 'date' };
export const uri = { type: 'string', format: 'uri' };
export const micro = { type: 'integer', minimum: 0, description: 'In millionths of the currency' };
export const currency = { type: 'string', pattern: '^[A-Z]{3}$' };
export const orNull = ({ type, ...schema }: { type: string }, description: string) => ({
  ...schema,
  type: [type, 'null'],
  description,
});
export const list = (items: object) => ({ type: 'array', items });
export const object = (properties: Record<string, object>, required = Object.keys(properties)) => ({
  type: 'object',
  required,
  properties,
});
export const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });

export const fieldNote = object({ field: text, message: text });
export const taskInput = { type: 'object', description: 'Every parameter, with the values that are used' };
export const gpuSeconds = { type: 'number', minimum: 0, description: 'Seconds of sampling and decoding' };

/** A response header; it has a schema of its own. */
export const responseHeader = (description: string, schema: object = text) => ({ description, schema });

/** @param examples values by summary */
export const examplesOf = (examples: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(examples).map(([summary, value]) => [
      summary.replace(/\W+/g, '-').replace(/^-|-$/g, ''),
      { summary, value },
    ]),
  );
export const json = (schema: object, examples: Record<string, unknown>) => ({
  'application/json': { schema, examples: examplesOf(examples) },
});

/** A response with a component schema's JSON. */
export const jsonResponse = (description: string, schema: string, examples: Record<string, unknown>) => ({
  description,
  content: json(ref(schema), examples),
});

/** An error response with examples. */
export const problem = (description: string, ...examples: Problem[]) => ({
  description,
  content: {
    'application/problem+json': {
      schema: ref('Problem'),
      examples: examplesOf(Object.fromEntries(examples.map((one) => [one.code, problemBody(one)]))),
    },
  },
});

/** An error response that says when to retry. */
export const retryLater = (description: string, ...examples: Problem[]) => ({
  ...problem(description, ...examples),
  headers: { 'Retry-After': responseHeader('Seconds until the next try') },
});
