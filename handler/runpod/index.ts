/**
 * A RunPod serverless worker: takes jobs from RunPod's queue, runs them, reports progress, and posts each outcome.
 *
 * A job is taken → running → (done | failed) → posted, or stopped (RunPod asked for it: nothing is posted). It is held, and named in
 * pings, from the taking until its outcome has been accepted or refused for good.
 */
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { inspect } from 'node:util';
import { Worker } from 'node:worker_threads';
import { openQueue, type Queue, type QueueEnvironment, type TakenJob } from './queue.ts';

export type { QueueEnvironment, TakenJob } from './queue.ts';

export interface JobTools {
  /** Reports progress: any JSON value, shown as the job's output while it runs. The latest wins; none is sent after the outcome. */
  progress: (value: unknown) => void;
  /** Aborted when RunPod stops the job, or when the worker has to end before the job does. */
  signal: AbortSignal;
}

/**
 * Runs one job. What it returns is the job's output, with two names of RunPod's at its top level: `error` (text) fails the job,
 * `refresh_worker: true` asks for a fresh worker afterwards. What it throws fails the job too. From an async generator each value is
 * sent as a chunk of the output, when the one before has been accepted; a chunk with `error` ends and fails the job.
 */
export type Handle = (job: TakenJob, tools: JobTools) => unknown;

export interface ServeOptions {
  /** how many jobs may be in hand at once, perhaps asked anew before each is taken; default 1 */
  concurrency?: number | (() => number);
  /** run in order before any job is taken; the first that throws is reported to RunPod, and the worker ends */
  fitness?: Record<string, () => Promise<void>>;
  /** asks for a fresh worker after each job, and ends */
  refreshWorker?: boolean;
  /** chunks are also gathered, and are the job's output in the end */
  aggregateStream?: boolean;
  env?: NodeJS.ProcessEnv;
  /** one event, for the log */
  log?: (event: { event: string; jobId?: string; [detail: string]: unknown }) => void;
  /** when aborted, the worker takes no more jobs and ends when those in hand have; default: SIGTERM or SIGINT */
  signal?: AbortSignal;
  /** how long jobs in hand may still run then, in milliseconds; afterwards they are aborted and fail as retryable */
  grace?: number;
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;

/** How results are sent again: after 0.25 s, doubling to 10 s, for five minutes. */
const POST_RETRY = { first: 250, longest: 10 * SECOND, total: 5 * MINUTE, statuses: [408, 425, 429] };
/** How taking backs off after errors. */
const TAKE_RETRY = { first: 250, longest: 5 * SECOND };
/** What RunPod takes, in bytes: of a job from /run and from /runsync, and of a chunk. */
const MOST = { run: 10e6, runsync: 20e6, chunk: 1e6 };
/** A server that says "nothing" at once is not asked again at once. */
const QUICK_ANSWER = 100;

/**
 * Serves until the signal; resolves when the last job's outcome has been posted.
 * @throws Error if the environment names no queue; what a fitness check has thrown
 */
export async function serve(handle: Handle, options: ServeOptions = {}): Promise<void> {
  const { concurrency = 1, fitness = {}, refreshWorker = false } = options;
  const { env = process.env, log = () => {}, grace = 30 * SECOND } = options;
  const queue = openQueue(queueEnvironment(env));
  const refreshed = new AbortController();
  const signal = either(options.signal ?? onSignals(), refreshed);
  await checkFitness(fitness, queue, log);
  const held = new Map<string, AbortController>();
  const running = new Set<Promise<void>>();
  const limit = typeof concurrency === 'function' ? concurrency : () => concurrency;
  log({ event: 'serving', workerId: queue.workerId, concurrency: limit() });

  const over = new AbortController(); // the worker is done: pings and stop polls end
  const pings = startPings(queue, Number(env.RUNPOD_PING_INTERVAL) || 10 * SECOND, log);
  const companions: Promise<void>[] = [];
  if (queue.stops) companions.push(stopLoop(queue.stops, held, over.signal, log));

  let failures = 0;
  while (!signal.aborted) {
    if (running.size >= Math.max(1, limit())) {
      await oneOf(running, signal);
      continue;
    }
    const asked = performance.now();
    const take = await queue.take(held.size > 0, signal).catch(() => undefined); // rejects only when the signal is aborted
    if (!take) break;
    failures = take.status === 'error' ? failures + 1 : 0;
    if (take.status === 'job') {
      const { job } = take;
      if (held.has(job.id)) {
        log({ event: 'job given twice', jobId: job.id });
        await pause(jittered(TAKE_RETRY.first), signal);
        continue;
      }
      const controller = new AbortController();
      held.set(job.id, controller);
      pings.hold([...held.keys()]);
      const work: Promise<void> = run(job, handle, queue, controller, log, options).finally(() => {
        if (refreshWorker) refreshed.abort();
        held.delete(job.id);
        pings.hold([...held.keys()]);
        running.delete(work);
      });
      running.add(work);
    } else if (take.status === 'slow down') {
      await pause(5 * SECOND, signal);
    } else if (take.status === 'error') {
      log({ event: 'take failed', error: take.error });
      await pause(jittered(Math.min(TAKE_RETRY.longest, TAKE_RETRY.first * 2 ** (failures - 1))), signal);
    } else if (performance.now() - asked < QUICK_ANSWER) {
      await pause(jittered(TAKE_RETRY.first), signal);
    }
  }

  log({ event: 'stopping', jobs: [...held.keys()] });
  const cut = setTimeout(() => {
    for (const controller of held.values()) controller.abort(new Error('the worker had to stop'));
  }, grace);
  await Promise.all(running);
  clearTimeout(cut);
  over.abort();
  await Promise.all([...companions, pings.stop()]);
  log({ event: 'stopped' });
}

/** @throws what the first check that fails has thrown, after RunPod has been told */
async function checkFitness(
  checks: NonNullable<ServeOptions['fitness']>,
  queue: Queue,
  log: NonNullable<ServeOptions['log']>,
) {
  for (const [check, run] of Object.entries(checks)) {
    const start = performance.now();
    try {
      await run();
    } catch (error) {
      const { name, message } = error instanceof Error ? error : new Error(inspect(error));
      await queue.reportUnhealthy(check, `${name}: ${message}`);
      throw error;
    }
    log({ event: 'fit', check, ms: Math.round(performance.now() - start) });
  }
}

/** One job from taking to posting; never rejects. */
async function run(
  job: TakenJob,
  handle: Handle,
  queue: Queue,
  controller: AbortController,
  log: NonNullable<ServeOptions['log']>,
  { refreshWorker, aggregateStream }: ServeOptions,
) {
  const start = performance.now();
  log({ event: 'job started', jobId: job.id });
  const updates = progressQueue(queue, job.id, log);
  const fresh = refreshWorker ? { stopPod: true } : {};
  let isStream = false;
  let body: string;
  try {
    const value = await handle(job, { progress: updates.send, signal: controller.signal });
    isStream = isAsyncIterable(value);
    const result = isAsyncIterable(value)
      ? await sendChunks(value, job.id, queue, controller.signal, aggregateStream, log)
      : outcome(value);
    body = within(job.id.startsWith('sync-') ? MOST.runsync : MOST.run, 'the output', { ...result, ...fresh });
  } catch (error) {
    log({ event: 'job threw', jobId: job.id, error });
    body = JSON.stringify({ error: thrown(error, queue.workerId), ...fresh });
  }
  await updates.close();
  const ms = Math.round(performance.now() - start);
  if (controller.signal.reason === STOPPED) return log({ event: 'job stopped', jobId: job.id, ms });
  await deliver('outcome', job.id, () => queue.post(job.id, body, isStream), log);
  log({ event: 'job ended', jobId: job.id, ms });
}

/** The body of job-done for what a handler returned. */
function outcome(value: unknown): object {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { output: value ?? null };
  const { error, refresh_worker, ...output } = value as Record<string, unknown>;
  return {
    ...(Object.keys(output).length > 0 ? { output } : {}),
    ...(error ? { error: asText(error) } : {}),
    ...(refresh_worker === true ? { stopPod: true } : {}),
  };
}

const asText = (error: unknown) => (typeof error === 'string' ? error : JSON.stringify(error));

/** @throws Error: too large for RunPod, or no JSON can be made of it */
function within(most: number, what: string, value: object): string {
  const text = JSON.stringify(value);
  const bytes = Buffer.byteLength(text);
  if (bytes > most)
    throw new Error(`${what} has ${(bytes / 1e6).toFixed(1)} MB, and RunPod takes at most ${most / 1e6}`);
  return text;
}

const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  typeof value === 'object' && value !== null && Symbol.asyncIterator in value;

/**
 * Sends each value when the one before has been accepted, so that a generator is not ahead of what has arrived.
 * @returns the body of job-done
 * @throws Error: a chunk is too large or could not be delivered, or what the generator throws
 */
async function sendChunks(
  chunks: AsyncIterable<unknown>,
  jobId: string,
  queue: Queue,
  signal: AbortSignal,
  aggregate: boolean | undefined,
  log: NonNullable<ServeOptions['log']>,
): Promise<object> {
  const { postChunk } = queue;
  const all: unknown[] = [];
  for await (const chunk of chunks) {
    if (signal.aborted) throw signal.reason; // which also ends the generator
    if (typeof chunk === 'object' && chunk !== null && 'error' in chunk && chunk.error)
      return { error: asText(chunk.error) };
    if (aggregate || !postChunk) all.push(chunk);
    if (!postChunk) continue; // this queue takes no chunks: they are the output
    const body = within(MOST.chunk, 'a chunk', { output: chunk ?? null });
    const isDelivered = await deliver('chunk', jobId, () => postChunk(jobId, body), log);
    if (!isDelivered) throw new Error('a chunk of the output could not be delivered');
  }
  return { output: all };
}

/** A thrown error as RunPod's own worker words it. */
function thrown(error: unknown, workerId: string): string {
  const { name, message, stack } = error instanceof Error ? error : new Error(inspect(error));
  return JSON.stringify({ error_type: name, error_message: message, error_traceback: stack, worker_id: workerId });
}

/** Posts until it is accepted (true), refused for good, or five minutes have passed. */
async function deliver(
  what: 'outcome' | 'chunk',
  jobId: string,
  send: () => Promise<number>,
  log: NonNullable<ServeOptions['log']>,
): Promise<boolean> {
  const giveUp = performance.now() + POST_RETRY.total;
  for (let wait = POST_RETRY.first; ; wait = Math.min(POST_RETRY.longest, wait * 2)) {
    const answer = await send().catch((error: unknown) => error);
    if (typeof answer === 'number') {
      if (answer >= 200 && answer < 300) return true;
      if (answer < 500 && !POST_RETRY.statuses.includes(answer)) {
        log({ event: `${what} refused`, jobId, status: answer });
        return false;
      }
    }
    if (performance.now() + wait > giveUp) {
      log({ event: `${what} lost`, jobId, answer });
      return false;
    }
    log({ event: `${what} not accepted, will be sent again`, jobId, answer });
    await delay(jittered(wait));
  }
}

/** Sends progress one at a time and only the latest, so that none arrives late, out of order, or after the outcome. */
function progressQueue(queue: Queue, jobId: string, log: NonNullable<ServeOptions['log']>) {
  let latest: { value: unknown } | undefined;
  let sending: Promise<void> | undefined;
  let closed = false;

  async function post(output: unknown) {
    await queue.post(jobId, JSON.stringify({ status: 'IN_PROGRESS', output }));
  }

  async function drain() {
    while (latest && !closed) {
      const { value } = latest;
      latest = undefined;
      await post(value).catch((error: unknown) => log({ event: 'progress not sent', jobId, error }));
    }
    sending = undefined;
  }

  return {
    send(value: unknown) {
      latest = { value };
      sending ??= drain();
    },
    /** Drops what has not been sent and waits for what has. */
    async close() {
      closed = true;
      await sending;
    },
  };
}

/** Pings go on in a thread of their own, and each names the jobs that were held last. */
function startPings(queue: Queue, interval: number, log: NonNullable<ServeOptions['log']>) {
  if (!queue.pings) return { hold() {}, async stop() {} };
  const workerData = { ...queue.pings, interval, timeout: 2 * interval };
  const thread = new Worker(new URL('./ping-thread.mjs', import.meta.url), { workerData, execArgv: [] });
  thread.on('message', (error: string) => log({ event: 'ping failed', error }));
  thread.on('error', (error) => log({ event: 'pings ended', error }));
  return {
    hold: (jobIds: string[]) => thread.postMessage(jobIds),
    async stop() {
      await thread.terminate();
    },
  };
}

const STOPPED = new DOMException('RunPod stopped the job', 'AbortError');

async function stopLoop(
  stops: NonNullable<Queue['stops']>,
  held: Map<string, AbortController>,
  signal: AbortSignal,
  log: NonNullable<ServeOptions['log']>,
) {
  while (!signal.aborted) {
    const ids = await stops(signal).catch((error: unknown) => {
      if (!signal.aborted && !(error instanceof DOMException)) log({ event: 'stop poll failed', error });
      return [];
    });
    const jobs = ids.flatMap((id) => held.get(id) ?? []).filter((job) => !job.signal.aborted);
    for (const job of jobs) job.abort(STOPPED);
    if (jobs.length === 0) await pause(SECOND, signal); // also if the server says the same again and again
  }
}

function queueEnvironment(env: NodeJS.ProcessEnv): QueueEnvironment {
  const { RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT } = env;
  if (!RUNPOD_WEBHOOK_GET_JOB || !RUNPOD_WEBHOOK_POST_OUTPUT) {
    throw new Error(
      'RUNPOD_WEBHOOK_GET_JOB and RUNPOD_WEBHOOK_POST_OUTPUT are not set: RunPod sets them for its workers',
    );
  }
  return { ...env, RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT };
}

/** Aborted at the first SIGTERM or SIGINT; the second ends the process at once. */
function onSignals(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGTERM', 'SIGINT'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(1);
      controller.abort();
    });
  }
  return controller.signal;
}

const jittered = (ms: number) => ms * (0.75 + 0.5 * Math.random());

/** Aborts the controller when the signal comes. @returns the controller's signal */
function either(signal: AbortSignal, controller: AbortController): AbortSignal {
  if (signal.aborted) controller.abort(signal.reason);
  signal.addEventListener('abort', () => controller.abort(signal.reason), { once: true });
  return controller.signal;
}

/** Waits, or less if the signal comes. */
const pause = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal }).catch(() => undefined);

/** Waits until one of them has ended, or less if the signal comes. */
async function oneOf(running: Set<Promise<void>>, signal: AbortSignal) {
  const listening = new AbortController(); // ended, so that no listener is left behind by each job
  await Promise.race([...running, once(signal, 'abort', { signal: listening.signal }).catch(() => undefined)]);
  listening.abort();
}
