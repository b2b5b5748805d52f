/**
 * A simulator of RunPod's REST v2, as far as an endpoint with its template and network volume needs it. RunPod's own OpenAPI document
 * validates requests and answers. Rules that the document has in prose are checked here; where it is silent, a comment says so.
 */
import { randomBytes } from 'node:crypto';
import { getRequestListener, type HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import { serveOnLoopback } from './loopback.ts';
import { answerProblem, checkAnswer, Problem, readBody } from './runpod-rest-document.ts';
import {
  type Body,
  changeEndpoint,
  createEndpoint,
  createState,
  GPUS,
  type Resource,
  type RestState,
} from './runpod-rest-endpoints.ts';

/** What happens to a request in place of its answer; `applied`: the request takes effect first. */
export type Fault = { applied?: boolean } & (
  | { status: number; detail?: string; errors?: string[]; headers?: Record<string, string> }
  | { broken: true }
);

export type RestServer = Awaited<ReturnType<typeof startRestServer>>;

/**
 * Starts it on loopback. `url` includes the version, as RUNPOD_REST_URL does.
 * @param options quota: how many workers all endpoints may have together; bindsTemplates: whether a template in use can't be deleted, and
 * goes with its endpoint (RunPod's document leaves it open)
 */
export async function startRestServer(apiKey: string, { quota = 5, bindsTemplates = false } = {}) {
  const state = createState(quota);
  const control = {
    /** every request with a valid key, in order; the path is without the query */
    requests: [] as { method: string; path: string; body: unknown }[],
    /** @returns the fault of a request; `path` is without the version */
    fault: undefined as ((method: string, path: string, body: unknown) => Fault | undefined) | undefined,
  };

  const app = new Hono<{ Bindings: HttpBindings }>();
  app.onError((error, c) => {
    if (error instanceof Problem) return answerProblem(c, error);
    console.error(error); // a mistake of the simulator
    return answerProblem(c, new Problem(500, error.message));
  });
  app.notFound((c) => answerProblem(c, new Problem(404, 'resource not found')));

  app.use(async (c, next) => {
    if (c.req.header('authorization') !== `Bearer ${apiKey}`) throw new Problem(401, 'invalid bearer token');
    const { method, path } = c.req;
    const text = await c.req.text();
    const body = text === '' ? undefined : JSON.parse(text);
    control.requests.push({ method, path, body });
    const fault = control.fault?.(method, path.replace('/v2', ''), body);
    if (!fault || fault.applied) await next();
    if (fault && 'broken' in fault) {
      c.env.outgoing.destroy();
      c.res = RESPONSE_ALREADY_SENT;
    } else if (fault) {
      c.res = answerProblem(c, new Problem(fault.status, fault.detail, fault.errors), fault.headers);
    } else {
      c.header('RateLimit', '"minute";r=59;t=60');
      c.header('RateLimit-Policy', '"minute";q=60;w=60');
      await checkAnswer(c);
    }
  });
  app.route('/v2/serverless', resourceRoutes('endpoints', state.endpoints, endpointRules(state, bindsTemplates)));
  app.route('/v2/serverless', rolloutRoutes(state));
  app.route('/v2/templates', resourceRoutes('templates', state.templates, templateRules(state, bindsTemplates)));
  app.route('/v2/network-volumes', resourceRoutes('networkVolumes', state.volumes, VOLUME_RULES));
  app.get('/v2/catalog/gpus', listGpus);

  const { url, close } = await serveOnLoopback(getRequestListener(app.fetch));
  return Object.assign(control, state, { url: `${url}/v2`, close });
}

/** What differs between resources. Each throws a Problem where the request is refused. */
interface Rules {
  create: (body: Body, id: string) => Resource;
  /** @returns the fields that a PATCH changes; default: the body */
  change?: (resource: Resource, body: Body) => Body;
  beforeDelete?: (id: string) => void;
}

function resourceRoutes(name: string, resources: Map<string, Resource>, rules: Rules) {
  const find = (c: Context) => {
    const resource = resources.get(c.req.param('id')!);
    if (!resource) throw new Problem(404, 'resource not found');
    return resource;
  };
  const app = new Hono();
  app.get('/', (c) => c.json({ [name]: [...resources.values()] }));
  app.get('/:id', (c) => c.json(find(c)));
  app.post('/', async (c) => {
    const id = randomBytes(5).toString('hex');
    const resource = rules.create(await readBody(c), id);
    resources.set(id, resource);
    return c.json(resource, 201);
  });
  app.patch('/:id', async (c) => {
    const resource = find(c);
    const body = await readBody(c);
    return c.json(Object.assign(resource, rules.change?.(resource, body) ?? body));
  });
  app.delete('/:id', (c) => {
    const { id } = find(c);
    rules.beforeDelete?.(id);
    resources.delete(id);
    return c.body(null, 204);
  });
  return app;
}

const endpointRules = (state: RestState, bindsTemplates: boolean): Rules => ({
  create: (body, id) => createEndpoint(state, body, id),
  change: (endpoint, body) => changeEndpoint(state, endpoint, body),
  beforeDelete(id) {
    if (bindsTemplates) state.templates.delete(state.boundTemplates.get(id) ?? '');
    state.boundTemplates.delete(id);
  },
});

const templateRules = ({ boundTemplates }: RestState, bindsTemplates: boolean): Rules => ({
  create: ({ name, ...body }, id) => ({
    ...{ id, name, args: '', disk: 20, ports: [], env: {}, registry: null, mounts: {}, allowedCudaVersions: [] },
    ...{ serverless: false, public: false, category: 'NVIDIA', startSsh: true, startJupyter: true },
    ...body,
  }),
  beforeDelete(id) {
    if (bindsTemplates && [...boundTemplates.values()].includes(id)) throw new Problem(400, 'the template is in use');
  },
});

const VOLUME_RULES: Rules = {
  create({ name, ...body }, id) {
    if (!GPUS.some(({ stock }) => Object.hasOwn(stock, body.dataCenter))) throw new Problem(400, 'unknown data center'); // not documented
    return { id, name, type: 'STANDARD', ...body };
  },
  change(volume, body) {
    if (body.size < volume.size) throw new Problem(400, 'size may only increase');
    return body;
  },
};

/** An endpoint's workers and releases. */
function rolloutRoutes({ endpoints, workers, releases }: RestState) {
  const app = new Hono();
  const read = (c: Context) => {
    const id = c.req.param('id')!;
    if (!endpoints.has(id)) throw new Problem(404, 'resource not found');
    return { list: workers.get(id) ?? [], history: releases.get(id)!, endpointVersion: releases.get(id)!.length };
  };
  app.get('/:id/workers', (c) => {
    const { list, endpointVersion } = read(c);
    const counts = ['RUNNING', 'IDLE', 'INITIALIZING', 'THROTTLED', 'UNHEALTHY'].map((status) => [
      status.toLowerCase(),
      list.filter((worker) => worker.status === status).length,
    ]);
    return c.json({ workers: list, summary: { ...Object.fromEntries(counts), total: list.length }, endpointVersion });
  });
  app.get('/:id/releases', (c) => {
    const { list, history, endpointVersion } = read(c);
    const latest = list.filter((worker) => !worker.isStale).length;
    const rollout = {
      inProgress: latest < list.length,
      workersOnLatest: latest,
      workersTotal: list.length,
      percentOnLatest: list.length === 0 ? 0 : Math.round((100 * latest) / list.length),
    };
    return c.json({ endpointVersion, rollout, releases: history.toReversed() });
  });
  return app;
}

function listGpus(c: Context) {
  const { include, product, minCudaVersion, count } = c.req.query();
  if ((include === 'AVAILABILITY') !== (product !== undefined) || (!include && (minCudaVersion || count)))
    throw new Problem(400, 'product is required with include=AVAILABILITY, and filters are valid only with it');
  if (minCudaVersion && !/^\d+(\.\d+)?$/.test(minCudaVersion)) throw new Problem(422, 'malformed minCudaVersion');
  const gpus = GPUS.map(({ stock, ...gpu }) => ({
    ...{ ...gpu, manufacturer: 'NVIDIA', secure: true, community: false, maxCount: { secure: 8, community: 0 } },
    ...(include && {
      availability: Object.values(stock).find((level) => level !== 'NONE') ?? 'NONE',
      dataCenters: Object.entries(stock).map(([id, availability]) => ({ id, name: id, availability })),
    }),
  }));
  return c.json({ gpus });
}
