/** For the conformance tests: RunPod's far end, which writes down what it is asked, and real worker processes before it. */
import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type HttpBindings, serve } from '@hono/node-server';
import { Hono } from 'hono';
import { SECOND } from '../../core/time.ts';
import { isProgram } from '../../infra/run/programs.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';

export const KEY = 'test-key';
const PATIENCE = 30 * SECOND; // for what happens soon, however busy the machine

/** One request of a worker. */
export interface Asked {
  /** job-take, job-done, ping, … */
  operation: string;
  worker: string;
  /** of the job, where the path names one */
  id: string | undefined;
  /** as it came, from the operation on */
  path: string;
  query: URLSearchParams;
  headers: Record<string, string>;
  text: string;
  /** milliseconds */
  at: number;
  /** absent as long as it is held; `cut` if the worker has gone before the answer */
  end?: 'answered' | 'cut';
  /** when; milliseconds */
  ended?: number;
  /** of the answer */
  status?: number;
}

/** What a request gets instead of the queue's answer: a status, JSON, or an end of its connection. */
export type Fault = number | { json: unknown } | 'reset';

export type FarEnd = Awaited<ReturnType<typeof farEnd>>;

/**
 * The queue of infra/local behind HTTP, and gates at which jobs wait.
 * @param hold how long polls are held; milliseconds
 * @param pingInterval milliseconds
 * @param workerTimeout after which a silent worker's jobs go back into the queue; milliseconds
 */
export async function farEnd({ hold = SECOND, workerTimeout = 60 * SECOND, pingInterval = SECOND } = {}) {
  const { app: queueApp, queue, close } = queueServer({ apiKey: KEY, pollTimeout: hold, workerTimeout });
  const news = new EventEmitter().setMaxListeners(0);
  const happened = () => news.emit('news');
  const asked: Asked[] = [];
  const gates = new Map<string, { open: boolean; arrived: number; cut: number }>();
  const gate = (name: string) => {
    if (!gates.has(name)) gates.set(name, { open: false, arrived: 0, cut: 0 });
    return gates.get(name)!;
  };

  const app = new Hono<{ Bindings: HttpBindings }>();
  app.get('/gate/:name', async (c) => {
    const here = gate(c.req.param('name'));
    here.arrived++;
    let gone = false;
    c.env.outgoing.once('close', () => {
      gone = !c.env.outgoing.writableFinished;
      if (gone) here.cut++;
      happened();
    });
    happened();
    while (!here.open && !gone) await once(news, 'news');
    return c.text('open');
  });
  const hooks: unknown[] = [];
  app.post('/hook', async (c) => {
    hooks.push(await c.req.json());
    happened();
    return c.text('heard');
  });
  app.use('/v2/ep/*', async (c, next) => {
    const url = new URL(c.req.url);
    const [operation, worker, id] = url.pathname.split('/').slice(3) as [string, string, string?];
    const path = (url.pathname + url.search).replace('/v2/ep/', '');
    const [text, headers] = [await c.req.text(), c.req.header()];
    const one: Asked = { operation, worker, id, path, query: url.searchParams, headers, text, at: performance.now() };
    asked.push(one);
    c.env.outgoing.once('close', () => {
      one.end = c.env.outgoing.writableFinished ? 'answered' : 'cut';
      one.ended = performance.now();
      happened();
    });
    happened();
    const fault = await far.fault(one);
    if (fault === 'reset') {
      c.env.incoming.socket.destroy();
      return c.body(null);
    }
    if (typeof fault === 'object') return c.json(fault.json);
    if (typeof fault === 'number') c.res = c.body(null, fault as 500);
    else await next();
    one.status = c.res.status;
  });
  app.route('/v2', queueApp);
  const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }) as Server;
  server.keepAliveTimeout = 60 * SECOND; // a worker that has blocked its thread posts over a connection from before
  if (!server.listening) await once(server, 'listening');
  const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  const far = {
    base,
    queue,
    asked,
    gate,
    /** what was posted to /hook */
    hooks,
    /** as RunPod sets it */
    env: {
      RUNPOD_WEBHOOK_GET_JOB: `${base}/v2/ep/job-take/$ID?gpu=NVIDIA+L4`,
      RUNPOD_WEBHOOK_POST_OUTPUT: `${base}/v2/ep/job-done/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+L4`,
      RUNPOD_WEBHOOK_POST_STREAM: `${base}/v2/ep/job-stream/$RUNPOD_POD_ID/$ID?gpu=NVIDIA+L4`,
      RUNPOD_WEBHOOK_PING: `${base}/v2/ep/ping/$RUNPOD_POD_ID`,
      RUNPOD_PING_INTERVAL: String(pingInterval),
      RUNPOD_AI_API_KEY: KEY,
      RUNPOD_POD_ID: 'pod1',
      RUNPOD_POD_HOSTNAME: 'pod1-host',
      GATE: `${base}/gate`, // for the handlers of testdata
    },
    /** asked for each request; a promise holds it up */
    fault: (_: Asked): Fault | undefined | Promise<undefined> => undefined,
    /** @returns the job's id */
    submit: (input: unknown): string => queue.submit({ input }).id,
    status: (id: string) => queue.find(id)?.status,
    of: (operation: string, id?: string) =>
      asked.filter((one) => one.operation === operation && (id === undefined || one.id === id)),
    takes: () => asked.filter(({ operation }) => operation.startsWith('job-take')),
    /** what was posted to job-done for a job, parsed */
    posted: (id: string) => far.of('job-done', id).map(({ text }) => JSON.parse(text)),
    open(name: string) {
      gate(name).open = true;
      happened();
    },
    /**
     * Looks at each event, until `look` finds something.
     * @throws Error that names `what` did not happen
     */
    async until<T>(what: string, look: () => T | undefined | false): Promise<T> {
      const patience = AbortSignal.timeout(PATIENCE);
      for (;;) {
        const found = look();
        if (found) return found;
        await once(news, 'news', { signal: patience }).catch(() => {
          const last = asked.slice(-20).map(({ path, status, end }) => `${path} ${status ?? ''} ${end ?? 'held'}`);
          throw new Error(`never happened: ${what}; asked last:\n${last.join('\n')}`);
        });
      }
    },
    arrived: (name: string) => far.until(`a job at gate ${name}`, () => gate(name).arrived > 0),
    ended: (...ids: string[]) =>
      far.until(`the end of ${ids}`, () => ids.every((id) => queue.find(id)?.ended !== undefined)),
    /** @returns the next `count` pings, from now on */
    async pings(count: number): Promise<Asked[]> {
      const before = far.of('ping').length;
      await far.until(`${count} pings`, () => far.of('ping').length >= before + count);
      return far.of('ping').slice(before);
    },
    /** Waits for the next `count` takes to be asked and answered. */
    async nextTakes(count: number): Promise<Asked[]> {
      const before = far.takes().length;
      const next = () => far.takes().slice(before, before + count);
      await far.until(`${count} takes`, () => next().filter(({ end }) => end).length === count);
      return next();
    },
    close() {
      close();
      server.close().closeAllConnections();
    },
  };
  return far;
}

/** The Python with RunPod's package (`test/support/python.sh` makes it), or undefined where there is none. */
export const python: string | undefined = [process.env.RUNPOD_PYTHON].find((path) => path && isProgram(path));

/** For the names of tests. */
export const skipped = python ? '' : ' (no RUNPOD_PYTHON: skipped)';
if (!python) console.warn('no RUNPOD_PYTHON: what wants RunPod’s own Python package is skipped');

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const tsx = new URL('../../node_modules/tsx/dist/loader.mjs', import.meta.url).href;
const COMMANDS = {
  python: [python ?? '', here('testdata/worker.py')],
  ours: [process.execPath, '--import', tsx, here('testdata/worker.ts')],
};
export type Side = keyof typeof COMMANDS;

export type WorkerProcess = Awaited<ReturnType<typeof startWorker>>;

interface WorkerOptions {
  side: Side;
  env?: Record<string, string>;
  argv?: string[];
  /** for the handlers of testdata */
  options?: object;
  /** files of its working folder, by name */
  files?: Record<string, string>;
}

const alive = new Map<() => void, Promise<unknown>>(); // how to kill each worker, and its end
let isOver = false;

/** Kills all workers; none can be started any more. */
export async function endWorkers() {
  isOver = true;
  for (const kill of alive.keys()) kill();
  await Promise.all(alive.values());
}

/**
 * A worker in a folder and a process group of its own: what it has started dies with it, as in a container. It also dies with this
 * process, whose end of its input is then closed: Python's would go on asking, and without a pause.
 */
export async function startWorker({ side, env = {}, argv = [], options = {}, files = {} }: WorkerOptions) {
  const folder = await mkdtemp(join(tmpdir(), 'conformance-'));
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  if (isOver) throw new Error('the tests have ended');
  const [command, ...args] = COMMANDS[side] as [string, ...string[]];
  const child = spawn(command, [...args, ...argv], {
    cwd: folder,
    detached: true,
    stdio: 'pipe',
    env: {
      PATH: process.env.PATH,
      HOME: folder, // where the package would look for a key
      PYTHONUNBUFFERED: '1',
      RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: 'true', // one of them calls the internet
      RUNPOD_SKIP_GPU_CHECK: 'true',
      WORKER_OPTIONS: JSON.stringify(options),
      ...env,
    },
  });
  const started = performance.now();
  let output = '';
  const news = new EventEmitter().setMaxListeners(0);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      news.emit('news');
    });
  }
  function kill() {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // all of them have ended
    }
  }
  /** the exit code, or the signal that ended it */
  const closed = once(child, 'close');
  const exited = once(child, 'exit').then(async ([code, signal]) => {
    kill(); // what it has left behind
    await closed;
    alive.delete(kill);
    await rm(folder, { recursive: true, force: true });
    return (code ?? signal) as number | string;
  });
  alive.set(kill, exited);
  return {
    side,
    exited,
    kill,
    started,
    output: () => output,
    signal: (name: NodeJS.Signals) => child.kill(name),
    async said(text: string) {
      const patience = AbortSignal.timeout(PATIENCE);
      while (!output.includes(text)) {
        await once(news, 'news', { signal: patience }).catch(() => {
          throw new Error(`${side} never said ${text}; it said: ${output.slice(-2000)}`);
        });
      }
    },
  };
}
