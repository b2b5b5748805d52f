/**
 * A worker without RunPod, as its users know it: `--test_input '{"input": …}'` or a file test_input.json runs one job,
 * `--rp_serve_api` answers over HTTP.
 *
 * A job over HTTP is IN_QUEUE → IN_PROGRESS → COMPLETED | FAILED | CANCELLED, and is remembered until the server ends.
 */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Log } from './job-log.ts';
import type { TakenJob } from './queue-client.ts';
import { type Handle, type Outcome, produce, thrown } from './runpod-job.ts';
import type { InJob, ServeOptions } from './serve-options.ts';

const MAX_BODY = 20e6; // bytes, as RunPod's /runsync
/** How long a caller has to hear the last answer, in milliseconds. */
const ANSWERING = 1000;

export interface Flags {
  /** JSON of a job */
  testInput: string | undefined;
  serveApi: boolean;
  host: string;
  port: number;
  /** jobs that run at once */
  concurrency: number;
  logLevel: string | undefined;
}

/**
 * RunPod's flags among a program's arguments; those of the program itself are left alone.
 * @throws Error that names the flag
 */
export function readFlags(argv: string[]): Flags {
  const { values, tokens } = parseArgs({
    args: argv,
    strict: false,
    tokens: true,
    options: {
      test_input: { type: 'string' },
      rp_serve_api: { type: 'boolean' },
      rp_api_host: { type: 'string' },
      rp_api_port: { type: 'string' },
      rp_api_concurrency: { type: 'string' },
      rp_log_level: { type: 'string' },
    },
  });
  const KNOWN = ['rp_serve_api', 'rp_api_host', 'rp_api_port', 'rp_api_concurrency', 'rp_log_level'];
  for (const token of tokens)
    if (token.kind === 'option' && token.name.startsWith('rp_') && !KNOWN.includes(token.name))
      throw new Error(`--${token.name} is not known here; of RunPod's flags there are ${KNOWN.join(', ')}, test_input`);
  const text = (name: string): string | undefined => {
    const value = values[name];
    if (value === true) throw new Error(`--${name} needs a value`);
    return value as string | undefined;
  };
  const whole = (name: string, otherwise: number, most: number) => {
    const value = text(name) ?? String(otherwise);
    if (!/^\d+$/.test(value) || Number(value) > most)
      throw new Error(`--${name} must be a whole number up to ${most}; it is ${value}`);
    return Number(value);
  };
  return {
    testInput: text('test_input'),
    serveApi: values.rp_serve_api === true,
    host: text('rp_api_host') ?? 'localhost',
    port: whole('rp_api_port', 8000, 65_535),
    concurrency: Math.max(1, whole('rp_api_concurrency', 1, 1000)),
    logLevel: text('rp_log_level'),
  };
}

interface LocalOptions extends Pick<ServeOptions, 'grace'> {
  log: Log;
  /** ends it */
  signal: AbortSignal;
  /** see `watchProcess` */
  inJob: InJob;
}

/**
 * @param text JSON with `input`, and perhaps `id`; default: the file test_input.json
 * @throws Error: there is no such job
 */
export async function readTestJob(text: string | undefined): Promise<TakenJob> {
  let job: unknown;
  try {
    job = JSON.parse(text ?? (await testFile()));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new Error('the test input is not JSON', { cause });
  }
  if (typeof job !== 'object' || job === null || !('input' in job) || job.input == null)
    throw new Error('the test input must be {"input": …}');
  return { ...job, input: job.input, id: 'id' in job && typeof job.id === 'string' ? job.id : 'local_test' };
}

async function testFile(): Promise<string> {
  return readFile(join(process.cwd(), 'test_input.json'), 'utf8').catch((cause) => {
    const message =
      'RUNPOD_WEBHOOK_GET_JOB is not set (RunPod sets it for its workers) and there is no test_input.json: ' +
      'to run one job here give --test_input \'{"input": …}\', to serve over HTTP --rp_serve_api';
    throw new Error(message, { cause });
  });
}

/**
 * Runs one job, and prints its outcome as the last line of standard output.
 * @throws Error: the job has failed
 */
export async function runTestJob(handle: Handle, job: TakenJob, { log, signal, inJob }: LocalOptions) {
  const outcome = await inJob(job.id, async ({ controller }, failed) => {
    const abort = () => controller.abort(new Error('the worker had to stop'));
    signal.addEventListener('abort', abort, { once: true });
    const produced = produce(job, handle, {
      progress: (value) => log({ event: 'progress', jobId: job.id, value }),
      signal: controller.signal,
      sendChunk: async (chunk) => log({ event: 'chunk', jobId: job.id, chunk }),
      aggregate: true,
    });
    return Promise.race([produced, failed]);
  });
  console.log(JSON.stringify(outcome));
  if (outcome.error !== undefined) throw new Error(`the job failed: ${outcome.error}`);
}

interface ApiJob {
  id: string;
  status: 'IN_QUEUE' | 'IN_PROGRESS' | 'COMPLETED' | 'FAILED' | 'CANCELLED';
  output?: unknown;
  error?: string;
  /** chunks that nobody has fetched yet */
  stream: { output: unknown }[];
  controller: AbortController;
  /** resolves when the job has ended */
  ended: Promise<void>;
}

/** Serves until the signal: the addresses of RunPod's public API, with this process as the worker. */
export async function serveApi(
  handle: Handle,
  { host, port, concurrency }: Flags,
  { log, signal, inJob, grace = 30_000 }: LocalOptions,
): Promise<void> {
  const jobs = new Map<string, ApiJob>();
  const waiting: (() => void)[] = [];
  let free = concurrency;

  function start(input: unknown, webhook?: unknown): ApiJob {
    const job: ApiJob = {
      id: randomUUID(),
      status: 'IN_QUEUE',
      stream: [],
      controller: new AbortController(),
      ended: Promise.resolve(),
    };
    jobs.set(job.id, job);
    job.ended = run(job, input).then(() => callBack(webhook, job));
    return job;
  }

  async function run(job: ApiJob, input: unknown) {
    if (free-- <= 0) await new Promise<void>((resolve) => waiting.push(resolve));
    try {
      if (job.status === 'CANCELLED') return;
      job.status = 'IN_PROGRESS';
      log({ event: 'job started', jobId: job.id });
      const outcome = await inJob(job.id, (held, failed) => {
        job.controller.signal.addEventListener('abort', () => held.controller.abort(job.controller.signal.reason));
        const produced = produce({ id: job.id, input }, handle, {
          progress: (value) => {
            if (job.status === 'IN_PROGRESS') job.output = value;
          },
          signal: held.controller.signal,
          sendChunk: async (chunk) => void job.stream.push({ output: chunk }),
          aggregate: true,
        });
        return Promise.race([produced, failed]);
      }).catch((error: unknown): Outcome => ({ error: thrown(error, 'local') }));
      if (job.status !== 'IN_PROGRESS') return; // cancelled
      delete job.output; // progress
      if (outcome.error === undefined) Object.assign(job, { status: 'COMPLETED', output: outcome.output });
      else Object.assign(job, { status: 'FAILED', error: outcome.error });
    } finally {
      log({ event: 'job ended', jobId: job.id, status: job.status });
      free++;
      waiting.shift()?.();
    }
  }

  async function callBack(webhook: unknown, job: ApiJob) {
    if (typeof webhook !== 'string') return;
    const headers = { 'content-type': 'application/json' };
    try {
      const answer = await fetch(webhook, { method: 'POST', headers, body: JSON.stringify(shown(job)) });
      await answer.arrayBuffer();
    } catch (error) {
      log({ event: 'webhook not heard', jobId: job.id, error });
    }
  }

  /** @returns status and JSON */
  async function answer(method: string, path: string, body: () => Promise<unknown>): Promise<[number, unknown]> {
    const [, operation, id] = path.split('/');
    const asks = method === 'POST' ? 'POST' : 'GET';
    if (asks === 'POST' && (operation === 'run' || operation === 'runsync') && id === undefined) {
      const request = await body();
      if (!isObject(request) || !isObject(request.input)) return [422, { detail: 'input must be an object' }];
      const job = start(request.input, request.webhook);
      if (operation === 'runsync') await job.ended;
      return [200, operation === 'run' ? { id: job.id, status: job.status } : shown(job)];
    }
    if (id === undefined || !['status', 'stream', 'cancel'].includes(operation!))
      return [404, { detail: 'POST /run, /runsync, /cancel/ID; GET or POST /status/ID, /stream/ID' }];
    const job = jobs.get(id);
    if (!job) return [200, { id, status: 'FAILED', error: 'Job ID not found' }];
    if (operation === 'cancel') {
      if (asks === 'GET') return [405, { detail: 'POST' }];
      if (job.status === 'IN_QUEUE' || job.status === 'IN_PROGRESS') {
        job.status = 'CANCELLED';
        delete job.output;
        job.controller.abort(new DOMException('the job was cancelled', 'AbortError'));
      }
      return [200, { id, status: job.status }];
    }
    if (asks === 'POST') await job.ended; // as RunPod's own server, which runs the job only then
    return [200, operation === 'status' ? shown(job) : { id, status: job.status, stream: job.stream.splice(0) }];
  }

  const server = createServer((request, response) => {
    answer(request.method!, new URL(request.url!, 'http://local').pathname, () => jsonOf(request))
      .catch((error: unknown): [number, unknown] => {
        if (error instanceof Unreadable) return [error.status, { detail: error.message }];
        log({ event: 'request failed', error });
        return [500, { detail: 'the log says why' }];
      })
      .then(([status, value]) => {
        const text = JSON.stringify(value);
        const connection = signal.aborted ? 'close' : 'keep-alive'; // so that the last answer also ends the server
        response.writeHead(status, { 'content-type': 'application/json', connection }).end(text);
      });
  });
  await once(server.listen(port, host), 'listening');
  const address = server.address();
  log({ event: 'serving', url: `http://${host}:${typeof address === 'object' ? address?.port : port}` });
  if (!signal.aborted) await once(signal, 'abort');
  const closed = once(server.close(), 'close');
  const cut = setTimeout(() => {
    for (const { controller } of jobs.values()) controller.abort(new Error('the worker had to stop'));
  }, grace);
  await Promise.all([...jobs.values()].map(({ ended }) => ended));
  clearTimeout(cut);
  const cutAnswers = setTimeout(() => server.closeAllConnections(), ANSWERING);
  await closed;
  clearTimeout(cutAnswers);
}

const shown = ({ id, status, output, error }: ApiJob) => ({
  id,
  status,
  ...(output !== undefined && { output }),
  ...(error !== undefined && { error }),
});

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A request's body that can't be taken, and the status that says so. */
class Unreadable extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function jsonOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY) throw new Unreadable(413, `the body is larger than ${MAX_BODY / 1e6} MB`);
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new Unreadable(422, 'the body is not JSON');
  }
}
