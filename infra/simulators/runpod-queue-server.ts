/**
 * RunPod's queue over HTTP: the public v2 API, which `runpod-sdk` calls, and the workers' API. The public API wants
 * `Authorization: Bearer KEY`, the workers' API the key alone.
 */
import { setMaxListeners } from 'node:events';
import { type Context, Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import * as v from 'valibot';
import { DAY, MINUTE, SECOND } from '../../core/time.ts';
import { type Clock, realClock } from './clock.ts';
import { NEW_WORK, type QueuedJob, type QueueOptions, RunPodQueue, stopTopic } from './runpod-queue.ts';

const MB = 1e6;
/** Of bodies, both ways. RunPod documents the numbers; its workers' logs show that it answers 400 to larger ones. */
const MAX_BYTES = { run: 10 * MB, runsync: 20 * MB, chunk: MB };

export interface QueueServerOptions extends Omit<QueueOptions, 'onEnd'> {
  /** of both APIs */
  apiKey: string;
  /** how long a worker's long poll may take; milliseconds, default 10 s */
  pollTimeout?: number;
  /** between two attempts of a callback; milliseconds, default 10 s */
  callbackRetryDelay?: number;
  /** one line for the log */
  log?: (text: string) => void;
}

/** The variables that RunPod gives a worker. @param endpoint URL of an endpoint of the queue, such as http://127.0.0.1:8000/v2/local */
export const workerEnv = (endpoint: string, apiKey: string, workerId: string) => ({
  RUNPOD_AI_API_KEY: apiKey,
  RUNPOD_POD_ID: workerId,
  RUNPOD_WEBHOOK_GET_JOB: `${endpoint}/job-take/$ID?gpu=none`,
  RUNPOD_WEBHOOK_POST_OUTPUT: `${endpoint}/job-done/$RUNPOD_POD_ID/$ID?gpu=none`,
  RUNPOD_WEBHOOK_PING: `${endpoint}/ping/$RUNPOD_POD_ID`,
});

/** @returns the app, to be mounted at RUNPOD_BASE_URL's path, such as /v2; its queue; `close` ends held requests and callbacks */
export function queueServer({
  apiKey,
  pollTimeout = 10 * SECOND,
  callbackRetryDelay = 10 * SECOND,
  log = () => {},
  clock = realClock(),
  ...options
}: QueueServerOptions) {
  const closing = new AbortController();
  setMaxListeners(0, closing.signal); // one for each callback in progress
  const onEnd = (job: QueuedJob) => void sendCallback(job, { clock, callbackRetryDelay, log }, closing.signal);
  const queue = new RunPodQueue({ ...options, clock, onEnd });
  const app = new Hono();

  app.use('/:endpoint/:operation{.+}', async (c, next) => {
    queue.applyTimeouts();
    const [operation, workerId] = c.req.param('operation').split('/');
    const isWorkerApi = /^(job-|ping)/.test(operation!);
    if (c.req.header('authorization') !== (isWorkerApi ? apiKey : `Bearer ${apiKey}`))
      throw refuse(401, 'unauthorized');
    if (isWorkerApi && workerId) queue.touchWorker(workerId);
    await next();
  });
  app.route('/:endpoint', publicApi(queue));
  app.route('/:endpoint', workerApi(queue, pollTimeout));

  return {
    app,
    queue,
    close() {
      closing.abort();
      queue.close();
    },
  };
}

const MAX_CALLBACK_ATTEMPTS = 3;
/** How long a callback's answer may take. RunPod does not document it. */
const CALLBACK_TIMEOUT = 30 * SECOND;

/**
 * Posts a job that has completed or failed to its webhook, unsigned, until the answer is 200, at most three times. Cancelled jobs have no
 * callback. Never rejects.
 */
async function sendCallback(
  job: QueuedJob,
  { clock, callbackRetryDelay, log }: Required<Pick<QueueServerOptions, 'clock' | 'callbackRetryDelay' | 'log'>>,
  signal: AbortSignal,
) {
  const { id, input, webhook, status } = job;
  if (!webhook || status === 'CANCELLED') return;
  const body = JSON.stringify({ ...presentJob(job), input, webhook });
  for (let attempt = 1; attempt <= MAX_CALLBACK_ATTEMPTS && !signal.aborted; attempt++) {
    if (await isAccepted(webhook, body, clock, signal)) return;
    log(`callback for job ${id} was not accepted (attempt ${attempt} of ${MAX_CALLBACK_ATTEMPTS})`);
    if (attempt < MAX_CALLBACK_ATTEMPTS) await clock.sleep(callbackRetryDelay, signal);
  }
}

async function isAccepted(url: string, body: string, clock: Clock, signal: AbortSignal): Promise<boolean> {
  const timeout = new AbortController();
  void clock.sleep(CALLBACK_TIMEOUT, timeout.signal).then(() => timeout.abort());
  const headers = { 'content-type': 'application/json' };
  try {
    const either = AbortSignal.any([signal, timeout.signal]);
    const response = await fetch(url, { method: 'POST', headers, body, signal: either });
    await response.arrayBuffer();
    return response.status === 200;
  } catch {
    return false; // unreachable or too slow
  } finally {
    timeout.abort(); // ends the sleep
  }
}

/** A job as callbacks and the public API present it. Times are milliseconds; unknown fields are absent. */
const presentJob = ({ id, status, created, started, ended, workerId, output, error, retries }: QueuedJob) => ({
  id,
  status,
  ...(started !== undefined && { delayTime: started - created }),
  ...(started !== undefined && ended !== undefined && { executionTime: ended - started }),
  ...(output !== undefined && { output }),
  ...(error !== undefined && { error }),
  ...(workerId !== undefined && { workerId }),
  ...(retries > 0 && { retries }),
});

/** https://docs.runpod.io/serverless/endpoints/operation-reference */
function publicApi(queue: RunPodQueue) {
  const app = new Hono();

  app.post('/run', async (c) => {
    const { id, status } = queue.submit(await readSubmission(c, MAX_BYTES.run));
    return c.json({ id, status });
  });
  app.post('/runsync', async (c) => {
    // RunPod documents `wait` as how long results are kept; its clients use it as how long the answer may take. Here it is both.
    const retention = Math.max(MINUTE, readWait(c) ?? 0);
    const submission = await readSubmission(c, MAX_BYTES.runsync);
    return waitForEnd(queue.submit({ ...submission, sync: true, retention }), c);
  });
  app.get('/status/:id', (c) => c.json(presentJob(findJob(queue, c))));
  app.get('/status-sync/:id', (c) => waitForEnd(findJob(queue, c), c));
  app.get('/stream/:id', (c) => {
    const { status, stream } = findJob(queue, c);
    return c.json({ status, stream: stream.splice(0).map((output) => ({ output })) });
  });
  app.post('/cancel/:id', (c) => {
    const job = findJob(queue, c);
    queue.cancel(job);
    return c.json({ id: job.id, status: job.status });
  });
  app.post('/retry/:id', (c) => {
    const job = findJob(queue, c);
    if (!queue.retry(job)) throw refuse(400, 'only a job that has failed or timed out can be retried');
    return c.json({ id: job.id, status: job.status });
  });
  app.post('/purge-queue', (c) => c.json({ removed: queue.purge(), status: 'completed' }));
  app.get('/health', (c) => c.json(queue.health()));

  /** Presents the job when it has ended, or after `?wait=` milliseconds. */
  async function waitForEnd(job: QueuedJob, c: Context) {
    const isOver = () => job.ended !== undefined || !queue.find(job.id);
    await queue.waitUntil(isOver, readWait(c) ?? 90 * SECOND, c.req.raw.signal, job.id);
    if (!queue.find(job.id)) throw refuse(404, 'job not found'); // its ttl has passed
    return c.json(presentJob(job));
  }

  return app;
}

/** Undocumented: as RunPod's Python worker calls it. */
function workerApi(queue: RunPodQueue, pollTimeout: number) {
  const app = new Hono();

  app.get('/job-take/:worker', (c) => {
    const take = () => queue.take(c.req.param('worker'), 1);
    return poll(c, NEW_WORK, take, ([job]) => presentToWorker(job!));
  });
  app.get('/job-take-batch/:worker', (c) => {
    const count = Math.max(1, Number(c.req.query('batch_size')) || 1);
    return poll(
      c,
      NEW_WORK,
      () => queue.take(c.req.param('worker'), count),
      (jobs) => jobs.map(presentToWorker),
    );
  });
  app.get('/job-stop/:worker', (c) => {
    const worker = c.req.param('worker');
    const take = () => queue.takeStops(worker);
    return poll(c, stopTopic(worker), take, (jobsToStop) => ({ jobsToStop }));
  });
  // A repeated report, or one from a worker that has lost the job, is accepted without effect. RunPod's own answer is not known.
  app.post('/job-done/:worker/:id', async (c) => {
    const job = findJob(queue, c);
    const worker = c.req.param('worker');
    const text = await c.req.text();
    const report = parseObject(text);
    if (Buffer.byteLength(text) <= (job.sync ? MAX_BYTES.runsync : MAX_BYTES.run)) {
      queue.report(job, worker, report);
      return c.json({});
    }
    // RunPod's users report that the worker then gets 400, and the client COMPLETED without output.
    if (report.status !== 'IN_PROGRESS') queue.report(job, worker, {});
    throw refuse(400, 'the output is too large');
  });
  app.post('/job-stream/:worker/:id', async (c) => {
    const job = findJob(queue, c);
    queue.addChunk(job, c.req.param('worker'), parseObject(await readText(c, MAX_BYTES.chunk)).output);
    return c.json({});
  });
  app.get('/ping/:worker', (c) => c.json({}));

  /** A long poll: calls `take` until it returns something, time is up (204) or the worker has disconnected. */
  async function poll<T>(c: Context, topic: string, take: () => T[], present: (taken: T[]) => object) {
    let taken: T[] = [];
    const check = () => {
      taken = take();
      return taken.length > 0;
    };
    await queue.waitUntil(check, pollTimeout, c.req.raw.signal, topic);
    return taken.length > 0 ? c.json(present(taken)) : c.body(null, 204);
  }

  return app;
}

const presentToWorker = ({ id, input, webhook }: QueuedJob) => ({ id, input, webhook });

function findJob(queue: RunPodQueue, c: Context): QueuedJob {
  const job = queue.find(c.req.param('id')!);
  if (!job) throw refuse(404, 'job not found');
  return job;
}

const refuse = (status: 400 | 401 | 404, error: string) =>
  new HTTPException(status, { res: Response.json({ error }, { status }) });

/** `?wait=` in milliseconds, clamped to between 1 second and 5 minutes. */
function readWait(c: Context): number | undefined {
  const wait = Number(c.req.query('wait') || NaN);
  return Number.isNaN(wait) ? undefined : Math.min(5 * MINUTE, Math.max(SECOND, wait));
}

/** With RunPod's documented limits, in milliseconds. */
const submissionSchema = v.object({
  input: v.nonNullish(v.unknown(), 'input is required'),
  webhook: v.nullish(v.string()),
  policy: v.nullish(
    v.object({
      executionTimeout: v.optional(
        v.pipe(
          v.number(),
          v.gtValue(5 * SECOND, 'executionTimeout must be over 5000'),
          v.maxValue(7 * DAY, 'executionTimeout must be at most a week'),
        ),
      ),
      ttl: v.optional(
        v.pipe(
          v.number(),
          v.minValue(10 * SECOND, 'ttl must be at least 10000'),
          v.maxValue(7 * DAY, 'ttl must be at most a week'),
        ),
      ),
    }),
  ),
});

async function readSubmission(c: Context, maxBytes: number) {
  const { success, output, issues } = v.safeParse(submissionSchema, parseObject(await readText(c, maxBytes)));
  if (!success) throw refuse(400, issues[0].message);
  return output;
}

async function readText(c: Context, maxBytes: number): Promise<string> {
  const text = await c.req.text();
  if (Buffer.byteLength(text) > maxBytes) throw refuse(400, `json is invalid; max size is ${maxBytes / MB} MB`);
  return text;
}

/** A JSON object of any content type: workers send theirs as a form. */
function parseObject(text: string): Record<string, unknown> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // refused below
  }
  if (typeof body !== 'object' || body === null) throw refuse(400, 'not a JSON object');
  return body as Record<string, unknown>;
}
