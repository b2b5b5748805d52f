/**
 * A RunPod serverless worker: takes jobs from RunPod's queue, runs them, reports progress, and posts each outcome.
 *
 * A job is taken → running → (done | failed) → posted, or stopped (RunPod asked for it: nothing is posted). It is held, and named in
 * pings, from the taking until its outcome has been accepted or refused for good.
 *
 * The worker is fit → serving → ending (a signal, a fresh worker wanted, or an error that nobody caught: no more jobs are taken) →
 * ended, when nothing is held. Jobs in hand may run on for the grace time, are then aborted, and soon after failed in any case.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { inspect } from 'node:util';
import { SECOND } from '../../core/time.ts';
import { deliver, jittered, pause, progressQueue } from './delivery.ts';
import { consoleLog, type Log } from './job-log.ts';
import { readFlags, readTestJob, runTestJob, serveApi } from './local-api.ts';
import { startPings } from './pings.ts';
import { openQueue, type Queue, type QueueEnvironment, type TakenJob } from './queue-client.ts';
import { type Handle, produce, thrown, within } from './runpod-job.ts';
import type { Held, InJob, ServeOptions } from './serve-options.ts';

export type { Log } from './job-log.ts';
export { readFlags } from './local-api.ts';
export type { TakenJob } from './queue-client.ts';
export type { Handle, JobTools } from './runpod-job.ts';
export type { ServeOptions } from './serve-options.ts';

/** How taking backs off after errors. */
const TAKE_RETRY = { first: 250, longest: 5 * SECOND };
/** After 429. */
const SLOW_DOWN = 5 * SECOND;
/** A server that says "nothing" at once is not asked again at once. */
const QUICK_ANSWER = 100;
/** What RunPod takes, in bytes: of a job from /run and from /runsync, and of a chunk. */
const MOST = { run: 10e6, runsync: 20e6, chunk: 1e6 };
/** How long an aborted job has to end by itself while the worker waits for it. */
const LAST_WORDS = 5 * SECOND;

/**
 * Serves until the signal; resolves when the last job's outcome has been posted. With `--rp_serve_api` it is an HTTP server instead of a
 * worker; with `--test_input`, or where the environment names no queue, it runs one job and prints its outcome.
 * @throws Error: an option, a flag or the environment is wrong, a check has failed, the one job has failed, or something in the process
 * threw and nobody caught it
 */
export async function serve(handle: Handle, options: ServeOptions = {}): Promise<void> {
  const { env = process.env, argv = process.argv.slice(2), concurrency = 1, fitness = {} } = options;
  if (typeof concurrency === 'number' && !(Number.isInteger(concurrency) && concurrency > 0))
    throw new Error(`concurrency must be a whole number from 1, or a function that gives one; it is ${concurrency}`);
  const flags = readFlags(argv);
  const log = options.log ?? consoleLog(flags.logLevel ?? (env.RUNPOD_LOG_LEVEL || undefined));
  const isLocal = flags.serveApi || flags.testInput !== undefined || !env.RUNPOD_WEBHOOK_GET_JOB;
  const ending = new AbortController();
  const { inJob, uncaught, unwatch } = watchProcess(ending, options.signal, log);
  try {
    if (isLocal) {
      const job = flags.serveApi ? undefined : await readTestJob(flags.testInput); // before the checks: they may load a model
      for (const check of Object.values(fitness)) await check();
      const local = { ...options, log, inJob, signal: ending.signal };
      await (job ? runTestJob(handle, job, local) : serveApi(handle, flags, local));
    } else {
      const queue = openQueue(queueEnvironment(env));
      const { signal } = ending;
      const ended = new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      if (!signal.aborted) await Promise.race([checkFitness(fitness, queue, log), ended]); // loading a model takes long
      if (!signal.aborted) await work(handle, queue, inJob, { ...options, env, log }, ending);
    }
  } finally {
    unwatch();
  }
  if (uncaught.length > 0) throw uncaught[0];
}

/** Takes and runs jobs until `ending`, and then ends those in hand. */
async function work(
  handle: Handle,
  queue: Queue,
  inJob: InJob,
  options: ServeOptions & { env: NodeJS.ProcessEnv; log: Log },
  ending: AbortController,
) {
  const { concurrency = 1, refreshWorker = false, env, log, grace = 30 * SECOND } = options;
  const { signal } = ending;
  const limit = typeof concurrency === 'function' ? () => Math.max(1, Math.floor(concurrency())) : () => concurrency;
  const held = new Map<string, Held>();
  const running = new Set<Promise<void>>();
  log({ event: 'serving', workerId: queue.workerId, concurrency: limit() });

  const over = new AbortController(); // the worker is done: pings and stop polls end
  const pings = startPings(queue.pings, Number(env.RUNPOD_PING_INTERVAL) || 10 * SECOND, log);
  const stops = queue.stops && stopLoop(queue.stops, held, over.signal, log);

  /** Holds the job until `end` has resolved. */
  function hold(id: string, end: (job: Held, failed: Promise<never>) => Promise<void>) {
    const ended: Promise<void> = inJob(id, (job, failed) => {
      held.set(id, job);
      pings.hold([...held.keys()]);
      return end(job, failed);
    }).finally(() => {
      if (refreshWorker) ending.abort();
      held.delete(id);
      pings.hold([...held.keys()]);
      running.delete(ended);
    });
    running.add(ended);
  }

  let failures = 0; // answers in a row that were of no use
  while (!signal.aborted) {
    const free = limit() - held.size;
    if (free <= 0) {
      await oneOf(running, signal);
      continue;
    }
    const asked = performance.now();
    const take = await queue.take(free, held.size > 0, signal).catch(() => undefined); // rejects only when the signal is aborted
    if (!take) break;
    let problem: unknown = take.status === 'error' && take.error;
    if (take.status === 'jobs') {
      const [again, fresh] = [take.jobs.filter(({ id }) => held.has(id)), take.jobs.filter(({ id }) => !held.has(id))];
      for (const { id } of again) log({ event: 'job given twice', jobId: id });
      for (const job of fresh) hold(job.id, (own, failed) => run(job, handle, queue, own, failed, options));
      for (const id of take.withoutInput.filter((id) => !held.has(id)))
        hold(id, async () => {
          const body = JSON.stringify({ error: thrown(new TypeError('the job has no input'), queue.workerId) });
          await deliver('outcome', id, () => queue.post(id, body), log);
        });
      if (take.unreadable > 0) problem = new Error('job-take gave a job without id');
      else if (fresh.length === 0) problem = new Error('job-take gave nothing that can be run');
    }
    failures = problem ? failures + 1 : 0;
    if (problem) {
      log({ event: 'take failed', error: problem });
      await pause(jittered(Math.min(TAKE_RETRY.longest, TAKE_RETRY.first * 2 ** (failures - 1))), signal);
    } else if (take.status === 'slow down') {
      await pause(SLOW_DOWN, signal);
    } else if (take.status === 'empty' && performance.now() - asked < QUICK_ANSWER) {
      await pause(jittered(TAKE_RETRY.first), signal);
    }
  }

  log({ event: 'stopping', jobs: [...held.keys()] });
  const stopped = new Error('the worker had to stop');
  const each = (act: (job: Held) => void) => {
    for (const job of held.values()) act(job);
  };
  const cut = setTimeout(() => each(({ controller }) => controller.abort(stopped)), grace);
  const cutAll = setTimeout(() => each(({ fail }) => fail(stopped)), grace + LAST_WORDS);
  await Promise.all(running);
  clearTimeout(cut);
  clearTimeout(cutAll);
  over.abort();
  await Promise.all([stops, pings.stop()]);
  log({ event: 'stopped' });
}

/** @throws what the first check that fails has thrown, after RunPod has been told */
async function checkFitness(checks: NonNullable<ServeOptions['fitness']>, queue: Queue, log: Log) {
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
  { controller: { signal } }: Held,
  failed: Promise<never>,
  { refreshWorker, aggregateStream, log }: ServeOptions & { log: Log },
) {
  const start = performance.now();
  log({ event: 'job started', jobId: job.id });
  const updates = progressQueue(queue, job.id, log);
  const { postChunk } = queue;
  const sendChunk =
    postChunk &&
    (async (chunk: unknown) => {
      const body = within(MOST.chunk, 'a chunk', { output: chunk ?? null });
      if (!(await deliver('chunk', job.id, () => postChunk(job.id, body), log)))
        throw new Error('a chunk of the output could not be delivered');
    });
  const fresh = refreshWorker ? { stopPod: true } : {};
  let isStream = false;
  let body: string;
  try {
    const onStream = () => {
      isStream = true;
    };
    const tools = { progress: updates.send, signal, onStream, sendChunk, aggregate: aggregateStream };
    const outcome = await Promise.race([produce(job, handle, tools), failed]);
    body = within(job.id.startsWith('sync-') ? MOST.runsync : MOST.run, 'the output', { ...outcome, ...fresh });
  } catch (error) {
    log({ event: 'job threw', jobId: job.id, error });
    body = JSON.stringify({ error: thrown(error, queue.workerId), ...fresh });
  }
  await updates.close();
  const ms = Math.round(performance.now() - start);
  if (signal.reason === STOPPED) return log({ event: 'job stopped', jobId: job.id, ms });
  await deliver('outcome', job.id, () => queue.post(job.id, body, isStream), log);
  log({ event: 'job ended', jobId: job.id, ms });
}

const STOPPED = new DOMException('RunPod stopped the job', 'AbortError');

async function stopLoop(stops: NonNullable<Queue['stops']>, held: Map<string, Held>, signal: AbortSignal, log: Log) {
  while (!signal.aborted) {
    const answer = await stops(signal).catch((error: unknown) => {
      if (!signal.aborted && !(error instanceof DOMException)) log({ event: 'stop poll failed', error });
      return [];
    });
    const ids = answer === 'slow down' ? [] : answer;
    const jobs = ids.flatMap((id) => held.get(id) ?? []).filter(({ controller }) => !controller.signal.aborted);
    for (const { controller } of jobs) controller.abort(STOPPED);
    if (jobs.length === 0) await pause(answer === 'slow down' ? SLOW_DOWN : SECOND, signal); // also if it says the same again and again
  }
}

function queueEnvironment(env: NodeJS.ProcessEnv): QueueEnvironment {
  const { RUNPOD_WEBHOOK_GET_JOB = '', RUNPOD_WEBHOOK_POST_OUTPUT } = env;
  if (!RUNPOD_WEBHOOK_POST_OUTPUT)
    throw new Error('RUNPOD_WEBHOOK_POST_OUTPUT is not set: RunPod sets it for its workers');
  return { ...env, RUNPOD_WEBHOOK_GET_JOB, RUNPOD_WEBHOOK_POST_OUTPUT };
}

/**
 * What concerns the process as a whole. `ending` is aborted by the caller's signal or, if there is none, by the first SIGTERM or SIGINT;
 * the second ends the process at once. A rejection that nobody handles fails the job in which it arose. So does an exception that
 * nobody catches; since nobody knows what it has left behind, the worker then ends as well.
 */
function watchProcess(ending: AbortController, signal: AbortSignal | undefined, log: Log) {
  const ofJob = new AsyncLocalStorage<Held>();
  const uncaught: unknown[] = [];
  function failJob(event: string, error: unknown) {
    const job = ofJob.getStore();
    log({ event, error, ...(job && { jobId: job.id }) });
    job?.controller.abort(error);
    job?.fail(error);
  }
  const end = () => {
    if (ending.signal.aborted && !signal) process.exit(1);
    ending.abort();
  };
  const rejection = (error: unknown) => failJob('unhandled rejection', error);
  const exception = (error: unknown) => {
    uncaught.push(error);
    failJob('uncaught exception', error);
    ending.abort();
  };
  process.on('unhandledRejection', rejection).on('uncaughtException', exception);
  if (!signal) process.on('SIGTERM', end).on('SIGINT', end);
  if (signal?.aborted) end();
  signal?.addEventListener('abort', end, { once: true });
  const inJob: InJob = (id, work) => {
    let fail: Held['fail'] = () => {};
    const failed = new Promise<never>((_, reject) => {
      fail = reject;
    });
    failed.catch(() => {}); // whoever cares listens as well
    const job = { id, controller: new AbortController(), fail };
    return ofJob.run(job, work, job, failed);
  };
  return {
    inJob,
    uncaught,
    unwatch() {
      process.off('unhandledRejection', rejection).off('uncaughtException', exception);
      process.off('SIGTERM', end).off('SIGINT', end);
      signal?.removeEventListener('abort', end);
    },
  };
}

/** Waits until one of them has ended, or less if the signal comes. */
async function oneOf(running: Set<Promise<void>>, signal: AbortSignal) {
  await new Promise<void>((resolve) => {
    const done = () => {
      signal.removeEventListener('abort', done); // so that no listener is left behind by each job
      resolve();
    };
    signal.addEventListener('abort', done);
    for (const job of running) job.then(done);
    if (signal.aborted) done();
  });
}
