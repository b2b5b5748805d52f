/** For the conformance tests: the queue simulator, which records requests and injects faults, and worker processes. */
import { spawn } from 'node:child_process';
import { EventEmitter, once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { getRequestListener, type HttpBindings } from '@hono/node-server';
import { Hono } from 'hono';
import { SECOND } from '../../core/time.ts';
import { isProgram } from '../../infra/run/programs.ts';
import { serveOnLoopback } from '../../infra/simulators/loopback.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { createRecorder, environment, KEY, type RecordedRequest, withPings, withStream } from './test-worker.ts';

const WAIT_TIMEOUT = 30 * SECOND; // generous, for busy machines

/** The answer to a request in place of the queue's: a status, JSON, or a broken connection. */
export type Fault = number | { json: unknown } | 'reset';

/**
 * The queue simulator over HTTP, with gates at which jobs wait.
 * @param pollTimeout of workers' polls; milliseconds
 * @param pingInterval milliseconds
 * @param workerTimeout after which a silent worker's jobs go back into the queue; milliseconds
 */
export async function startRecordingServer({
  pollTimeout = SECOND,
  workerTimeout = 60 * SECOND,
  pingInterval = SECOND,
} = {}) {
  const { app: queueApp, queue, close: closeQueue } = queueServer({ apiKey: KEY, pollTimeout, workerTimeout });
  const recorder = createRecorder();
  const { recorded, requests, changed } = recorder;
  const hooks: unknown[] = [];
  const gates = new Map<string, { isOpen: boolean; arrived: number; disconnected: number }>();
  const gate = (name: string) => {
    if (!gates.has(name)) gates.set(name, { isOpen: false, arrived: 0, disconnected: 0 });
    return gates.get(name)!;
  };

  const app = new Hono<{ Bindings: HttpBindings }>();
  app.get('/gate/:name', async (c) => {
    const here = gate(c.req.param('name'));
    here.arrived++;
    c.req.raw.signal.addEventListener('abort', () => {
      here.disconnected++;
      changed();
    });
    changed();
    await recorder.waitFor(() => here.isOpen || c.req.raw.signal.aborted);
    return c.text('open');
  });
  app.post('/hook', async (c) => {
    hooks.push(await c.req.json());
    changed();
    return c.text('ok');
  });
  app.use('/v2/ep/*', async (c, next) => {
    const fault = await server.fault(recorder.record(c.env.incoming, c.env.outgoing, await c.req.text()));
    if (fault === 'reset') {
      c.env.incoming.socket.destroy();
      return c.body(null);
    }
    if (typeof fault === 'object') return c.json(fault.json);
    if (typeof fault === 'number') return c.body(null, fault as 500);
    await next();
  });
  app.route('/v2', queueApp);
  const { url: base, server: listener, close: closeServer } = await serveOnLoopback(getRequestListener(app.fetch));
  listener.keepAliveTimeout = 60 * SECOND; // a worker that has blocked its thread posts over an old connection

  const server = {
    ...{ base, queue, recorded, requests, posted: recorder.posted, gate },
    /** what was posted to /hook */
    hooks,
    /** as RunPod sets it, and GATE for the handlers of testdata */
    env: {
      ...withStream(withPings(environment(base), pingInterval)),
      RUNPOD_POD_HOSTNAME: 'pod1-host',
      GATE: `${base}/gate`,
    },
    /** Returns the fault of each request; a promise delays it. */
    fault: (_: RecordedRequest): Fault | undefined | Promise<undefined> => undefined,
    /** @returns the job's id */
    submit: (input: unknown): string => queue.submit({ input }).id,
    status: (id: string) => queue.find(id)?.status,
    open(name: string) {
      gate(name).isOpen = true;
      changed();
    },
    /** Waits until `check` returns something truthy. @throws Error with `what`, if that takes too long */
    waitFor: <T>(what: string, check: () => T | undefined | false): Promise<T> =>
      recorder.waitFor(check, AbortSignal.timeout(WAIT_TIMEOUT)).catch((error) => {
        if (error.name !== 'AbortError') throw error;
        const last = recorded.slice(-20).map(({ path, status, end }) => `${path} ${status ?? ''} ${end ?? 'held'}`);
        throw new Error(`did not happen: ${what}; the last requests:\n${last.join('\n')}`);
      }),
    waitForGate: (name: string) => server.waitFor(`a job at gate ${name}`, () => gate(name).arrived > 0),
    waitForEnd: (...ids: string[]) =>
      server.waitFor(`the end of ${ids}`, () => ids.every((id) => queue.find(id)?.ended !== undefined)),
    async nextPings(count: number): Promise<RecordedRequest[]> {
      const before = requests('ping').length;
      await server.waitFor(`${count} pings`, () => requests('ping').length >= before + count);
      return requests('ping').slice(before);
    },
    async close() {
      closeQueue();
      await closeServer();
    },
  };
  return server;
}

/** The Python with RunPod's package, which `test/support/python.sh` installs; undefined without one. */
export const python: string | undefined = [process.env.RUNPOD_PYTHON].find((path) => path && isProgram(path));

/** A suffix for the titles of tests. */
export const skipped = python ? '' : ' (no RUNPOD_PYTHON: skipped)';
if (!python) console.warn('no RUNPOD_PYTHON: tests that need RunPod’s Python package are skipped');

const testdata = (path: string) => fileURLToPath(new URL(`testdata/${path}`, import.meta.url));
const tsx = new URL('../../node_modules/tsx/dist/loader.mjs', import.meta.url).href;
const COMMANDS = {
  python: [python ?? '', testdata('worker.py')],
  ours: [process.execPath, '--import', tsx, testdata('worker.ts')],
};
export type Side = keyof typeof COMMANDS;

export type WorkerProcess = Awaited<ReturnType<typeof startWorkerProcess>>;

interface WorkerOptions {
  side: Side;
  env?: Record<string, string>;
  argv?: string[];
  /** for the handlers of testdata */
  options?: object;
  /** files of its working directory, by name */
  files?: Record<string, string>;
}

const alive = new Map<() => void, Promise<unknown>>(); // how to kill each worker, and its end
let isOver = false;

/** Kills all workers; no more can be started. */
export async function killWorkers() {
  isOver = true;
  for (const kill of alive.keys()) kill();
  await Promise.all(alive.values());
}

/**
 * Starts a worker in its own directory and process group, so that its child processes end with it. It also ends with this process,
 * which closes its standard input: Python's worker would go on without pauses.
 */
export async function startWorkerProcess({ side, env = {}, argv = [], options = {}, files = {} }: WorkerOptions) {
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
      HOME: folder, // where the package looks for a key
      PYTHONUNBUFFERED: '1',
      RUNPOD_SKIP_AUTO_SYSTEM_CHECKS: 'true', // one of them needs the internet
      RUNPOD_SKIP_GPU_CHECK: 'true',
      WORKER_OPTIONS: JSON.stringify(options),
      ...env,
    },
  });
  let output = '';
  const events = new EventEmitter().setMaxListeners(0);
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      events.emit('output');
    });
  }
  function kill() {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // all its processes have ended
    }
  }
  const closed = once(child, 'close');
  /** the exit code, or the signal that ended it */
  const exited = once(child, 'exit').then(async ([code, signal]) => {
    kill(); // its child processes
    await closed;
    alive.delete(kill);
    await rm(folder, { recursive: true, force: true });
    return (code ?? signal) as number | string;
  });
  alive.set(kill, exited);
  return {
    exited,
    kill,
    output: () => output,
    signal: (name: NodeJS.Signals) => child.kill(name),
    async printed(text: string) {
      const timeout = AbortSignal.timeout(WAIT_TIMEOUT);
      while (!output.includes(text)) {
        await once(events, 'output', { signal: timeout }).catch(() => {
          throw new Error(`${side} did not print ${text}, but ${output.slice(-2000)}`);
        });
      }
    },
  };
}
