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
 * `refresh_worker: true` asks for a fresh worker afterwards. What it throws fails the job too.
 */
export type Handle = (job: TakenJob, tools: JobTools) => unknown;

export interface ServeOptions {
  /** how many jobs may be in hand at once; default 1 */
  concurrency?: number;
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
/** A server that says "nothing" at once is not asked again at once. */
const QUICK_ANSWER = 100;

/**
 * Serves until the signal; resolves when the last job's outcome has been posted.
 * @throws Error if the environment names no queue
 */
export async function serve(handle: Handle, options: ServeOptions = {}): Promise<void> {
  const { concurrency = 1, env = process.env, log = () => {}, grace = 30 * SECOND, signal = onSignals() } = options;
  const queue = openQueue(queueEnvironment(env));
  const held = new Map<string, AbortController>();
  const running = new Set<Promise<void>>();
  log({ event: 'serving', workerId: queue.workerId, concurrency });

  const over = new AbortController(); // the worker is done: pings and stop polls end
  const pings = startPings(queue, Number(env.RUNPOD_PING_INTERVAL) || 10 * SECOND, log);
  const companions: Promise<void>[] = [];
  if (queue.stops) companions.push(stopLoop(queue.stops, held, over.signal, log));

  let failures = 0;
  while (!signal.aborted) {
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
      const work: Promise<void> = run(job, handle, queue, controller, log).finally(() => {
        held.delete(job.id);
        pings.hold([...held.keys()]);
        running.delete(work);
      });
      running.add(work);
      if (running.size >= concurrency && !signal.aborted) await oneOf(running, signal);
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

/** One job from taking to posting; never rejects. */
async function run(
  job: TakenJob,
  handle: Handle,
  queue: Queue,
  controller: AbortController,
  log: NonNullable<ServeOptions['log']>,
) {
  const start = performance.now();
  log({ event: 'job started', jobId: job.id });
  const updates = progressQueue(queue, job.id, log);
  let body: string;
  try {
    const value = await handle(job, { progress: updates.send, signal: controller.signal });
    body = outcome(value);
  } catch (error) {
    log({ event: 'job threw', jobId: job.id, error });
    body = JSON.stringify({ error: thrown(error, queue.workerId) });
  }
  await updates.close();
  const ms = Math.round(performance.now() - start);
  if (controller.signal.reason === STOPPED) return log({ event: 'job stopped', jobId: job.id, ms });
  await postOutcome(queue, job.id, body, log);
  log({ event: 'job ended', jobId: job.id, ms });
}

/** The body of job-done for what a handler returned. */
function outcome(value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return JSON.stringify({ output: value ?? null });
  const { error, refresh_worker, ...output } = value as Record<string, unknown>;
  return JSON.stringify({
    ...(Object.keys(output).length > 0 ? { output } : {}),
    ...(error ? { error: typeof error === 'string' ? error : JSON.stringify(error) } : {}),
    ...(refresh_worker === true ? { stopPod: true } : {}),
  });
}

/** A thrown error as RunPod's own worker words it. */
function thrown(error: unknown, workerId: string): string {
  const { name, message, stack } = error instanceof Error ? error : new Error(inspect(error));
  return JSON.stringify({ error_type: name, error_message: message, error_traceback: stack, worker_id: workerId });
}

/** Posts until it is accepted, refused for good, or five minutes have passed. */
async function postOutcome(queue: Queue, jobId: string, body: string, log: NonNullable<ServeOptions['log']>) {
  const giveUp = performance.now() + POST_RETRY.total;
  for (let wait = POST_RETRY.first; ; wait = Math.min(POST_RETRY.longest, wait * 2)) {
    const answer = await queue.post(jobId, body).catch((error: unknown) => error);
    if (typeof answer === 'number') {
      if (answer >= 200 && answer < 300) return;
      if (answer < 500 && !POST_RETRY.statuses.includes(answer))
        return log({ event: 'outcome refused', jobId, status: answer });
    }
    if (performance.now() + wait > giveUp) return log({ event: 'outcome lost', jobId, answer });
    log({ event: 'outcome not accepted, will be sent again', jobId, answer });
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

/** Waits, or less if the signal comes. */
const pause = (ms: number, signal: AbortSignal) => delay(ms, undefined, { signal }).catch(() => undefined);

/** Waits until one of them has ended, or less if the signal comes. */
async function oneOf(running: Set<Promise<void>>, signal: AbortSignal) {
  const listening = new AbortController(); // ended, so that no listener is left behind by each job
  await Promise.race([...running, once(signal, 'abort', { signal: listening.signal }).catch(() => undefined)]);
  listening.abort();
}
