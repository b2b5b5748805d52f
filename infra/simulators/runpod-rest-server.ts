/**
 * RunPod's REST v2 on this machine, as far as an endpoint with its template and network volume needs it. Bodies and answers are held to
 * RunPod's own OpenAPI document, and beside that to the rules that stand there in prose; where it is silent, the code says so.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Schema, Validator } from '@cfworker/json-schema';
import { getRequestListener, type HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { serveOnLoopback } from './loopback.ts';

/** As RunPod publishes it (https://api.runpod.io/v2/openapi.json, state of August 2026), less what pods, clusters and accounts have. */
const DOCUMENT = JSON.parse(readFileSync(new URL('testdata/runpod-rest-v2.openapi.json', import.meta.url), 'utf8'));
// It says that these are URIs, and its examples have {job_id} in them, which no URI has.
for (const url of Object.values<Schema>(DOCUMENT.components.schemas.QueueBasedRequestUrls.properties))
  delete url.format;

const GPUS = [
  ['NVIDIA L4', 'L4', 'AMPERE_24', 24, 0.69, { 'EU-RO-1': 'HIGH', 'US-KS-2': 'LOW' }],
  ['NVIDIA GeForce RTX 3090', 'RTX 3090', 'AMPERE_24', 24, 0.69, { 'EU-SE-1': 'MEDIUM' }],
  ['NVIDIA GeForce RTX 4090', 'RTX 4090', 'ADA_24', 24, 1.1, { 'EU-RO-1': 'MEDIUM', 'US-KS-2': 'HIGH' }],
  ['NVIDIA A40', 'A40', 'AMPERE_48', 48, 1.22, { 'EU-SE-1': 'HIGH' }],
  ['NVIDIA RTX A6000', 'RTX A6000', 'AMPERE_48', 48, 1.22, { 'EU-RO-1': 'NONE', 'US-KS-2': 'LOW' }],
  ['Tesla V100-PCIE-16GB', 'Tesla V100', null, 16, undefined, {}],
] as const;
const DATA_CENTERS = ['EU-RO-1', 'EU-SE-1', 'US-KS-2'];

type Thing = Record<string, unknown> & { id: string; name: string };
interface GpuChoice {
  pools: string[];
  excludedTypes?: string[];
  count?: number;
  allowedCudaVersions?: string[];
  minCudaVersion?: string | null;
}
type Body = Record<string, unknown> & {
  gpu?: GpuChoice;
  workers?: { min?: number; max?: number; idleTimeout?: number };
  env?: Record<string, string>;
};

/** What happens to a request in place of an answer; `applied`: the request takes effect first. */
export type Fault = { applied?: boolean } & (
  | { status: number; detail?: string; errors?: string[]; headers?: Record<string, string> }
  | { broken: true }
);

export interface RestServerOptions {
  apiKey: string;
  /** how many workers all endpoints may have at most together */
  quota?: number;
  /** whether an endpoint's template is deleted with it, and not before: RunPod's document can be read either way */
  bindsTemplates?: boolean;
}

export type RestServer = Awaited<ReturnType<typeof startRestServer>>;

/** Starts it on loopback; `url` has the version in it, as RUNPOD_REST_URL wants it. */
export async function startRestServer({ apiKey, quota = 5, bindsTemplates = false }: RestServerOptions) {
  const endpoints = new Map<string, Thing>();
  const templates = new Map<string, Thing>();
  const volumes = new Map<string, Thing>();
  const bound = new Map<string, string>(); // endpoint → template
  const releases = new Map<string, Thing[]>();
  const workers = new Map<string, Record<string, unknown>[]>();
  const requests: { method: string; path: string; body: unknown }[] = [];
  const state = {
    endpoints,
    templates,
    volumes,
    /** of each endpoint, as RunPod lists them; of tests' making */
    workers,
    /** every request with a good key, in order; the query is left out */
    requests,
    /** asked about each request before it is answered */
    fault: undefined as ((method: string, path: string, body: unknown) => Fault | undefined) | undefined,
  };

  const app = new Hono<{ Bindings: HttpBindings }>();
  app.onError((error, c) => {
    if (error instanceof Problem) return problem(c, error);
    console.error(error); // a mistake of this stand-in
    return problem(c, new Problem(500, error.message));
  });
  app.notFound((c) => problem(c, new Problem(404, 'resource not found')));

  app.use(async (c, next) => {
    if (c.req.header('authorization') !== `Bearer ${apiKey}`) throw new Problem(401, 'invalid bearer token');
    const { method, path } = c.req;
    const sent = await c.req.text();
    const body = sent === '' ? undefined : JSON.parse(sent);
    requests.push({ method, path, body });
    const fault = state.fault?.(method, path.replace('/v2', ''), body);
    if (!fault || fault.applied) await next();
    if (fault && 'broken' in fault) {
      c.env.outgoing.destroy();
      c.res = RESPONSE_ALREADY_SENT;
    } else if (fault) c.res = problem(c, new Problem(fault.status, fault.detail, fault.errors), fault.headers);
    else {
      c.header('RateLimit', '"minute";r=59;t=60');
      c.header('RateLimit-Policy', '"minute";q=60;w=60');
      await checkAnswer(c);
    }
  });

  // endpoints

  app.get('/v2/serverless', (c) => c.json({ endpoints: [...endpoints.values()] }));
  app.get('/v2/serverless/:id', (c) => c.json(one(c, endpoints)));
  app.post('/v2/serverless', async (c) => {
    const body = await bodyOf(c);
    if (Boolean(body.gpu) === Boolean(body.cpu)) throw new Problem(400, 'exactly one of gpu and cpu is required');
    const template = body.templateId === undefined ? undefined : templateOf(body);
    const id = newId();
    const gpu = body.gpu && {
      count: 1,
      minCudaVersion: null,
      ...body.gpu,
      allowedCudaVersions:
        body.gpu.allowedCudaVersions ?? (body.gpu.minCudaVersion ? [] : (template?.allowedCudaVersions ?? [])),
    };
    checkGpu(gpu as GpuChoice | undefined, body.gpu);
    checkScaling(body, body);
    checkVolumes(body);
    checkQuota(body, id);
    const isTimed = (body.scaling as { type: string }).type === 'QUEUE_DELAY';
    const url = (operation: string) => `https://api.runpod.ai/v2/${id}/${operation}`;
    const endpoint: Thing = {
      id,
      name: body.name as string,
      type: body.type,
      requestUrls: {
        ...{ run: url('run'), runSync: url('runsync'), status: url('status/{job_id}'), stream: url('stream/{job_id}') },
        ...{ cancel: url('cancel/{job_id}'), retry: url('retry/{job_id}') },
        ...{ purgeQueue: url('purge-queue'), health: url('health') },
      },
      ...{ args: '', disk: 20, ports: [], registry: null },
      ...(template && pick(template, CONTAINER)),
      ...pick(body, CONTAINER),
      env: { ...(template?.env as object), ...body.env },
      ...(gpu && { gpu }),
      ...(body.cpu ? { cpu: (body.cpu as object[]).map((cpu) => ({ ...cpu, memory: 16 })) } : {}),
      workers: { min: 0, max: 3, ...(isTimed && { idleTimeout: 10 }), ...body.workers },
      scaling: body.scaling,
      dataCenterIds: body.dataCenterIds ?? [],
      networkVolumes: body.networkVolumes ?? [],
      timeout: body.timeout ?? 300_000,
      flashboot: body.flashboot ?? 'OFF',
      createdAt: new Date().toISOString(),
    };
    endpoints.set(id, endpoint);
    if (template) bound.set(id, template.id);
    workers.set(id, []);
    releases.set(id, []);
    release(id, []);
    return c.json(endpoint, 201);
  });
  app.patch('/v2/serverless/:id', async (c) => {
    const endpoint = one(c, endpoints);
    const body = await bodyOf(c);
    if ((body.gpu && endpoint.cpu) || (body.cpu && endpoint.gpu))
      throw new Problem(400, 'the compute family of an endpoint cannot be changed');
    const before = { ...(endpoint.gpu as GpuChoice) };
    if (body.gpu?.pools) delete before.excludedTypes; // a new selection, whole
    const gpu = body.gpu && {
      ...before,
      ...body.gpu,
      minCudaVersion: (body.gpu.minCudaVersion ?? before.minCudaVersion) || null,
    };
    checkGpu(gpu, body.gpu);
    checkScaling(body, { ...endpoint, ...body });
    checkVolumes(body);
    checkQuota(body, endpoint.id);
    const template = body.templateId === undefined ? undefined : templateOf(body);
    const scaling = (body.scaling ?? endpoint.scaling) as { type: string };
    const changed = {
      ...(template && { ...pick(template, CONTAINER), env: template.env }),
      ...pick(body, [...CONTAINER, 'name', 'scaling', 'dataCenterIds', 'networkVolumes', 'timeout', 'flashboot']),
      ...(body.env && { env: { ...(template?.env as object), ...body.env } }),
      ...(gpu && { gpu }),
      workers: { ...(endpoint.workers as object), ...body.workers },
    };
    if (scaling.type === 'REQUEST_COUNT') delete (changed.workers as { idleTimeout?: number }).idleTimeout;
    const diff = [...CONTAINER, 'env'].flatMap((field) => {
      const [old, now] = [endpoint[field], (changed as Record<string, unknown>)[field]];
      const isSame = now === undefined || JSON.stringify(old) === JSON.stringify(now);
      return isSame ? [] : [{ field: `template.${field === 'image' ? 'imageName' : field}`, old, new: now }];
    });
    Object.assign(endpoint, changed);
    if (diff.length > 0) release(endpoint.id, diff);
    return c.json(endpoint);
  });
  app.delete('/v2/serverless/:id', (c) => {
    const { id } = one(c, endpoints);
    endpoints.delete(id);
    const template = bound.get(id);
    bound.delete(id);
    if (bindsTemplates && template) templates.delete(template);
    return c.body(null, 204);
  });
  app.get('/v2/serverless/:id/workers', (c) => {
    const { id } = one(c, endpoints);
    const list = workers.get(id)!;
    const of = (status: string) => list.filter((worker) => worker.status === status).length;
    const summary = {
      ...{ running: of('RUNNING'), idle: of('IDLE'), initializing: of('INITIALIZING') },
      ...{ throttled: of('THROTTLED'), unhealthy: of('UNHEALTHY'), total: list.length },
    };
    return c.json({ workers: list, summary, endpointVersion: releases.get(id)!.length });
  });
  app.get('/v2/serverless/:id/releases', (c) => {
    const { id } = one(c, endpoints);
    const list = workers.get(id)!;
    const latest = list.filter((worker) => !worker.isStale).length;
    const rollout = {
      inProgress: latest < list.length,
      workersOnLatest: latest,
      workersTotal: list.length,
      percentOnLatest: list.length === 0 ? 0 : Math.round((100 * latest) / list.length),
    };
    return c.json({ endpointVersion: releases.get(id)!.length, rollout, releases: releases.get(id)!.toReversed() });
  });

  function release(id: string, diff: object[]) {
    const list = releases.get(id)!;
    const version = list.length + 1;
    const createdAt = new Date().toISOString();
    list.push({
      ...{ id: newId(), name: '', version, source: 'MANUAL', buildId: null, workerCount: 0 },
      createdAt,
      diff,
    });
  }

  function templateOf({ templateId }: Body): Thing {
    const template = templates.get(String(templateId));
    if (!template) throw new Problem(404, 'template not found');
    if (!template.serverless) throw new Problem(422, 'the template is not a serverless template');
    return template;
  }

  /** @param chosen what is to hold @param sent what this request says of it */
  function checkGpu(chosen: GpuChoice | undefined, sent: GpuChoice | undefined) {
    if (!chosen || !sent) return;
    if (sent.minCudaVersion && sent.allowedCudaVersions?.length)
      throw new Problem(400, 'gpu.minCudaVersion and gpu.allowedCudaVersions are mutually exclusive');
    const types = GPUS.filter(([, , pool]) => pool !== null && chosen.pools.includes(pool)).map(([id]): string => id);
    const pool = chosen.pools.find((name) => !GPUS.some(([, , known]) => known === name));
    if (pool) throw new Problem(400, `unknown GPU pool ${pool}`); // the document leaves the status open
    const excluded = (chosen.excludedTypes ?? []).map((type) => type.trim());
    const stranger = excluded.find((type) => !types.includes(type));
    if (stranger) throw new Problem(400, `${stranger} is not in the selected pools`);
    if (types.every((type) => excluded.includes(type))) throw new Problem(400, 'no GPU type is left');
  }

  function checkScaling(sent: Body, whole: Record<string, unknown>) {
    const { type } = whole.scaling as { type: string };
    if (whole.type === 'QUEUE' && type === 'REQUEST_COUNT' && sent.workers?.idleTimeout !== undefined)
      throw new Problem(400, 'workers.idleTimeout does not apply to queue-based endpoints scaling on requestCount');
    if (whole.type === 'LOAD_BALANCER' && type === 'QUEUE_DELAY')
      throw new Problem(400, 'QUEUE_DELAY is for queue-based endpoints only');
  }

  /** The document is silent on volumes that are not there. */
  function checkVolumes({ networkVolumes = [] }: Body) {
    for (const id of networkVolumes as string[])
      if (!volumes.has(id)) throw new Problem(400, `network volume ${id} not found`);
  }

  /** The document is silent on an account's limit of workers; RunPod's pages tell of it. */
  function checkQuota(body: Body, id: string) {
    const others = [...endpoints.values()].filter((endpoint) => endpoint.id !== id);
    const most = (thing: unknown) => (thing as Body).workers?.max ?? 3;
    const sum = others.reduce((total, endpoint) => total + most(endpoint), 0) + (body.workers ? most(body) : 0);
    if (sum > quota) throw new Problem(400, `max workers across endpoints would exceed your workers quota (${quota})`);
  }

  // templates

  app.get('/v2/templates', (c) => c.json({ templates: [...templates.values()] }));
  app.get('/v2/templates/:id', (c) => c.json(one(c, templates)));
  app.post('/v2/templates', async (c) => {
    const body = await bodyOf(c);
    const template = {
      ...{ args: '', disk: 20, ports: [], env: {}, registry: null, mounts: {}, allowedCudaVersions: [] },
      ...{ serverless: false, public: false, category: 'NVIDIA', startSsh: true, startJupyter: true },
      ...body,
      id: newId(),
    } as unknown as Thing;
    templates.set(template.id, template);
    return c.json(template, 201);
  });
  app.patch('/v2/templates/:id', async (c) => c.json(Object.assign(one(c, templates), await bodyOf(c))));
  app.delete('/v2/templates/:id', (c) => {
    const { id } = one(c, templates);
    if (bindsTemplates && [...bound.values()].includes(id)) throw new Problem(400, 'the template is in use');
    templates.delete(id);
    return c.body(null, 204);
  });

  // network volumes

  app.get('/v2/network-volumes', (c) => c.json({ networkVolumes: [...volumes.values()] }));
  app.get('/v2/network-volumes/:id', (c) => c.json(one(c, volumes)));
  app.post('/v2/network-volumes', async (c) => {
    const body = await bodyOf(c);
    if (!DATA_CENTERS.includes(String(body.dataCenter))) throw new Problem(400, 'unknown data center'); // the document is silent
    const volume = { type: 'STANDARD', ...body, id: newId() } as unknown as Thing;
    volumes.set(volume.id, volume);
    return c.json(volume, 201);
  });
  app.patch('/v2/network-volumes/:id', async (c) => {
    const volume = one(c, volumes);
    const body = await bodyOf(c);
    if ((body.size as number) < (volume.size as number)) throw new Problem(400, 'size may only increase');
    return c.json(Object.assign(volume, body));
  });
  app.delete('/v2/network-volumes/:id', (c) => {
    volumes.delete(one(c, volumes).id);
    return c.body(null, 204);
  });

  // catalog

  app.get('/v2/catalog/gpus', (c) => {
    const { include, product, minCudaVersion, count } = c.req.query();
    if ((include === 'AVAILABILITY') !== (product !== undefined) || (!include && (minCudaVersion || count)))
      throw new Problem(400, 'product is required with include=AVAILABILITY, and filters are valid only with it');
    if (minCudaVersion && !/^\d+(\.\d+)?$/.test(minCudaVersion)) throw new Problem(422, 'malformed minCudaVersion');
    const gpus = GPUS.map(([id, name, pool, memory, serverless, stock]) => ({
      ...{ id, name, pool, memory, manufacturer: 'NVIDIA', secure: true, community: false },
      price: { secure: 0.5, community: 0, ...(serverless !== undefined && { serverless }) },
      maxCount: { secure: 8, community: 0 },
      ...(include && {
        availability: Object.values(stock).find((level) => level !== 'NONE') ?? 'NONE',
        dataCenters: Object.entries(stock).map(([place, availability]) => ({ id: place, name: place, availability })),
      }),
    }));
    return c.json({ gpus });
  });

  const { url, close } = await serveOnLoopback(getRequestListener(app.fetch));
  return Object.assign(state, { url: `${url}/v2`, close });
}

/** Of a template and an endpoint alike; `env` has rules of its own. */
const CONTAINER = ['image', 'args', 'disk', 'ports', 'registry'];

const pick = (from: Record<string, unknown>, names: string[]) =>
  Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]));

const newId = () => randomBytes(5).toString('hex');

function one(c: Context, things: Map<string, Thing>): Thing {
  const thing = things.get(c.req.param('id')!);
  if (!thing) throw new Problem(404, 'resource not found');
  return thing;
}

class Problem extends Error {
  constructor(
    readonly status: number,
    detail = 'request could not be processed',
    readonly errors?: string[],
  ) {
    super(detail);
  }
}

const problem = (c: Context, { status, message, errors }: Problem, headers: Record<string, string> = {}) =>
  c.json({ title: 'Refused', status, detail: message, ...(errors && { errors }) }, status as ContentfulStatusCode, {
    'content-type': 'application/problem+json',
    ...headers,
  });

/** The operation's entry in the document. */
function operationOf({ req }: Context) {
  const template = Object.keys(DOCUMENT.paths).find((path) =>
    new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`).test(req.path),
  );
  return template && DOCUMENT.paths[template][req.method.toLowerCase()];
}

function faultsIn(value: unknown, schema: Schema): string[] {
  const { components } = DOCUMENT;
  const validator = new Validator({ $id: 'https://runpod.test/', components, ...schema }, '2020-12', false);
  return validator.validate(value).errors.map(({ instanceLocation, error }) => `${instanceLocation}: ${error}`);
}

async function bodyOf(c: Context): Promise<Body> {
  const body = await c.req.json().catch(() => {
    throw new Problem(400, 'malformed JSON');
  });
  const faults = faultsIn(body, operationOf(c).requestBody.content['application/json'].schema);
  if (faults.length > 0) throw new Problem(422, 'Request validation failed.', faults);
  return body;
}

/** @throws Error: this stand-in does not answer as RunPod's document says */
async function checkAnswer(c: Context) {
  const { responses } = operationOf(c) ?? {};
  if (!responses) return;
  const { status } = c.res;
  const found = responses[status] ?? responses.default;
  const response = found.$ref ? DOCUMENT.components.responses[found.$ref.split('/').at(-1)] : found;
  const schema = (response.content?.['application/json'] ?? response.content?.['application/problem+json'])?.schema;
  if (!schema) return;
  const faults = faultsIn(await c.res.clone().json(), schema);
  if (faults.length > 0) throw new Error(`the stand-in’s answer ${status} is not RunPod’s: ${faults.join('; ')}`);
}
