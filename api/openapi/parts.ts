/** What the document's parts are built of. */
import type { ModelName } from '../../core/presets.ts';
import type { Config } from '../config.ts';
import { bodyOf, type Problem } from '../http/problem.ts';

/** What of the configuration the document tells. */
export type About = Pick<Config, 'limits' | 'bridge' | 'publicUrl'> & { model: ModelName };

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

const parameter = (place: 'query' | 'header') => (name: string, schema: object, description: string) => ({
  name,
  in: place,
  required: false,
  description,
  schema,
});
export const query = parameter('query');
export const header = parameter('header');
export const ofTask = (example: string) => ({
  name: 'id',
  in: 'query',
  required: true,
  description: 'The task',
  schema: { type: 'string', minLength: 1 },
  example,
});

/** @param examples by their summary */
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

/** An error, with what it looks like. */
export const problem = (description: string, ...examples: Problem[]) => ({
  description,
  content: {
    'application/problem+json': {
      schema: ref('Problem'),
      examples: examplesOf(Object.fromEntries(examples.map((one) => [one.code, bodyOf(one)]))),
    },
  },
});
