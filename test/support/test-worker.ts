/** For the tests of this folder: RunPod's queue written by hand, for its faults, and workers that end with their test. */
import { EventEmitter, once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, vi } from 'vitest';
import { SECOND } from '../../core/time.ts';
import { type Handle, type ServeOptions, serve } from '../../handler/runpod/index.ts';

export const MINUTE = 60 * SECOND;
export const KEY = 'test-key';
/** For what happens soon, however busy the machine. */
export const SOON = { timeout: 4 * SECOND, interval: 5 };

const cleanups: (() => unknown)[] = [];
/** Done after the test, the last one first. */
export const afterwards = (cleanup: () => unknown) => void cleanups.push(cleanup);
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup(); // workers first, then their servers
  vi.restoreAllMocks();
});

export type Operation = 'job-take' | 'job-done' | 'job-stop' | 'job-stream' | 'ping';

export interface Asked {
  operation: Operation;
  url: URL;
  /** the last part of the path: a job's id for job-done, else the worker's */
  id: string;
  headers: IncomingHttpHeaders;
  text: string;
  /** milliseconds */
  at: number;
}

export type Answer = (response: ServerResponse, asked: Asked) => void;

/** What a poll gets while there is nothing to say. */
export const hold: Answer = () => {};
export const status =
  (code: number, text = ''): Answer =>
  (response) =>
    response.writeHead(code).end(text);
export const json = (value: unknown) => status(200, JSON.stringify(value));
export const reset: Answer = (response) => response.destroy();

/** Each answer once, then the last for good. */
export function inTurn(...answers: Answer[]): Answer {
  let next = 0;
  return (response, asked) => answers[Math.min(next++, answers.length - 1)]!(response, asked);
}

/** Gives these jobs, then holds. */
export const jobs = (...ids: string[]) => inTurn(...ids.map((id) => json({ id, input: { of: id } })), hold);

/** RunPod's queue, written by hand for its faults; unless said otherwise it holds polls and accepts the rest. */
export async function farQueue(answers: Partial<Record<Operation, Answer>>) {
  const all: Record<Operation, Answer> = {
    'job-take': hold,
    'job-done': json({}),
    'job-stop': hold,
    'job-stream': json({}),
    ping: json({}),
    ...answers,
  };
  const asked: Asked[] = [];
  const news = new EventEmitter();
  const server = createServer(async (request, response) => {
    response.on('error', () => {});
    const text = (await request.setEncoding('utf8').toArray()).join('');
    const url = new URL(request.url!, 'http://far');
    const [, name, ...rest] = url.pathname.split('/').slice(2) as [string, string, ...string[]];
    const operation = name.replace('-batch', '') as Operation; // its answer may be that of a job-take
    const one = { operation, url, id: rest.at(-1)!, headers: request.headers, text, at: performance.now() };
    asked.push(one);
    all[operation](response, one);
    news.emit('asked');
  });
  const base = await opened(server);
  const of = (operation: Operation, id?: string) =>
    asked.filter((one) => one.operation === operation && (id === undefined || one.id === id));
  return {
    env: environment(base),
    of,
    /** What was posted for a job, parsed. */
    posted: (id?: string) => of('job-done', id).map(({ text }) => JSON.parse(text)),
    /** Resolves when so many requests of this kind have come. */
    async until(count: number, operation: Operation, id?: string) {
      while (of(operation, id).length < count) await once(news, 'asked');
    },
  };
}

export async function opened(server: Server): Promise<string> {
  cleanups.push(() => server.close().closeAllConnections());
  if (!server.listening) await once(server.listen(0, '127.0.0.1'), 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** As RunPod sets it; no pings unless a test wants them. */
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
export const withPings = (env: ReturnType<typeof environment>, interval = 20) => ({
  ...env,
  RUNPOD_WEBHOOK_PING: env.RUNPOD_WEBHOOK_GET_JOB.replace(/job-take.*/, 'ping/$RUNPOD_POD_ID'),
  RUNPOD_PING_INTERVAL: String(interval),
});

/** Starts a worker that ends with the test. */
export function worker(handle: Handle, env: NodeJS.ProcessEnv, options: ServeOptions = {}) {
  const controller = new AbortController();
  const events: { event: string; jobId?: string }[] = [];
  const ended = serve(handle, {
    env,
    signal: controller.signal,
    grace: SECOND,
    log: (event) => events.push(event),
    ...options,
  });
  const stop = () => {
    controller.abort();
    return ended;
  };
  cleanups.push(stop);
  return {
    ended,
    stop,
    signal: controller.signal,
    happened: (event: string) => events.filter((e) => e.event === event),
  };
}

/** Something to wait for that a test opens. */
export function gate() {
  let open!: () => void;
  const opens = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opens, open };
}

export const untilAborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
export const truncated: Answer = (response) => {
  response.writeHead(200, { 'content-length': 10 }).write('{');
  setTimeout(() => response.destroy(), 10);
};
