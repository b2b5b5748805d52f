/** RunPod's REST v2: serverless endpoints with their workers and releases. */
import { Hono } from 'hono';
import { Problem, readBody } from './runpod-rest-document.ts';
import { findResource, GPUS, newId, type Resource, type RestState } from './runpod-rest-state.ts';

interface GpuSelection {
  pools: string[];
  excludedTypes?: string[];
  count?: number;
  allowedCudaVersions?: string[];
  minCudaVersion?: string | null;
}

/** A request's body; the OpenAPI document says more. */
type EndpointBody = Record<string, unknown> & {
  gpu?: GpuSelection;
  workers?: { min?: number; max?: number; idleTimeout?: number };
  env?: Record<string, string>;
};

/** Fields that templates and endpoints share, besides `env`, which is merged. */
const CONTAINER_FIELDS = ['image', 'args', 'disk', 'ports', 'registry'];

export function endpointRoutes(state: RestState) {
  const { endpoints, workers, releases, boundTemplates } = state;
  const app = new Hono();

  app.get('/', (c) => c.json({ endpoints: [...endpoints.values()] }));
  app.get('/:id', (c) => c.json(findResource(c, endpoints)));
  app.post('/', async (c) => {
    const body = await readBody<EndpointBody>(c);
    const template = findTemplate(state, body);
    const endpoint = newEndpoint(body, template);
    checkBody(state, endpoint, body);
    endpoints.set(endpoint.id, endpoint);
    if (template) boundTemplates.set(endpoint.id, template.id);
    workers.set(endpoint.id, []);
    releases.set(endpoint.id, []);
    addRelease(state, endpoint.id, []);
    return c.json(endpoint, 201);
  });
  app.patch('/:id', async (c) => {
    const endpoint = findResource(c, endpoints);
    const body = await readBody<EndpointBody>(c);
    if ((body.gpu && endpoint.cpu) || (body.cpu && endpoint.gpu))
      throw new Problem(400, 'the compute family of an endpoint cannot be changed');
    const changes = changesOf(endpoint, body, findTemplate(state, body));
    checkBody(state, { ...endpoint, ...changes }, body);
    const diff = [...CONTAINER_FIELDS, 'env'].flatMap((field) => {
      const [before, after] = [endpoint[field], changes[field]];
      if (after === undefined || JSON.stringify(before) === JSON.stringify(after)) return [];
      return [{ field: `template.${field === 'image' ? 'imageName' : field}`, old: before, new: after }];
    });
    Object.assign(endpoint, changes);
    if (diff.length > 0) addRelease(state, endpoint.id, diff);
    return c.json(endpoint);
  });
  app.delete('/:id', (c) => {
    const { id } = findResource(c, endpoints);
    endpoints.delete(id);
    const template = boundTemplates.get(id);
    boundTemplates.delete(id);
    if (state.bindsTemplates && template) state.templates.delete(template);
    return c.body(null, 204);
  });

  app.get('/:id/workers', (c) => {
    const { id } = findResource(c, endpoints);
    const list = workers.get(id)!;
    const count = (status: string) => list.filter((worker) => worker.status === status).length;
    const summary = {
      ...{ running: count('RUNNING'), idle: count('IDLE'), initializing: count('INITIALIZING') },
      ...{ throttled: count('THROTTLED'), unhealthy: count('UNHEALTHY'), total: list.length },
    };
    return c.json({ workers: list, summary, endpointVersion: releases.get(id)!.length });
  });
  app.get('/:id/releases', (c) => {
    const { id } = findResource(c, endpoints);
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

  return app;
}

/** With RunPod's defaults. The template's fields are copied; later changes of the template have no effect. */
function newEndpoint(body: EndpointBody, template: Resource | undefined): Resource {
  if (Boolean(body.gpu) === Boolean(body.cpu)) throw new Problem(400, 'exactly one of gpu and cpu is required');
  const id = newId();
  const url = (operation: string) => `https://api.runpod.ai/v2/${id}/${operation}`;
  const cudaVersions = body.gpu?.minCudaVersion ? [] : (template?.allowedCudaVersions ?? []);
  const scalesByDelay = (body.scaling as { type: string }).type === 'QUEUE_DELAY';
  return {
    id,
    name: body.name as string,
    type: body.type,
    requestUrls: {
      ...{ run: url('run'), runSync: url('runsync'), status: url('status/{job_id}'), stream: url('stream/{job_id}') },
      ...{ cancel: url('cancel/{job_id}'), retry: url('retry/{job_id}') },
      ...{ purgeQueue: url('purge-queue'), health: url('health') },
    },
    ...{ args: '', disk: 20, ports: [], registry: null },
    ...(template && pick(template, CONTAINER_FIELDS)),
    ...pick(body, CONTAINER_FIELDS),
    env: { ...(template?.env as object), ...body.env },
    ...(body.gpu && { gpu: { count: 1, minCudaVersion: null, allowedCudaVersions: cudaVersions, ...body.gpu } }),
    ...(body.cpu ? { cpu: (body.cpu as object[]).map((cpu) => ({ ...cpu, memory: 16 })) } : {}),
    workers: { min: 0, max: 3, ...(scalesByDelay && { idleTimeout: 10 }), ...body.workers },
    scaling: body.scaling,
    dataCenterIds: body.dataCenterIds ?? [],
    networkVolumes: body.networkVolumes ?? [],
    timeout: body.timeout ?? 300_000,
    flashboot: body.flashboot ?? 'OFF',
    createdAt: new Date().toISOString(),
  };
}

/** The fields that a PATCH changes, with their new values. */
function changesOf(endpoint: Resource, body: EndpointBody, template: Resource | undefined): Record<string, unknown> {
  const before = { ...(endpoint.gpu as GpuSelection) };
  if (body.gpu?.pools) delete before.excludedTypes; // a new selection replaces the old one
  const minCudaVersion = (body.gpu?.minCudaVersion ?? before.minCudaVersion) || null;
  const workers: EndpointBody['workers'] = { ...(endpoint.workers as object), ...body.workers };
  const { type } = (body.scaling ?? endpoint.scaling) as { type: string };
  if (type === 'REQUEST_COUNT') delete workers.idleTimeout;
  return {
    ...(template && { ...pick(template, CONTAINER_FIELDS), env: template.env }),
    ...pick(body, [...CONTAINER_FIELDS, 'name', 'scaling', 'dataCenterIds', 'networkVolumes', 'timeout', 'flashboot']),
    ...(body.env && { env: { ...(template?.env as object), ...body.env } }),
    ...(body.gpu && { gpu: { ...before, ...body.gpu, minCudaVersion } }),
    workers,
  };
}

function findTemplate({ templates }: RestState, { templateId }: EndpointBody): Resource | undefined {
  if (templateId === undefined) return undefined;
  const template = templates.get(String(templateId));
  if (!template) throw new Problem(404, 'template not found');
  if (!template.serverless) throw new Problem(422, 'the template is not a serverless template');
  return template;
}

/** The rules that the OpenAPI document has in prose. @param endpoint as it would be @param body what the request changes */
function checkBody(state: RestState, endpoint: Resource, body: EndpointBody) {
  if (body.gpu) checkGpu(endpoint.gpu as GpuSelection, body.gpu);
  const { type } = endpoint.scaling as { type: string };
  if (endpoint.type === 'QUEUE' && type === 'REQUEST_COUNT' && body.workers?.idleTimeout !== undefined)
    throw new Problem(400, 'workers.idleTimeout does not apply to queue-based endpoints scaling on requestCount');
  if (endpoint.type === 'LOAD_BALANCER' && type === 'QUEUE_DELAY')
    throw new Problem(400, 'QUEUE_DELAY is for queue-based endpoints only');
  for (const id of (body.networkVolumes ?? []) as string[])
    if (!state.volumes.has(id)) throw new Problem(400, `network volume ${id} not found`); // not in the document
  checkQuota(state, endpoint.id, body);
}

function checkGpu(selection: GpuSelection, body: GpuSelection) {
  if (body.minCudaVersion && body.allowedCudaVersions?.length)
    throw new Problem(400, 'gpu.minCudaVersion and gpu.allowedCudaVersions are mutually exclusive');
  const unknownPool = selection.pools.find((name) => !GPUS.some(({ pool }) => pool === name));
  if (unknownPool) throw new Problem(400, `unknown GPU pool ${unknownPool}`); // the document leaves the status open
  const types = GPUS.filter(({ pool }) => pool !== null && selection.pools.includes(pool)).map(({ id }) => id);
  const excluded = (selection.excludedTypes ?? []).map((type) => type.trim());
  const unrelated = excluded.find((type) => !types.includes(type));
  if (unrelated) throw new Problem(400, `${unrelated} is not in the selected pools`);
  if (types.every((type) => excluded.includes(type))) throw new Problem(400, 'no GPU type is left');
}

/** The document does not mention an account's limit of workers; RunPod's web pages do. */
function checkQuota({ endpoints, quota }: RestState, id: string, body: EndpointBody) {
  const maxWorkers = (of: unknown) => (of as EndpointBody).workers?.max ?? 3;
  const others = [...endpoints.values()].filter((endpoint) => endpoint.id !== id);
  const total = [...others, ...(body.workers ? [body] : [])].reduce((sum, one) => sum + maxWorkers(one), 0);
  if (total > quota) throw new Problem(400, `max workers across endpoints would exceed your workers quota (${quota})`);
}

function addRelease({ releases }: RestState, endpointId: string, diff: object[]) {
  const list = releases.get(endpointId)!;
  list.push({
    ...{ id: newId(), name: '', version: list.length + 1, source: 'MANUAL', buildId: null, workerCount: 0 },
    createdAt: new Date().toISOString(),
    diff,
  });
}

const pick = (from: Record<string, unknown>, names: string[]) =>
  Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]));
