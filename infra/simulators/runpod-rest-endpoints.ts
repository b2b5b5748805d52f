/** RunPod's REST v2: the rules of serverless endpoints that its OpenAPI document has in prose. */
import { readFileSync } from 'node:fs';
import { Problem } from './runpod-rest-document.ts';

// biome-ignore lint/suspicious/noExplicitAny: the OpenAPI document validates requests and answers
export type Body = Record<string, any>;
export type Resource = Body & { id: string; name: string };

export type RestState = ReturnType<typeof createState>;

/** @param quota how many workers all endpoints may have together */
export const createState = (quota: number) => ({
  quota,
  endpoints: new Map<string, Resource>(),
  templates: new Map<string, Resource>(),
  volumes: new Map<string, Resource>(),
  /** by endpoint, as RunPod lists them; only tests add some */
  workers: new Map<string, Body[]>(),
  /** by endpoint, oldest first */
  releases: new Map<string, Body[]>(),
  /** the id of each endpoint's template */
  boundTemplates: new Map<string, string>(),
});

/** The catalog. Memory is in GB, prices in USD an hour, `stock` the availability by data center. */
export const GPUS: (Body & { id: string; pool: string | null; stock: Record<string, string> })[] = JSON.parse(
  readFileSync(new URL('testdata/runpod-gpus.json', import.meta.url), 'utf8'),
);

/** Fields that templates and endpoints share, besides `env`, which is merged. */
const CONTAINER_FIELDS = ['image', 'args', 'disk', 'ports', 'registry'];

/** With RunPod's defaults. The template's fields are copied; later changes of the template have no effect. */
export function createEndpoint(state: RestState, body: Body, id: string): Resource {
  if (Boolean(body.gpu) === Boolean(body.cpu)) throw new Problem(400, 'exactly one of gpu and cpu is required');
  const template = findTemplate(state, body);
  const url = (operation: string) => `https://api.runpod.ai/v2/${id}/${operation}`;
  const allowedCudaVersions = body.gpu?.minCudaVersion ? [] : (template?.allowedCudaVersions ?? []);
  const endpoint = {
    ...{ id, name: body.name, type: body.type, args: '', disk: 20, ports: [], registry: null },
    requestUrls: {
      ...{ run: url('run'), runSync: url('runsync'), status: url('status/{job_id}'), stream: url('stream/{job_id}') },
      ...{ cancel: url('cancel/{job_id}'), retry: url('retry/{job_id}') },
      ...{ purgeQueue: url('purge-queue'), health: url('health') },
    },
    ...pick(template ?? {}, CONTAINER_FIELDS),
    ...{ dataCenterIds: [], networkVolumes: [], timeout: 300_000, flashboot: 'OFF' },
    ...pick(body, [...CONTAINER_FIELDS, 'scaling', 'dataCenterIds', 'networkVolumes', 'timeout', 'flashboot']),
    env: { ...template?.env, ...body.env },
    ...(body.gpu && { gpu: { count: 1, minCudaVersion: null, allowedCudaVersions, ...body.gpu } }),
    ...(body.cpu && { cpu: body.cpu.map((cpu: Body) => ({ ...cpu, memory: 16 })) }),
    workers: { min: 0, max: 3, ...(body.scaling.type === 'QUEUE_DELAY' && { idleTimeout: 10 }), ...body.workers },
    createdAt: new Date().toISOString(),
  };
  checkEndpoint(state, endpoint, body);
  if (template) state.boundTemplates.set(id, template.id);
  addRelease(state, id, []);
  return endpoint;
}

/** @returns the fields that a PATCH changes, with their new values */
export function changeEndpoint(state: RestState, endpoint: Resource, body: Body): Body {
  if ((body.gpu && endpoint.cpu) || (body.cpu && endpoint.gpu))
    throw new Problem(400, 'the compute family of an endpoint cannot be changed');
  const template = findTemplate(state, body);
  const gpu = { ...endpoint.gpu };
  if (body.gpu?.pools) delete gpu.excludedTypes; // a new selection replaces the old one
  const minCudaVersion = (body.gpu?.minCudaVersion ?? gpu.minCudaVersion) || null;
  const workers = { ...endpoint.workers, ...body.workers };
  if ((body.scaling ?? endpoint.scaling).type === 'REQUEST_COUNT') delete workers.idleTimeout;
  const changes: Body = {
    ...(template && pick(template, [...CONTAINER_FIELDS, 'env'])),
    ...pick(body, [...CONTAINER_FIELDS, 'name', 'scaling', 'dataCenterIds', 'networkVolumes', 'timeout', 'flashboot']),
    ...(body.env && { env: { ...template?.env, ...body.env } }),
    ...(body.gpu && { gpu: { ...gpu, ...body.gpu, minCudaVersion } }),
    workers,
  };
  checkEndpoint(state, { ...endpoint, ...changes }, body);
  const diff = [...CONTAINER_FIELDS, 'env']
    .filter((field) => field in changes && JSON.stringify(endpoint[field]) !== JSON.stringify(changes[field]))
    .map((field) => ({
      field: `template.${field === 'image' ? 'imageName' : field}`,
      ...{ old: endpoint[field], new: changes[field] },
    }));
  if (diff.length > 0) addRelease(state, endpoint.id, diff);
  return changes;
}

function findTemplate({ templates }: RestState, { templateId }: Body): Resource | undefined {
  if (templateId === undefined) return undefined;
  const template = templates.get(templateId);
  if (!template) throw new Problem(404, 'template not found');
  if (!template.serverless) throw new Problem(422, 'the template is not a serverless template');
  return template;
}

/** @param endpoint as it would be @param body what the request changes */
function checkEndpoint(state: RestState, endpoint: Resource, body: Body) {
  if (body.gpu) checkGpu(endpoint.gpu, body.gpu);
  const { type } = endpoint.scaling;
  if (endpoint.type === 'QUEUE' && type === 'REQUEST_COUNT' && body.workers?.idleTimeout !== undefined)
    throw new Problem(400, 'workers.idleTimeout does not apply to queue-based endpoints scaling on requestCount');
  if (endpoint.type === 'LOAD_BALANCER' && type === 'QUEUE_DELAY')
    throw new Problem(400, 'QUEUE_DELAY is for queue-based endpoints only');
  for (const id of body.networkVolumes ?? [])
    if (!state.volumes.has(id)) throw new Problem(400, `network volume ${id} not found`); // not in the document
  // The document does not mention an account's limit of workers; RunPod's web pages do.
  const others = [...state.endpoints.values()].filter(({ id }) => id !== endpoint.id);
  const total = [...others, endpoint].reduce((sum, { workers }) => sum + workers.max, 0);
  if (total > state.quota)
    throw new Problem(400, `max workers across endpoints would exceed your workers quota (${state.quota})`);
}

function checkGpu({ pools, excludedTypes = [] }: Body, body: Body) {
  if (body.minCudaVersion && body.allowedCudaVersions?.length)
    throw new Problem(400, 'gpu.minCudaVersion and gpu.allowedCudaVersions are mutually exclusive');
  const unknownPool = pools.find((name: string) => !GPUS.some(({ pool }) => pool === name));
  if (unknownPool) throw new Problem(400, `unknown GPU pool ${unknownPool}`); // the document leaves the status open
  const types = GPUS.filter(({ pool }) => pools.includes(pool)).map(({ id }) => id);
  const excluded: string[] = excludedTypes.map((type: string) => type.trim());
  const unrelated = excluded.find((type) => !types.includes(type));
  if (unrelated) throw new Problem(400, `${unrelated} is not in the selected pools`);
  if (types.every((type) => excluded.includes(type))) throw new Problem(400, 'no GPU type is left');
}

function addRelease({ releases }: RestState, endpointId: string, diff: Body[]) {
  const earlier = releases.get(endpointId) ?? [];
  const version = earlier.length + 1;
  const release = {
    id: `${endpointId}-${version}`,
    name: '',
    version,
    source: 'MANUAL',
    buildId: null,
    workerCount: 0,
  };
  releases.set(endpointId, [...earlier, { ...release, createdAt: new Date().toISOString(), diff }]);
}

const pick = (from: Body, names: string[]) =>
  Object.fromEntries(names.filter((name) => from[name] !== undefined).map((name) => [name, from[name]]));
