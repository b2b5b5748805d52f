/**
 * RunPod's public v2 API and its workers' side, over the queue of `queue.ts`: what `runpod-sdk` and a worker speak to.
 * The public side wants `Authorization: Bearer <key>`, the workers' side the bare key.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Context, Hono } from 'hono';
import { createQueue, type Queue, type QueuedJob, type QueueOptions, type Submission } from './queue.ts';

const SECOND = 1000;

export interface QueueServerOptions extends Omit<QueueOptions, 'onEnd'> {
  /** for both sides */
  apiKey: string;
  /** how long a worker's poll is held; milliseconds */
  hold?: number;
  /** how long after an unheard callback the next is sent, twice; milliseconds */
  callbackRetry?: number;
  /** one line, for the log */
  log?: (text: string) => void;
}

/** @returns the app, to be mounted at RUNPOD_BASE_URL's path, such as /v2 */
export function queueServer({
  apiKey,
  hold = 10 * SECOND,
  callbackRetry = 10 * SECOND,
  log = () => {},
  ...options
}: QueueServerOptions) {
  const queue: Queue = createQueue({ ...options, onEnd: (job) => void callBack(job) });
  const app = new Hono();

  app.use('/:endpoint/:operation{.+}', async (c, next) => {
    queue.sweep();
    const isWorkers = /^(job-|ping)/.test(c.req.param('operation'));
    if (c.req.header('authorization') !== (isWorkers ? apiKey : `Bearer ${apiKey}`))
      return c.json({ error: 'unauthorized' }, 401);
    await next();
  });

  // The public side.
  app.post('/:endpoint/run', async (c) => {
    const body = await submission(c);
    if (!body) return c.json({ error: 'input is required' }, 400);
    const { id, status } = queue.submit(body);
    return c.json({ id, status });
  });

  app.post('/:endpoint/runsync', async (c) => {
    const body = await submission(c);
    if (!body) return c.json({ error: 'input is required' }, 400);
    return c.json(await settled(queue.submit(body), c));
  });

  app.get('/:endpoint/status/:id', (c) => withJob(c, (job) => c.json(shown(job))));
  app.get('/:endpoint/status-sync/:id', (c) => withJob(c, async (job) => c.json(await settled(job, c))));
  app.get('/:endpoint/stream/:id', (c) =>
    withJob(c, (job) => c.json({ status: job.status, stream: job.stream.splice(0).map((output) => ({ output })) })),
  );
  app.post('/:endpoint/cancel/:id', (c) =>
    withJob(c, (job) => {
      queue.cancel(job);
      return c.json({ id: job.id, status: job.status });
    }),
  );
  app.post('/:endpoint/retry/:id', (c) =>
    withJob(c, (job) =>
      queue.retry(job) ? c.json({ id: job.id, status: job.status }) : c.json({ error: 'job can’t be retried' }, 400),
    ),
  );
  app.post('/:endpoint/purge-queue', (c) => c.json({ removed: queue.purge(), status: 'completed' }));
  app.get('/:endpoint/health', (c) => c.json(queue.health()));

  // The workers' side.
  app.get('/:endpoint/job-take/:worker', async (c) => {
    const [job] = await take(c, 1);
    return job ? c.json({ id: job.id, input: job.input, webhook: job.webhook }) : c.body(null, 204);
  });
  app.get('/:endpoint/job-take-batch/:worker', async (c) => {
    const jobs = await take(c, Math.max(1, Number(c.req.query('batch_size')) || 1));
    return jobs.length > 0 ? c.json(jobs.map(({ id, input, webhook }) => ({ id, input, webhook }))) : c.body(null, 204);
  });
  app.get('/:endpoint/job-stop/:worker', async (c) => {
    const worker = c.req.param('worker');
    const ids = await held(c, () => queue.stops(worker));
    return ids.length > 0 ? c.json({ jobsToStop: ids }) : c.body(null, 204);
  });
  app.post('/:endpoint/job-done/:worker/:id', (c) =>
    withJob(c, async (job) => {
      const message = await objectIn(c);
      if (!message) return c.json({ error: 'not a JSON object' }, 400);
      queue.report(job, c.req.param('worker'), message);
      return c.json({});
    }),
  );
  app.post('/:endpoint/job-stream/:worker/:id', (c) =>
    withJob(c, async (job) => {
      const message = await objectIn(c);
      if (!message) return c.json({ error: 'not a JSON object' }, 400);
      queue.chunk(job, c.req.param('worker'), message.output);
      return c.json({});
    }),
  );
  app.get('/:endpoint/ping/:worker', (c) => {
    queue.heard(c.req.param('worker'));
    return c.json({});
  });

  async function take(c: Context, count: number) {
    const worker = c.req.param('worker')!;
    queue.heard(worker);
    return held(c, () => queue.take(worker, count));
  }

  /** Asks again at each change until there is something, the hold is over or the worker has gone. */
  async function held<T>(c: Context, look: () => T[]): Promise<T[]> {
    const until = Date.now() + hold;
    for (;;) {
      if (c.req.raw.signal.aborted) return []; // nobody would hear of what is taken now
      const found = look();
      const left = until - Date.now();
      if (found.length > 0 || left <= 0) return found;
      await queue.change(left, c.req.raw.signal);
    }
  }

  /** The job as /status shows it once it has ended, or as it is after `?wait=` milliseconds. */
  async function settled(job: QueuedJob, c: Context) {
    const until = Date.now() + Math.min(300 * SECOND, Math.max(SECOND, Number(c.req.query('wait')) || 90 * SECOND));
    while (job.ended === undefined && Date.now() < until) {
      await queue.change(until - Date.now(), c.req.raw.signal);
      if (c.req.raw.signal.aborted) break;
    }
    return shown(job);
  }

  function withJob(c: Context, answer: (job: QueuedJob) => Response | Promise<Response>) {
    const job = queue.find(c.req.param('id')!);
    return job ? answer(job) : c.json({ error: 'job not found' }, 404);
  }

  /** RunPod's webhook: not signed, three tries. */
  async function callBack(job: QueuedJob) {
    if (!job.webhook) return;
    const body = JSON.stringify({ ...shown(job), input: job.input, webhook: job.webhook });
    for (let attempt = 1; attempt <= 3; attempt++) {
      const heard = await post(job.webhook, body);
      if (heard) return;
      log(`callback for job ${job.id} was not heard (attempt ${attempt} of 3)`);
      if (attempt < 3) await delay(callbackRetry, undefined, { ref: false });
    }
  }

  return { app, queue };
}

/** Whether whoever listens there answered 200. */
async function post(url: string, body: string): Promise<boolean> {
  try {
    const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    await response.arrayBuffer();
    return response.status === 200;
  } catch {
    return false; // nobody there
  }
}

async function submission(c: Context): Promise<Submission | undefined> {
  const body = await objectIn(c);
  if (body?.input == null) return undefined;
  return { ...body, input: body.input, policy: body.policy ?? {} } as Submission;
}

/** The body as a JSON object, whatever its content type says; a worker calls its own a form. */
async function objectIn(c: Context): Promise<Record<string, unknown> | undefined> {
  try {
    const body: unknown = JSON.parse(await c.req.text());
    return typeof body === 'object' && body !== null ? (body as Record<string, unknown>) : undefined;
  } catch {
    return undefined; // no JSON
  }
}

/** A job as the public API shows it: each field only when it is known. */
function shown({ id, status, created, started, ended, workerId, output, error, retries }: QueuedJob) {
  return {
    id,
    status,
    ...(started !== undefined && { delayTime: started - created }),
    ...(started !== undefined && ended !== undefined && { executionTime: ended - started }),
    ...(output !== undefined && { output }),
    ...(error !== undefined && { error }),
    ...(workerId !== undefined && { workerId }),
    ...(retries > 0 && { retries }),
  };
}
