/** An endpoint is defined once; the router, the access check, the query parser and the OpenAPI document all read that definition. */
import type { Context, Hono, MiddlewareHandler } from 'hono';
import * as v from 'valibot';
import { unknownNames } from '../../core/request.ts';
import type { DocumentContext, Operation } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { Scope } from '../store/key.ts';
import { invalidInput, Problem } from './problem.ts';

export interface Endpoint<E extends v.ObjectEntries = v.ObjectEntries> {
  method: 'GET' | 'POST';
  /** Hono's pattern; only an endpoint that is not documented has several */
  path: string | string[];
  /** the scope that an API key needs; without one the endpoint is public */
  scope?: Scope;
  /** parameters by name; their descriptions and examples go into the OpenAPI document. Without it any query is accepted */
  query?: v.ObjectSchema<E, undefined>;
  /** error message for a query parameter that resembles none of the known ones */
  unknownParameter?: string;
  /** the rest of the OpenAPI operation; an endpoint without it is not documented */
  describe?: (context: DocumentContext) => Operation;
  /** @returns undefined where the service has no such endpoint */
  handle(
    services: Services,
  ): ((c: Context, query: v.InferOutput<v.ObjectSchema<E, undefined>>) => Response | Promise<Response>) | undefined;
}

/** Infers the type of the query that `handle` gets; `register` checks it. */
export const endpoint = <E extends v.ObjectEntries>(definition: Endpoint<E>) => definition as unknown as Endpoint;

/** Adds the endpoint's route, its access check, the check of its query and the response to other methods. */
export function register(
  app: Hono,
  { method, path, scope, query, unknownParameter, handle }: Endpoint,
  services: Services,
  requireScope: (scope: Scope) => MiddlewareHandler,
): void {
  const respond = handle(services);
  if (!respond) return;
  const allow = method === 'GET' ? 'GET, HEAD' : method;
  for (const pattern of [path].flat()) {
    if (scope) app.use(pattern, requireScope(scope));
    app.on(method, pattern, (c) => respond(c, query ? readQuery(c, query, unknownParameter) : {}));
    app.all(pattern, (c) => {
      const hint = c.req.method === 'DELETE' ? '; POST /delete?id=ID deletes the files of a task' : '';
      throw new Problem('method_not_allowed', `use ${allow}${hint}`, { headers: { allow } });
    });
  }
}

/**
 * @param unknown error message for a name that resembles none of the known ones
 * @throws Problem 422 with every unknown, repeated or invalid parameter
 */
function readQuery(c: Context, schema: NonNullable<Endpoint['query']>, unknown = 'unknown') {
  const queries = c.req.queries();
  const names = Object.keys(schema.entries);
  const errors = unknownNames(Object.keys(queries), schema.entries, unknown);
  for (const field of names)
    if (queries[field] && queries[field].length > 1) errors.push({ field, message: 'given more than once' });
  const { success, output, issues } = v.safeParse(schema, c.req.query(), { abortPipeEarly: true });
  for (const issue of issues ?? []) {
    const field = String(v.getDotPath(issue));
    if (!errors.some((error) => error.field === field))
      errors.push({ field, message: issue.type === 'object' ? 'is required in the query' : issue.message });
  }
  if (!success || errors.length > 0) throw invalidInput(errors);
  return output;
}
