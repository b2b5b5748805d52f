/** An endpoint is defined once; the router, the access check, the query parser and the OpenAPI document all read that definition. */
import type { Context, Hono, MiddlewareHandler } from 'hono';
import * as v from 'valibot';
import { unknownNames } from '../../core/request.ts';
import { gatherMetadata } from '../../core/text-fields.ts';
import type { DocumentContext, Operation } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import type { Scope } from '../store/key.ts';
import { invalidInput, Problem, renderProblem } from './problem.ts';
import { type Call, suggestCall } from './suggest-call.ts';

export interface Endpoint<E extends v.ObjectEntries = v.ObjectEntries> {
  method: Method;
  /** Hono's pattern; only an endpoint that is not documented has several */
  path: string | string[];
  /** another call that does the same */
  alias?: { method: Method; path: string; operationId: string };
  /** the scope that an API key needs; `any`: the endpoint itself calls `requireScope`; without one the endpoint is public */
  scope?: Scope | 'any';
  /**
   * Parameters in the query and the path, by name; their descriptions and examples go into the OpenAPI document. Without it any query is
   * accepted
   */
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
type Method = 'GET' | 'POST' | 'DELETE';

/** Infers the type of the query that `handle` gets; `register` checks it. */
export const endpoint = <E extends v.ObjectEntries>(definition: Endpoint<E>) => definition as unknown as Endpoint;

/** One method and one path of an endpoint. */
export const callsOf = ({ method, path, alias }: Endpoint) => [
  ...[path].flat().map((pattern) => ({ method, path: pattern })),
  ...(alias ? [alias] : []),
];

/** Adds the routes of the endpoints, their access checks, the checks of their queries and the responses to other methods. */
export function registerAll(
  app: Hono,
  endpoints: Endpoint[],
  services: Services,
  requireScope: (scope: Scope | 'any') => MiddlewareHandler,
): void {
  const calls: Call[] = [];
  for (const endpoint of endpoints) {
    const respond = endpoint.handle(services);
    if (!respond) continue;
    const { scope, query, unknownParameter, describe } = endpoint;
    for (const { method, path } of callsOf(endpoint)) {
      calls.push({ method, path, scope, isPublished: describe !== undefined });
      if (scope) app.on(method, path, requireScope(scope));
      app.on(method, path, (c) => respond(c, query ? readQuery(c, query, unknownParameter) : {}));
    }
  }
  for (const path of new Set(calls.map((call) => call.path))) {
    const here = calls.filter((call) => call.path === path);
    const methods = here.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : method));
    if (here[0]!.scope) app.all(path, requireScope(here[0]!.scope));
    app.all(path, (c) => {
      throw methodNotAllowed(c, methods, path);
    });
  }
  app.notFound((c) => renderProblem(c, new Problem('not_found', `no such path; ${suggestCall(c.req, calls)}`)));
}

/** Where a client that wants to delete a task may send DELETE. */
const TASK_PATH = /^\/(img2vid|status|cancel|delete|tasks)(\/|$)/;

function methodNotAllowed(c: Context, methods: string[], path: string): Problem {
  const deletion = `; to delete a task’s files and prompt, use DELETE /tasks/${c.req.query('id') || 'ID'}`;
  const hint = c.req.method === 'DELETE' && TASK_PATH.test(path) ? deletion : '';
  const detail = `use ${methods.join(' or ')} ${path.replace(/:\w+/g, 'ID')}${hint}`;
  return new Problem('method_not_allowed', detail, { headers: { allow: methods.join(', ') } });
}

/**
 * @param unknown error message for a name that resembles none of the known ones
 * @throws Problem 422 with every unknown, repeated or invalid parameter
 */
function readQuery(c: Context, schema: NonNullable<Endpoint['query']>, unknown = 'unknown') {
  const queries = Object.entries(c.req.queries());
  const values = gatherMetadata(Object.entries({ ...c.req.query(), ...c.req.param() }));
  const errors = unknownNames(Object.keys(gatherMetadata(queries)), schema.entries, unknown);
  for (const [field, given] of queries)
    if (given.length > 1 && (Object.hasOwn(schema.entries, field) || field.startsWith('metadata[')))
      errors.push({ field, message: 'given more than once' });
  const { success, output, issues } = v.safeParse(schema, values, { abortPipeEarly: true });
  for (const issue of issues ?? []) {
    const field = String(v.getDotPath(issue));
    if (!errors.some((error) => error.field === field))
      errors.push({ field, message: issue.type === 'object' ? 'is required in the query' : issue.message });
  }
  if (!success || errors.length > 0) throw invalidInput(errors);
  return output;
}
