/** Building blocks of the OpenAPI document. */
import type { Problem } from '../http/problem.ts';
import type { About, taskExamples, videoExamples } from './examples.ts';

/** What an endpoint's description may depend on. */
export type DocumentContext = About & {
  tasks: ReturnType<typeof taskExamples>;
  videos: ReturnType<typeof videoExamples>;
};

/** An OpenAPI operation; the document adds query parameters, security and the refusals of the access check. */
export interface Operation {
  operationId: string;
  tags: string[];
  summary: string;
  description?: string;
  /** those in headers and in the path */
  parameters?: object[];
  requestBody?: object;
  /** all but errors */
  responses: Record<string, object>;
  /** an example of each; their statuses become responses */
  errors?: Problem[];
}

export const text = { type: 'string' };
export const list = (items: object) => ({ type: 'array', items });
export const ref = (name: string) => ({ $ref: `#/components/schemas/${name}` });

export const headerParameter = (name: string, description: string, schema: object = text) => ({
  name,
  in: 'header',
  required: false,
  description,
  schema,
});
export const responseHeader = (description: string, schema: object = text) => ({ description, schema });

/** A body of one content type, with examples by summary. */
export function content(type: string, schema: object, values: Record<string, unknown>) {
  const examples = Object.entries(values).map(([summary, value]) => [
    summary.replace(/\W+/g, '-').replace(/^-|-$/g, ''),
    { summary, value },
  ]);
  return { [type]: { schema, examples: Object.fromEntries(examples) } };
}
export const json = (schema: object, examples: Record<string, unknown>) =>
  content('application/json', schema, examples);

/** @param schema the name of a component schema */
export const jsonResponse = (description: string, schema: string, examples: Record<string, unknown>) => ({
  description,
  content: json(ref(schema), examples),
});
