/** Validates requests to RunPod's REST v2, and the simulator's answers, against RunPod's own OpenAPI document. */
import { readFileSync } from 'node:fs';
import { type Schema, Validator } from '@cfworker/json-schema';
import type { Context } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';

/** From https://api.runpod.io/v2/openapi.json, August 2026, without pods, clusters and accounts. */
const DOCUMENT = JSON.parse(readFileSync(new URL('testdata/runpod-rest-v2.openapi.json', import.meta.url), 'utf8'));
// It declares these as URIs, but its own examples contain {job_id}, which is not valid in a URI.
for (const url of Object.values<Schema>(DOCUMENT.components.schemas.QueueBasedRequestUrls.properties))
  delete url.format;

/** An error answer (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    detail = 'request could not be processed',
    readonly errors?: string[],
  ) {
    super(detail);
  }
}

export const answerProblem = (c: Context, { status, message, errors }: Problem, headers: Record<string, string> = {}) =>
  c.json({ title: 'Refused', status, detail: message, ...(errors && { errors }) }, status as ContentfulStatusCode, {
    'content-type': 'application/problem+json',
    ...headers,
  });

/** @throws Problem 400 or 422 */
export async function readBody(c: Context): Promise<Record<string, unknown>> {
  const body = await c.req.json().catch(() => {
    throw new Problem(400, 'malformed JSON');
  });
  const errors = validate(body, operationOf(c).requestBody.content['application/json'].schema);
  if (errors.length > 0) throw new Problem(422, 'Request validation failed.', errors);
  return body;
}

/** @throws Error: the answer contradicts the document, which is a mistake of the simulator */
export async function checkAnswer(c: Context) {
  const { responses } = operationOf(c) ?? {};
  if (!responses) return;
  const { status } = c.res;
  const found = responses[status] ?? responses.default;
  const response = found.$ref ? DOCUMENT.components.responses[found.$ref.split('/').at(-1)] : found;
  const schema = (response.content?.['application/json'] ?? response.content?.['application/problem+json'])?.schema;
  if (!schema) return;
  const errors = validate(await c.res.clone().json(), schema);
  if (errors.length > 0) throw new Error(`the simulator’s answer ${status} is not RunPod’s: ${errors.join('; ')}`);
}

/** The document's entry for the request. */
function operationOf({ req }: Context) {
  const template = Object.keys(DOCUMENT.paths).find((path) =>
    new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(req.path),
  );
  return template && DOCUMENT.paths[template][req.method.toLowerCase()];
}

function validate(value: unknown, schema: Schema): string[] {
  const { components } = DOCUMENT;
  const validator = new Validator({ $id: 'https://runpod.test/', components, ...schema }, '2020-12', false);
  return validator.validate(value).errors.map(({ instanceLocation, error }) => `${instanceLocation}: ${error}`);
}
