/** What stands after the ? of an address, checked. */
import type { Context } from 'hono';
import * as v from 'valibot';
import { describeUnknownName, type FieldNote } from '../../core/request.ts';
import { invalid } from './read-body.ts';

/**
 * @param otherwise what is said of a name that is like none of the known ones
 * @throws Problem 422 with every unknown, repeated or wrong field
 */
export function readQuery<E extends v.ObjectEntries>(
  c: Context,
  schema: v.ObjectSchema<E, undefined>,
  otherwise = 'unknown',
) {
  const { url } = c.req;
  const searchParams = new URLSearchParams(url.includes('?') ? url.slice(url.indexOf('?')) : ''); // a URL costs more than all else here
  const errors: FieldNote[] = [];
  for (const field of new Set(searchParams.keys())) {
    if (!Object.hasOwn(schema.entries, field))
      errors.push({ field, message: describeUnknownName(field, Object.keys(schema.entries), otherwise) });
    else if (searchParams.getAll(field).length > 1) errors.push({ field, message: 'given more than once' });
  }
  const { success, output, issues } = v.safeParse(schema, Object.fromEntries(searchParams));
  for (const issue of issues ?? []) {
    const field = String(v.getDotPath(issue));
    if (!errors.some((error) => error.field === field)) errors.push({ field, message: issue.message });
  }
  if (!success || errors.length > 0) invalid(errors);
  return output;
}
