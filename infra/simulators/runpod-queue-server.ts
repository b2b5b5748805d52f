/**
 * RunPod's public v2 API and its workers' side, over the queue of `queue.ts`: what `runpod-sdk` and a worker speak to.
 * The public side wants `Authorization: Bearer <key>`, the workers' side the bare key.
 */
import { setMaxListeners } from 'node:events';
import { type Context, Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import * as v from 'valibot';
import { MINUTE, SECOND } from '../../core/time.ts';
import { realClock } from './clock.ts';
import { createQueue, type Queue, type QueuedJob, type QueueOptions, stopsOf, WORK } from './runpod-queue.ts';

const MB = 1e6;
/** Bodies, both ways. RunPod documents the numbers; that it answers 400 to more is what its workers' logs show. */
const LARGEST = { run: 10 * MB, runsync: 20 * MB, chunk: MB };
/** How long an answer to a callback is waited for. RunPod does not say. */
const CALLBACK_TIMEOUT = 30 * SECOND;

export interface QueueServerOptions extends Omit<QueueOptions, 'onEnd'> {
  /** for both sides */
  apiKey: string;
  /** how long a worker's poll is held; milliseconds */
  pollTimeout?: number;
  /** how long after an unheard callback the next is sent, twice; milliseconds */
  callbackRetryDelay?: number;
  /** one line, for the log */
  log?: (text: string) => void;
}

/** RunPod's documented limits, in milliseconds. */
const submissionSchema = v.object({
  input: v.nonNullish(v.unknown(), 'input is required'),
  webhook: v.nullish(v.string()),
  policy: v.nullish(
    v.object({
      executionTimeout: v.optional(v.pipe(v.number(), v.gtValue(5 * SECOND, 'executionTimeout must be over 5000'))),
      ttl: v.optional(
        v.pipe(
          v.number(),
          v.minValue(10 * SECOND, 'ttl must be at least 10000'),
          v.maxValue(7 * 24 * 60 * MINUTE, 'ttl must be at most a week'),
        ),
      ),
    }),
  ),
});

/** @returns the app, to be mounted at RUNPOD_BASE_URL's path, such as /v2 */
export function queueServer({
  apiKey,
  pollTimeout = 10 * SECOND,
  callbackRetryDelay = 10 * SECOND,
  log = () => {},
  now,
  clock = realClock(now),
  ...options
}: QueueServerOptions) {
  const queue: Queue = createQueue({ ...options, clock, onEnd: (job) => void callBack(job) });
  const closing = new AbortController();
  setMaxListeners(0, closing.signal); // one a callback that is under way
  const app = new Hono();

  app.use('/:endpoint/:operation{.+}', async (c, next) => {
    queue.sweep();
    const [operation, worker] = c.req.param('operation').split('/');
    const isWorkers = /^(job-|ping)/.test(operation!);
    if (c.req.header('authorization') !== (isWorkers ? apiKey : `Bearer ${apiKey}`)) throw refusal(401, 'unauthorized');
    if (isWorkers && worker) queue.heard(worker);
    await next();
  });

  // The public side.
  app.post('/:endpoint/run', async (c) => {
    const { id, status } = queue.submit(await submission(c, LARGEST.run));
    return c.json({ id, status });
  });

  app.post('/:endpoint/runsync', async (c) => {
    // RunPod's documentation has `wait` as the time that results are kept, its clients as the time that the answer may take: both.
    const retention = Math.max(MINUTE, waitOf(c) ?? 0);
    return settled(queue.submit({ ...(await submission(c, LARGEST.runsync)), sync: true, retention }), c);
  });

  app.get('/:endpoint/status/:id', (c) => c.json(shown(jobOf(c))));
  app.get('/:endpoint/status-sync/:id', (c) => settled(jobOf(c), c));
  app.get('/:endpoint/stream/:id', (c) => {
    const { status, stream } = jobOf(c);
    return c.json({ status, stream: stream.splice(0).map((output) => ({ output })) });
  });
  app.post('/:endpoint/cancel/:id', (c) => {
    const job = jobOf(c);
    queue.cancel(job);
    return c.json({ id: job.id, status: job.status });
  });
  app.post('/:endpoint/retry/:id', (c) => {
    const job = jobOf(c);
    if (!queue.retry(job)) throw refusal(400, 'only a job that failed or timed out can be tried again');
    return c.json({ id: job.id, status: job.status });
  });
  app.post('/:endpoint/purge-queue', (c) => c.json({ removed: queue.purge(), status: 'completed' }));
  app.get('/:endpoint/health', (c) => c.json(queue.health()));

  // The workers' side.
  app.get('/:endpoint/job-take/:worker', async (c) => {
    const worker = c.req.param('worker');
    const [job] = await held(c, WORK, () => queue.take(worker, 1));
    return job ? c.json(handedOut(job)) : c.body(null, 204);
  });
  app.get('/:endpoint/job-take-batch/:worker', async (c) => {
    const worker = c.req.param('worker');
    const count = Math.max(1, Number(c.req.query('batch_size')) || 1);
    const jobs = await held(c, WORK, () => queue.take(worker, count));
    return jobs.length > 0 ? c.json(jobs.map(handedOut)) : c.body(null, 204);
  });
  app.get('/:endpoint/job-stop/:worker', async (c) => {
    const worker = c.req.param('worker');
    const ids = await held(c, stopsOf(worker), () => queue.stops(worker));
    return ids.length > 0 ? c.json({ jobsToStop: ids }) : c.body(null, 204);
  });
  // A second report, or one from a worker that has the job no more, is accepted and changes nothing (RunPod's answer is not known).
  app.post('/:endpoint/job-done/:worker/:id', async (c) => {
    const job = jobOf(c);
    const worker = c.req.param('worker');
    const text = await c.req.text();
    const message = parsed(text);
    if (Buffer.byteLength(text) <= (job.sync ? LARGEST.runsync : LARGEST.run)) {
      queue.report(job, worker, message);
      return c.json({});
    }
    // As RunPod's users report it: the worker gets 400, the client COMPLETED without output.
    if (message.status !== 'IN_PROGRESS') queue.report(job, worker, {});
    throw refusal(400, 'the output is too large');
  });
  app.post('/:endpoint/job-stream/:worker/:id', async (c) => {
    const job = jobOf(c);
    queue.chunk(job, c.req.param('worker'), parsed(await textOf(c, LARGEST.chunk)).output);
    return c.json({});
  });
  app.get('/:endpoint/ping/:worker', (c) => c.json({}));

  /** Looks again at each change until there is something, the hold is over or the worker has gone. */
  async function held<T>(c: Context, topic: string, look: () => T[]): Promise<T[]> {
    const until = clock.now() + pollTimeout;
    for (;;) {
      const found = look();
      const left = until - clock.now();
      if (found.length > 0 || left <= 0 || queue.isClosed()) return found;
      const { signal } = c.req.raw;
      await queue.waitForChange(left, signal, topic);
      if (signal.aborted) return []; // nobody would hear of what is taken now
    }
  }

  /** The job as /status shows it once it has ended, or as it is after `?wait=` milliseconds. */
  async function settled(job: QueuedJob, c: Context) {
    const { signal } = c.req.raw;
    const until = clock.now() + (waitOf(c) ?? 90 * SECOND);
    while (job.ended === undefined && queue.find(job.id) && clock.now() < until) {
      if (signal.aborted || queue.isClosed()) break;
      await queue.waitForChange(until - clock.now(), signal, job.id);
    }
    if (!queue.find(job.id)) throw refusal(404, 'job not found'); // its ttl has passed
    return c.json(shown(job));
  }

  function jobOf(c: Context): QueuedJob {
    const job = queue.find(c.req.param('id')!);
    if (!job) throw refusal(404, 'job not found');
    return job;
  }

  /** RunPod's webhook: not signed, three tries. It speaks of completion and failure, so a cancelled job is not announced. */
  async function callBack(job: QueuedJob) {
    if (!job.webhook || job.status === 'CANCELLED') return;
    const { id, webhook } = job;
    const body = JSON.stringify({ ...shown(job), input: job.input, webhook });
    for (let attempt = 1; attempt <= 3 && !queue.isClosed(); attempt++) {
      if (await isHeard(webhook, body)) return;
      log(`callback for job ${id} was not heard (attempt ${attempt} of 3)`);
      if (attempt < 3) await clock.sleep(callbackRetryDelay, closing.signal);
    }
  }

  /** Whether whoever listens there answered 200, in time. */
  async function isHeard(url: string, body: string): Promise<boolean> {
    const call = new AbortController();
    const giveUp = () => call.abort();
    closing.signal.addEventListener('abort', giveUp, { signal: call.signal });
    void clock.sleep(CALLBACK_TIMEOUT, call.signal).then(giveUp);
    try {
      const headers = { 'content-type': 'application/json' };
      const response = await fetch(url, { method: 'POST', headers, body, signal: call.signal });
      await response.arrayBuffer();
      return response.status === 200;
    } catch {
      return false; // nobody there
    } finally {
      giveUp(); // ends the sleep
    }
  }

  return {
    app,
    queue,
    /** Lets go of every held request, and of callbacks that are still to be sent. */
    close() {
      closing.abort();
      queue.close();
    },
  };
}

const refusal = (status: 400 | 401 | 404, error: string) =>
  new HTTPException(status, { res: Response.json({ error }, { status }) });

/** `?wait=` in milliseconds, brought between 1 second and 5 minutes. */
function waitOf(c: Context): number | undefined {
  const wait = Number(c.req.query('wait') || NaN);
  return Number.isNaN(wait) ? undefined : Math.min(5 * MINUTE, Math.max(SECOND, wait));
}

async function submission(c: Context, largest: number) {
  const { success, output, issues } = v.safeParse(submissionSchema, parsed(await textOf(c, largest)));
  if (!success) throw refusal(400, issues[0].message);
  return output;
}

async function textOf(c: Context, largest: number): Promise<string> {
  const text = await c.req.text();
  if (Buffer.byteLength(text) > largest) throw refusal(400, `json is invalid; max size is ${largest / MB} MB`);
  return text;
}

/** The body as a JSON object, whatever its content type says; a worker calls its own a form. */
function parsed(text: string): Record<string, unknown> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    // no JSON: as wrong as any other that is no object
  }
  if (typeof body !== 'object' || body === null) throw refusal(400, 'not a JSON object');
  return body as Record<string, unknown>;
}

/** A job as a worker gets it. */
const handedOut = ({ id, input, webhook }: QueuedJob) => ({ id, input, webhook });

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
