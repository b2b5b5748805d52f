/**
 * RunPod's public API on this machine, with this process as the worker: `--rp_serve_api`.
 *
 * A job is IN_QUEUE → IN_PROGRESS → COMPLETED | FAILED, or CANCELLED before its end. It is kept until the server ends.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import { SECOND } from '../../core/time.ts';
import type { Flags } from './flags.ts';
import { formatError, type Handler, type Outcome, runHandler } from './run-handler.ts';
import type { LocalOptions } from './test-job.ts';

const MAX_BODY = 20e6; // bytes, as RunPod's /runsync
/** How long clients have to receive the last answers when the server ends. */
const CLOSE_TIMEOUT = SECOND;

interface ApiJob {
  id: string;
  status: 'IN_QUEUE' | 'IN_PROGRESS' | 'COMPLETED' | 'FAILED' | 'CANCELLED';
  /** the last progress while the job runs, its output afterwards */
  output?: unknown;
  error?: string;
  /** chunks that no client has fetched yet */
  stream: { output: unknown }[];
  controller: AbortController;
  ended: Promise<void>;
}

/** Serves until the signal, and until the jobs have ended then. */
export async function serveApi(handler: Handler, { host, port, concurrency }: Flags, options: LocalOptions) {
  const { log, signal, gracePeriod } = options;
  const jobs = new ApiJobs(handler, concurrency, options);
  const server = createServer(async (request, response) => {
    const [status, body] = await answer(request, jobs).catch((error: unknown): Answer => {
      log({ event: 'request failed', error });
      return [500, { detail: 'the worker’s log says why' }];
    });
    const connection = signal.aborted ? 'close' : 'keep-alive'; // the server ends with its last connection
    response.writeHead(status, { 'content-type': 'application/json', connection }).end(JSON.stringify(body));
  });
  await once(server.listen(port, host), 'listening');
  const address = server.address();
  log({ event: 'serving', url: `http://${host}:${typeof address === 'object' ? address?.port : port}` });
  if (!signal.aborted) await once(signal, 'abort');
  const closed = once(server.close(), 'close');
  const abort = setTimeout(() => {
    for (const { controller } of jobs.all.values()) controller.abort(new Error('the worker had to stop'));
  }, gracePeriod);
  await Promise.all([...jobs.all.values()].map(({ ended }) => ended));
  clearTimeout(abort);
  const cut = setTimeout(() => server.closeAllConnections(), CLOSE_TIMEOUT);
  await closed;
  clearTimeout(cut);
}

class ApiJobs {
  readonly all = new Map<string, ApiJob>();
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(
    private readonly handler: Handler,
    concurrency: number,
    private readonly options: LocalOptions,
  ) {
    this.#free = concurrency;
  }

  /** @param webhook a URL that gets the job when it has ended */
  start(input: unknown, webhook: unknown): ApiJob {
    const job: ApiJob = {
      ...{ id: randomUUID(), status: 'IN_QUEUE', stream: [], controller: new AbortController() },
      ended: Promise.resolve(),
    };
    this.all.set(job.id, job);
    job.ended = this.#run(job, input).then(() => this.#callWebhook(webhook, job));
    return job;
  }

  cancel(job: ApiJob) {
    if (job.status !== 'IN_QUEUE' && job.status !== 'IN_PROGRESS') return;
    job.status = 'CANCELLED';
    delete job.output;
    job.controller.abort(new DOMException('the job was cancelled', 'AbortError'));
  }

  async #run(job: ApiJob, input: unknown) {
    const { log, runInJob } = this.options;
    if (this.#free-- <= 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      if (job.status === 'CANCELLED') return;
      job.status = 'IN_PROGRESS';
      log({ event: 'job started', jobId: job.id });
      const outcome = await runInJob(job.id, ({ controller, failed }) => {
        job.controller.signal.addEventListener('abort', () => controller.abort(job.controller.signal.reason));
        const run = runHandler(
          this.handler,
          { id: job.id, input },
          {
            progress: (value) => {
              if (job.status === 'IN_PROGRESS') job.output = value;
            },
            signal: controller.signal,
            sendChunk: async (chunk) => void job.stream.push({ output: chunk }),
            aggregate: true,
          },
        );
        return Promise.race([run, failed]);
      }).catch((error: unknown): Outcome => ({ error: formatError(error, 'local') }));
      if (job.status !== 'IN_PROGRESS') return; // cancelled
      delete job.output; // progress
      if (outcome.error === undefined) Object.assign(job, { status: 'COMPLETED', output: outcome.output });
      else Object.assign(job, { status: 'FAILED', error: outcome.error });
    } finally {
      log({ event: 'job ended', jobId: job.id, status: job.status });
      this.#free++;
      this.#waiting.shift()?.();
    }
  }

  async #callWebhook(webhook: unknown, job: ApiJob) {
    if (typeof webhook !== 'string') return;
    const headers = { 'content-type': 'application/json' };
    try {
      const response = await fetch(webhook, { method: 'POST', headers, body: JSON.stringify(presentJob(job)) });
      await response.arrayBuffer();
    } catch (error) {
      this.options.log({ event: 'webhook not delivered', jobId: job.id, error });
    }
  }
}

type Answer = [status: number, body: unknown];

async function answer(request: IncomingMessage, jobs: ApiJobs): Promise<Answer> {
  const [, operation, id] = new URL(request.url!, 'http://localhost').pathname.split('/');
  const isPost = request.method === 'POST';
  if (isPost && (operation === 'run' || operation === 'runsync') && id === undefined) {
    const text = await readBody(request);
    if (text === undefined) return [413, { detail: `the body is larger than ${MAX_BODY / 1e6} MB` }];
    let body: unknown;
    try {
      body = JSON.parse(text);
    } catch {
      return [422, { detail: 'the body is not JSON' }];
    }
    if (!isObject(body) || !isObject(body.input)) return [422, { detail: 'input must be an object' }];
    const job = jobs.start(body.input, body.webhook);
    if (operation === 'run') return [200, { id: job.id, status: job.status }];
    await job.ended;
    return [200, presentJob(job)];
  }
  if (id === undefined || !['status', 'stream', 'cancel'].includes(operation!))
    return [404, { detail: 'POST /run, /runsync, /cancel/ID; GET or POST /status/ID, /stream/ID' }];
  const job = jobs.all.get(id);
  if (!job) return [200, { id, status: 'FAILED', error: 'Job ID not found' }];
  if (operation === 'cancel') {
    if (!isPost) return [405, { detail: 'POST' }];
    jobs.cancel(job);
    return [200, { id, status: job.status }];
  }
  if (isPost) await job.ended; // as RunPod's Python worker, which runs the job only then
  return [200, operation === 'status' ? presentJob(job) : { id, status: job.status, stream: job.stream.splice(0) }];
}

const presentJob = ({ id, status, output, error }: ApiJob) => ({ id, status, output, error });

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** @returns undefined if the body is larger than `MAX_BODY` */
async function readBody(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
