/** Checks the query string of a URL. */
import type { Context } from 'hono';
import * as v from 'valibot';
import { describeUnknownName, type FieldNote } from '../../core/request.ts';
import { invalidInput } from './problem.ts';

/**
 * @param unknown error message for a name that resembles none of the known ones
 * @throws Problem 422 with every unknown, repeated or invalid parameter
 */
export function readQuery<E extends v.ObjectEntries>(
  c: Context,
  schema: v.ObjectSchema<E, undefined>,
  unknown = 'unknown',
): v.InferOutput<v.ObjectSchema<E, undefined>> {
  const errors: FieldNote[] = [];
  const queries = c.req.queries();
  for (const [field, values] of Object.entries(queries)) {
    if (!Object.hasOwn(schema.entries, field))
      errors.push({ field, message: describeUnknownName(field, Object.keys(schema.entries), unknown) });
    else if (values.length > 1) errors.push({ field, message: 'given more than once' });
  }
  const { success, output, issues } = v.safeParse(schema, c.req.query());
  for (const issue of issues ?? []) {
    const field = String(v.getDotPath(issue));
    if (!errors.some((error) => error.field === field)) errors.push({ field, message: issue.message });
  }
  if (!success || errors.length > 0) throw invalidInput(errors);
  return output;
}
