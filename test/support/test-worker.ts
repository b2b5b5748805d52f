/** For the worker's tests: a queue with scripted answers, and workers in this process, all of which end with their test. */
import { EventEmitter, once } from 'node:events';
import type { IncomingHttpHeaders, IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { text as readText } from 'node:stream/consumers';
import { afterEach, onTestFinished, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { type Handler, type ServeOptions, serve } from '../../handler/runpod/index.ts';
import { serveOnLoopback } from '../../infra/simulators/loopback.ts';

export const KEY = 'test-key';
/** For `vi.waitFor`. */
export const SOON = { interval: 5 };

afterEach(() => void vi.restoreAllMocks());

/** One request of a worker. Times are milliseconds. */
export interface RecordedRequest {
  /** job-take, job-take-batch, job-done, job-stop, job-stream or ping */
  operation: string;
  worker: string;
  /** the job's, where the path has one */
  id: string | undefined;
  /** with the query, from the operation on */
  path: string;
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
  text: string;
  at: number;
  /** absent while it is held; `disconnected` if the worker has gone before the answer */
  end?: 'answered' | 'disconnected';
  ended?: number;
  /** of the answer */
  status?: number;
}

/** Records the requests of workers to RunPod's queue at /v2/ep. */
export function createRecorder() {
  const events = new EventEmitter().setMaxListeners(0);
  const recorded: RecordedRequest[] = [];
  const changed = () => events.emit('change');
  /** @param operation `job-take` includes job-take-batch */
  const requests = (operation: string, id?: string) =>
    recorded.filter((one) => one.operation.startsWith(operation) && (id === undefined || one.id === id));
  return {
    recorded,
    changed,
    requests,
    /** The bodies posted to job-done. */
    posted: (id?: string) => requests('job-done', id).map(({ text }) => JSON.parse(text)),
    record({ url: path = '', headers }: IncomingMessage, response: ServerResponse, text: string): RecordedRequest {
      const url = new URL(path, 'http://localhost');
      const [operation, worker, id] = url.pathname.split('/').slice(3) as [string, string, string?];
      const request: RecordedRequest = {
        ...{ operation, worker, id, path: path.replace('/v2/ep/', ''), query: url.searchParams },
        ...{ headers, text, at: performance.now() },
      };
      recorded.push(request);
      response.once('close', () => {
        request.end = response.writableFinished ? 'answered' : 'disconnected';
        request.ended = performance.now();
        if (request.end === 'answered') request.status = response.statusCode;
        changed();
      });
      changed();
      return request;
    },
    /** Calls `check` at each change until it returns something truthy. Rejects when the signal is aborted. */
    async waitFor<T>(check: () => T | undefined | false, signal?: AbortSignal): Promise<T> {
      for (;;) {
        const found = check();
        if (found) return found;
        await once(events, 'change', signal && { signal });
      }
    },
  };
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

/** RunPod's queue with these answers; those to job-take also answer job-take-batch. By default it holds polls and accepts the rest. */
export async function scriptedQueue(script: Record<string, Answer> = {}) {
  const accept = json({});
  const answers: Record<string, Answer> = {
    ...{ 'job-take': hold, 'job-done': accept, 'job-stop': hold, 'job-stream': accept, ping: accept },
    ...script,
  };
  const recorder = createRecorder();
  const { requests } = recorder;
  const base = await serveUntilTestEnds(async (request, response) => {
    response.on('error', () => {});
    const recorded = recorder.record(request, response, await readText(request));
    answers[recorded.operation.replace('-batch', '')]!(response, recorded);
  });
  /** Resolves when there have been `count` of these requests. */
  const waitFor = (count: number, operation: string, id?: string) =>
    recorder.waitFor(() => requests(operation, id).length >= count);
  return {
    env: environment(base),
    requests,
    posted: recorder.posted,
    waitFor,
    /** Waits for `count` more pings. @returns the job ids of the last one; null if it has none */
    async pingedJobs(count = 2): Promise<string | null> {
      await waitFor(requests('ping').length + count, 'ping');
      return requests('ping').at(-1)!.query.get('job_id');
    },
  };
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
