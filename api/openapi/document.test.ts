import { createConfig, lintFromString } from '@redocly/openapi-core';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { MODELS } from '../../core/job.ts';
import { PROBLEMS, type ProblemCode } from '../../core/problems.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { EXAMPLE_REQUESTS } from '../routes/img2vid.ts';
import { ENDPOINTS } from '../routes/index.ts';
import { openApiDocument } from './document.ts';

let service: TestService;
let document: ReturnType<typeof openApiDocument>;
beforeAll(async () => {
  service = await testService();
  document = await (await fetch(`${service.url}/openapi.json`)).json();
});
afterAll(() => service.close());

/** Every object in the document that has examples, with its path. */
function* contents(value: unknown, path = ''): Generator<[path: string, content: Content]> {
  if (typeof value !== 'object' || value === null) return;
  if ('schema' in value && ('examples' in value || 'example' in value)) yield [path, value as Content];
  for (const [name, inner] of Object.entries(value)) yield* contents(inner, `${path}/${name.replaceAll('/', '~1')}`);
}
interface Content {
  schema: object;
  examples?: Record<string, { summary: string; value: unknown }>;
  example?: unknown;
}
const values = ({ examples, example }: Content) =>
  examples ? Object.values(examples).map(({ value }) => value) : [example];

test('an OpenAPI linter finds no errors for any model, and finds invalid examples', async () => {
  const config = await createConfig({ extends: ['recommended-strict'] });
  async function complaints(about: object) {
    const problems = await lintFromString({ source: JSON.stringify(about), config });
    return problems.map(({ ruleId, location }) => `${ruleId} ${location[0]?.pointer}`);
  }
  for (const model of MODELS) {
    const about = {
      model,
      limits: { maxFrames: 100, maxFps: 120 },
      bridge: undefined,
      publicUrl: 'https://video.example.org',
    };
    expect(await complaints(openApiDocument(about, ENDPOINTS)), model).toEqual([]);
  }
  const wrong = structuredClone(document);
  const examples = [...contents(wrong)].flatMap(([path, { examples = {} }]) =>
    Object.entries(examples).map(([name, example]) => ({ at: `#${path}/examples/${name}/value`, example })),
  );
  expect(examples.length).toBeGreaterThan(80);
  for (const { example } of examples) example.value = 5;
  const found = new Set(await complaints(wrong));
  expect(examples.filter(({ at }) => ![...found].some((one) => one.includes(at)))).toEqual([]);
});

test('every request and response body has an example', () => {
  const without: string[] = [];
  const look = (where: string, content: Record<string, Partial<Content>> = {}) => {
    for (const [type, { examples, example }] of Object.entries(content))
      if (!/^(video|image)\//.test(type) && !examples && example === undefined) without.push(`${where} ${type}`);
  };
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const operation of Object.values(methods) as unknown as Operation[]) {
      look(path, operation.requestBody?.content);
      for (const [status, { content }] of Object.entries(operation.responses)) look(`${path} ${status}`, content);
    }
  }
  expect(without).toEqual([]);
});
interface Operation {
  requestBody?: { content: Record<string, Content> };
  responses: Record<string, { content?: Record<string, Content> }>;
}

const dryRun = (body: BodyInit, headers: Record<string, string> = {}) =>
  fetch(`${service.url}/img2vid?dry_run=1`, { method: 'POST', body, headers });

test('every example request is accepted, in each content type', async () => {
  const { id } = await (await service.post({ prompt: 'x' })).json();
  for (const index of [1, 2, 3, 4]) await service.bucket.put(`tasks/${id}/imagine-${index}.png`, 'a picture');
  const { content } = (document.paths['/img2vid']!.post as unknown as Operation).requestBody!;
  expect(Object.values(content['application/json']!.examples!).map(({ value }) => value)).toEqual(
    Object.values(EXAMPLE_REQUESTS),
  );
  const own = <T>(value: T): T =>
    value && typeof value === 'object' && 'still_of' in value ? { ...value, still_of: id } : value;

  for (const value of values(content['application/json']!)) {
    const answer = await dryRun(JSON.stringify(own(value)), { 'content-type': 'application/json' });
    const { input, warnings, detail } = await answer.json();
    expect([answer.status, warnings], detail).toEqual([200, []]);
    expect(input).toMatchObject(own(value) as object);
  }
  for (const value of values(content['application/x-www-form-urlencoded']!))
    expect((await dryRun(new URLSearchParams(value as Record<string, string>))).status).toBe(200);
  const picture = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
  for (const value of values(content['multipart/form-data']!)) {
    const form = new FormData();
    for (const [name, text] of Object.entries(value as object))
      form.append(name, name === 'image' ? new Blob([new Uint8Array(picture)]) : String(text));
    expect((await dryRun(form)).status).toBe(200);
  }
});

test('error examples are word for word the API’s', async () => {
  const bodies = [...contents(document)].flatMap(([path, content]) => values(content).map((body) => ({ path, body })));
  async function expectShown(path: string, init: RequestInit = {}, { url } = service) {
    const answer = await fetch(url + path, init);
    const body = await answer.json();
    expect(answer.headers.get('content-type')).toBe('application/problem+json');
    const place = `/paths/~1${path.slice(1).replace(/[/?].*/, '')}`;
    const here = bodies.filter((one) => one.path.startsWith(place) && one.path.includes(`/${answer.status}/`));
    expect(
      here.map((one) => one.body),
      path,
    ).toContainEqual(body);
  }
  const post = (headers: Record<string, string> = {}, body = '') => ({ method: 'POST', headers, body });
  const json = { 'content-type': 'application/json' };
  const create = async () => (await (await service.post({ prompt: 'x' })).json()).id as string;

  await expectShown('/img2vid', post(json, '{'));
  await expectShown('/img2vid', post({ 'content-type': 'text/plain' }));
  await expectShown('/img2vid', post(json, JSON.stringify({ H: 100, T: 0, step: 5 })));
  const form = new FormData();
  form.append('image', new Blob(['no picture']));
  await expectShown('/img2vid', { method: 'POST', body: form });
  await expectShown('/status?id=x');
  await expectShown('/status?limt=5');
  const [ended, running] = [await create(), await create()];
  const job = await service.take(ended);
  service.report(job.id, { output: await service.finish(ended, job.id) });
  service.report((await service.take(running)).id, { status: 'IN_PROGRESS' });
  await service.until(running, ({ status }) => status === 'running');
  await service.until(ended, ({ status }) => status === 'succeeded');
  await expectShown(`/cancel?id=${ended}`, post());
  await expectShown(`/delete?id=${running}`, post());
  await expectShown('/cancel?id=', post());
  await expectShown('/usage?since=yesterday');
  await expectShown(`/webhooks/replay?id=${ended}`, post());
  await expectShown('/webhooks/test?webhook_url=http://example.com', post());
  await expectShown('/files/x?expires=1&signature=y');

  const keyed = await testService();
  const { headers } = await keyed.key({ scopes: ['read'] });
  await expectShown('/status', {}, keyed);
  await expectShown('/img2vid', post({ ...headers, ...json }, '{}'), keyed);
  await keyed.close();
});

test('every error code is documented', () => {
  const { enum: codes } = document.components.schemas.Problem.properties!.code as { enum: ProblemCode[] };
  expect(codes).toEqual(Object.keys(PROBLEMS));
});
