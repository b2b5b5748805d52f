/**
 * A simulator of RunPod's REST v2, as far as an endpoint with its template and network volume needs it. RunPod's own OpenAPI document
 * validates requests and answers. Rules that the document has in prose are checked here; where it is silent, a comment says so.
 */
import { getRequestListener, type HttpBindings } from '@hono/node-server';
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { Hono } from 'hono';
import { serveOnLoopback } from './loopback.ts';
import { answerProblem, checkAnswer, Problem, readBody } from './runpod-rest-document.ts';
import { endpointRoutes } from './runpod-rest-endpoints.ts';
import {
  createState,
  findResource,
  GPUS,
  newId,
  type Resource,
  type RestServerOptions,
  type RestState,
} from './runpod-rest-state.ts';

/** What happens to a request in place of its answer; `applied`: the request takes effect first. */
export type Fault = { applied?: boolean } & (
  | { status: number; detail?: string; errors?: string[]; headers?: Record<string, string> }
  | { broken: true }
);

export type RestServer = Awaited<ReturnType<typeof startRestServer>>;

/** Starts it on loopback. `url` includes the version, as RUNPOD_REST_URL does. */
export async function startRestServer(options: RestServerOptions) {
  const state = createState(options);
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
    if (c.req.header('authorization') !== `Bearer ${options.apiKey}`) throw new Problem(401, 'invalid bearer token');
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
  app.route('/v2/serverless', endpointRoutes(state));
  app.route('/v2/templates', templateRoutes(state));
  app.route('/v2/network-volumes', volumeRoutes(state));
  app.route('/v2/catalog', catalogRoutes());

  const { url, close } = await serveOnLoopback(getRequestListener(app.fetch));
  return Object.assign(control, state, { url: `${url}/v2`, close });
}

function templateRoutes({ templates, boundTemplates, bindsTemplates }: RestState) {
  const app = new Hono();
  app.get('/', (c) => c.json({ templates: [...templates.values()] }));
  app.get('/:id', (c) => c.json(findResource(c, templates)));
  app.post('/', async (c) => {
    const template = {
      ...{ args: '', disk: 20, ports: [], env: {}, registry: null, mounts: {}, allowedCudaVersions: [] },
      ...{ serverless: false, public: false, category: 'NVIDIA', startSsh: true, startJupyter: true },
      ...(await readBody<Resource>(c)),
      id: newId(),
    };
    templates.set(template.id, template);
    return c.json(template, 201);
  });
  app.patch('/:id', async (c) => c.json(Object.assign(findResource(c, templates), await readBody(c))));
  app.delete('/:id', (c) => {
    const { id } = findResource(c, templates);
    if (bindsTemplates && [...boundTemplates.values()].includes(id)) throw new Problem(400, 'the template is in use');
    templates.delete(id);
    return c.body(null, 204);
  });
  return app;
}

function volumeRoutes({ volumes }: RestState) {
  const app = new Hono();
  app.get('/', (c) => c.json({ networkVolumes: [...volumes.values()] }));
  app.get('/:id', (c) => c.json(findResource(c, volumes)));
  app.post('/', async (c) => {
    const volume: Resource = { type: 'STANDARD', ...(await readBody<Resource>(c)), id: newId() };
    if (!GPUS.some(({ stock }) => Object.hasOwn(stock, String(volume.dataCenter))))
      throw new Problem(400, 'unknown data center'); // not documented
    volumes.set(volume.id, volume);
    return c.json(volume, 201);
  });
  app.patch('/:id', async (c) => {
    const volume = findResource(c, volumes);
    const body = await readBody<{ size: number }>(c);
    if (body.size < (volume.size as number)) throw new Problem(400, 'size may only increase');
    return c.json(Object.assign(volume, body));
  });
  app.delete('/:id', (c) => {
    volumes.delete(findResource(c, volumes).id);
    return c.body(null, 204);
  });
  return app;
}

function catalogRoutes() {
  return new Hono().get('/gpus', (c) => {
    const { include, product, minCudaVersion, count } = c.req.query();
    if ((include === 'AVAILABILITY') !== (product !== undefined) || (!include && (minCudaVersion || count)))
      throw new Problem(400, 'product is required with include=AVAILABILITY, and filters are valid only with it');
    if (minCudaVersion && !/^\d+(\.\d+)?$/.test(minCudaVersion)) throw new Problem(422, 'malformed minCudaVersion');
    const gpus = GPUS.map(({ price, stock, ...gpu }) => ({
      ...{ ...gpu, manufacturer: 'NVIDIA', secure: true, community: false },
      price: { secure: 0.5, community: 0, ...(price !== undefined && { serverless: price }) },
      maxCount: { secure: 8, community: 0 },
      ...(include && {
        availability: Object.values(stock).find((level) => level !== 'NONE') ?? 'NONE',
        dataCenters: Object.entries(stock).map(([id, availability]) => ({ id, name: id, availability })),
      }),
    }));
    return c.json({ gpus });
  });
}
