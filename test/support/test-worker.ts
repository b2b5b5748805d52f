/** For the worker's tests: a queue with scripted answers, and workers in this process, all of which end with their test. */
import { EventEmitter, once } from 'node:events';
import type { IncomingHttpHeaders, RequestListener, ServerResponse } from 'node:http';
import { afterEach, onTestFinished, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { type Handler, type ServeOptions, serve } from '../../handler/runpod/index.ts';
import { serveOnLoopback } from '../../infra/simulators/loopback.ts';

export const KEY = 'test-key';
/** For `vi.waitFor`; generous, for busy machines. */
export const SOON = { timeout: 4 * SECOND, interval: 5 };

afterEach(() => void vi.restoreAllMocks());

export type Operation = 'job-take' | 'job-done' | 'job-stop' | 'job-stream' | 'ping';

export interface RecordedRequest {
  /** job-take-batch counts as job-take */
  operation: Operation;
  url: URL;
  /** the path's last part: a job's id for job-done and job-stream, else the worker's */
  id: string;
  headers: IncomingHttpHeaders;
  text: string;
  /** milliseconds */
  at: number;
}

export type Answer = (response: ServerResponse, request: RecordedRequest) => void;

export const hold: Answer = () => {};
export const status =
  (code: number, text = ''): Answer =>
  (response) =>
    response.writeHead(code).end(text);
export const json = (value: unknown) => status(200, JSON.stringify(value));
export const reset: Answer = (response) => response.destroy();
export const truncated: Answer = (response) => {
  response.writeHead(200, { 'content-length': 10 }).write('{');
  setTimeout(() => response.destroy(), 10);
};
/** The answer as soon as the promise resolves. */
export const after =
  (promise: Promise<unknown>, answer: Answer = json({})): Answer =>
  (response, request) =>
    void promise.then(() => answer(response, request));
/** Each answer once, then the last one again and again. */
export function inTurn(...answers: Answer[]): Answer {
  let next = 0;
  return (response, request) => answers[Math.min(next++, answers.length - 1)]!(response, request);
}
/** Gives these jobs, then holds. */
export const jobs = (...ids: string[]) => inTurn(...ids.map((id) => json({ id, input: { of: id } })), hold);

/** RunPod's queue with these answers. By default it holds polls and accepts the rest. */
export async function scriptedQueue(script: Partial<Record<Operation, Answer>> = {}) {
  const accept = json({});
  const answers = {
    'job-take': hold,
    'job-done': accept,
    'job-stop': hold,
    'job-stream': accept,
    ping: accept,
    ...script,
  };
  const recorded: RecordedRequest[] = [];
  const events = new EventEmitter();
  const base = await serveUntilTestEnds(async (request, response) => {
    response.on('error', () => {});
    const text = (await request.setEncoding('utf8').toArray()).join('');
    const url = new URL(request.url!, 'http://localhost');
    const [, name, ...rest] = url.pathname.split('/').slice(2) as [string, string, ...string[]];
    const operation = name.replace('-batch', '') as Operation;
    const one = { operation, url, id: rest.at(-1)!, headers: request.headers, text, at: performance.now() };
    recorded.push(one);
    answers[operation](response, one);
    events.emit('request');
  });
  const queue = {
    env: environment(base),
    requests: (operation: Operation, id?: string) =>
      recorded.filter((one) => one.operation === operation && (id === undefined || one.id === id)),
    /** The bodies posted to job-done. */
    posted: (id?: string) => queue.requests('job-done', id).map(({ text }) => JSON.parse(text)),
    /** Resolves when there have been `count` of these requests. */
    async waitFor(count: number, operation: Operation, id?: string) {
      while (queue.requests(operation, id).length < count) await once(events, 'request');
    },
    /** Waits for `count` more pings. @returns the job ids of the last one; null if it has none */
    async pingedJobs(count = 2): Promise<string | null> {
      await queue.waitFor(queue.requests('ping').length + count, 'ping');
      return queue.requests('ping').at(-1)!.url.searchParams.get('job_id');
    },
  };
  return queue;
}

/** @returns the URL of the server's root */
export async function serveUntilTestEnds(listener: RequestListener): Promise<string> {
  const { url, close } = await serveOnLoopback(listener);
  onTestFinished(close);
  return url;
}

/** RunPod's variables, without those of chunks and pings. */
export const environment = (base: string) => ({
  RUNPOD_WEBHOOK_GET_JOB: `${base}/v2/ep/job-take/$ID?gpu=NVIDIA+L4`,
  RUNPOD_WEBHOOK_POST_OUTPUT: `${base}/v2/ep/job-done/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+L4`,
  RUNPOD_AI_API_KEY: KEY,
  RUNPOD_POD_ID: 'pod1',
});
export const withStream = (env: ReturnType<typeof environment>) => ({
  ...env,
  RUNPOD_WEBHOOK_POST_STREAM: env.RUNPOD_WEBHOOK_POST_OUTPUT.replace('job-done', 'job-stream'),
});
/** @param interval milliseconds */
export const withPings = (env: ReturnType<typeof environment>, interval = 20) => ({
  ...env,
  RUNPOD_WEBHOOK_PING: env.RUNPOD_WEBHOOK_GET_JOB.replace(/job-take.*/, 'ping/$RUNPOD_POD_ID'),
  RUNPOD_PING_INTERVAL: String(interval),
});

/** Starts a worker. */
export function startWorker(handler: Handler, env: NodeJS.ProcessEnv, options: ServeOptions = {}) {
  const controller = new AbortController();
  const events: { event: string; jobId?: string }[] = [];
  const ended = serve(handler, {
    env,
    signal: controller.signal,
    gracePeriod: SECOND,
    log: (event) => events.push(event),
    ...options,
  });
  const stop = () => {
    controller.abort();
    return ended;
  };
  onTestFinished(stop);
  return { ended, stop, signal: controller.signal, logged: (event: string) => events.filter((e) => e.event === event) };
}

/** Something to wait for that a test opens. */
export function gate() {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

export const untilAborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));

/** Timers of `from` milliseconds take `to`. */
export function shortenTimer(from: number, to: number) {
  const real = setTimeout;
  vi.spyOn(globalThis, 'setTimeout').mockImplementation(((call: () => void, ms?: number, ...rest: []) =>
    real(call, ms === from ? to : ms, ...rest)) as typeof setTimeout);
}
