/**
 * Everything on one machine: RunPod's queue and, without a key for a real one, a Midjourney bridge in this process; the API and one
 * worker as children, which are started again when they die. `npm start` runs this, or with RUNPOD_ENDPOINT_ID the API alone.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, openSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve as resolvePath } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { databaseUrl } from '../../api/config.ts';
import { isLoopback, localUrl } from '../../api/http/host.ts';
import { createFirstKey } from '../../api/keys/first-key.ts';
import { openStore } from '../../api/store/store.ts';
import { SECOND } from '../../core/time.ts';
import { tnlServer } from '../simulators/bridges/tnl.ts';
import { queueServer } from '../simulators/runpod-queue-server.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
/** Before a child that died is started again: the first pause, twice as long after each further death, and the longest. */
const PAUSES = { first: SECOND / 4, longest: 30 * SECOND };
/** Whoever lived so long did not die of its start. */
const LONG = 60 * SECOND;
/** For children to end by themselves: the API takes 12 at most, the worker lets its job run on for 30. */
const GRACE = { api: 13 * SECOND, worker: 3 * SECOND };
/** What children are started as: like this module, compiled on the fly or beforehand. */
const { extension, flags } = import.meta.url.endsWith('.ts')
  ? { extension: '.ts', flags: ['--import', 'tsx'] }
  : { extension: '.js', flags: [] };

export interface LocalOptions {
  env: NodeJS.ProcessEnv;
  /** write the children's logs to files in DATA_DIR instead of to this terminal */
  quiet?: boolean;
  /** see core/environment.ts */
  framesDir?: string | undefined;
  /** told an admin's API key, made where HOST is not loopback and there was none; without this the API tells it to its own stdout */
  onFirstKey?: (text: string) => void;
  /** when aborted, a start that is under way is given up */
  signal?: AbortSignal;
}

export interface LocalService {
  /** as this machine reaches it */
  url: string;
  /** as callers do */
  publicUrl: string;
  dataDir: string;
  /** of the children that run now */
  pids(): { api: number; worker: number };
  stop(): Promise<void>;
}

/** @throws Error in one line: a wrong variable, a port in use; or the signal's reason */
export async function startLocal(options: LocalOptions): Promise<LocalService> {
  const { env, quiet = false, framesDir, onFirstKey, signal } = options;
  const host = env.HOST || '127.0.0.1';
  const port = env.PORT ? Number(env.PORT) : await firstFreePort(5000, host);
  const dataDir = env.DATA_DIR || (port === 5000 ? 'data' : `data-${port}`);
  const key = randomBytes(16).toString('hex');
  if (onFirstKey && !isLoopback(host)) {
    const firstKey = await firstKeyIn({ ...env, DATA_DIR: dataDir });
    if (firstKey !== undefined) onFirstKey(firstKey);
  }
  const far = await farEnds(key);

  const isPlaceholder = !env.MIDJOURNEY_BRIDGE && isLoopback(host); // strangers get no pictures that only look like one
  const common = { ...env, DATA_DIR: dataDir, MODEL: env.MODEL || 'camera' };
  const queue = `${far.url}/v2/local`;
  const apiEnv = {
    ...common,
    HOST: host,
    PORT: String(port),
    RUNPOD_API_KEY: key,
    RUNPOD_ENDPOINT_ID: 'local',
    RUNPOD_BASE_URL: `${far.url}/v2`,
    CALLBACK_URL: localUrl(host, port), // what others reach it by may be a proxy that this machine does not
    ...(!env.MIDJOURNEY_BRIDGE && { LOCAL_BRIDGE: isPlaceholder ? 'placeholder' : 'none' }),
  };
  const workerEnv = {
    ...common,
    RUNPOD_AI_API_KEY: key,
    RUNPOD_WEBHOOK_GET_JOB: `${queue}/job-take/$ID?gpu=none`,
    RUNPOD_WEBHOOK_POST_OUTPUT: `${queue}/job-done/$RUNPOD_POD_ID/$ID?gpu=none`,
    RUNPOD_WEBHOOK_PING: `${queue}/ping/$RUNPOD_POD_ID`,
    ...(isPlaceholder && {
      MIDJOURNEY_BRIDGE: 'tnl',
      MIDJOURNEY_API_KEY: key,
      MIDJOURNEY_BASE_URL: `${far.url}/bridge/v2`,
    }),
    ...(framesDir && { FRAMES_DIR: framesDir }),
  };

  const api = supervise({ name: 'api', entry: 'api/index', env: () => apiEnv, dataDir, quiet });
  let workerId = '';
  const worker = supervise({
    name: 'worker',
    entry: 'handler/index',
    env() {
      if (workerId) far.workerLost(workerId); // a worker that is started again is another one
      workerId = `local-${randomBytes(4).toString('hex')}`;
      return { ...workerEnv, RUNPOD_POD_ID: workerId };
    },
    dataDir,
    quiet,
  });
  const stop = async () => {
    await Promise.all([api.stop(), worker.stop()]);
    far.close();
  };
  try {
    const working = Promise.all([api.ready, worker.ready]);
    const [{ url: publicUrl }] = await (signal ? Promise.race([working, aborted(signal)]) : working);
    const pids = () => ({ api: api.pid(), worker: worker.pid() });
    return { url: localUrl(host, port), publicUrl: publicUrl!, dataDir, pids, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function firstKeyIn(env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const store = await openStore(databaseUrl(env), { exclusive: false });
  try {
    return await createFirstKey(store, Date.now());
  } finally {
    await store.close();
  }
}

/** The queue and the bridge, on a free port that only this machine reaches. */
async function farEnds(key: string): Promise<{ url: string; workerLost(id: string): void; close(): void }> {
  const { app: queueApp, queue } = queueServer({ apiKey: key, log: (text) => console.error(`queue: ${text}`) });
  const { app: bridge } = tnlServer({ apiKey: key });
  const app = new Hono().route('/bridge/v2', bridge).route('/bridge', bridge).route('/v2', queueApp);
  return new Promise((resolve) => {
    const server = serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }, ({ port }) => {
      resolve({
        url: `http://127.0.0.1:${port}`,
        workerLost: (id) => queue.workerLost(id),
        close() {
          server.close();
          if ('closeAllConnections' in server) server.closeAllConnections();
        },
      });
    });
  });
}

interface ChildOptions {
  name: keyof typeof GRACE;
  /** without its extension */
  entry: string;
  env: () => NodeJS.ProcessEnv;
  dataDir: string;
  quiet: boolean;
}

/** Keeps a child running. `ready` rejects if it ends before it has said that it works; later deaths are mended, each after a longer pause. */
function supervise({ name, entry, env, dataDir, quiet }: ChildOptions) {
  let child: ChildProcess;
  let stopping = false;
  let wasReady = false;
  mkdirSync(dataDir, { recursive: true });
  const output = quiet ? openSync(join(dataDir, `${name}.log`), 'a') : 'inherit';

  const ready = new Promise<{ url?: string }>((resolve, reject) => {
    let pause = PAUSES.first;
    (function start() {
      const since = performance.now();
      let complaint = '';
      child = spawn(process.execPath, [...flags, entry + extension], {
        cwd: ROOT,
        env: { ...env(), DATA_DIR: resolvePath(dataDir) },
        stdio: ['ignore', output, 'pipe', 'ipc'],
      });
      child.stderr!.setEncoding('utf8').on('data', (text: string) => {
        complaint = (complaint + text).slice(-2000);
        if (wasReady || !quiet) process.stderr.write(text);
      });
      child.on('message', (word: { url?: string }) => {
        wasReady = true;
        resolve(word);
      });
      child.on('exit', async (code, signal) => {
        if (stopping) return;
        if (!wasReady) return reject(new Error(complaint.trim() || `${name}: ended with ${signal ?? code}`));
        if (performance.now() - since > LONG) pause = PAUSES.first;
        console.error(`${name}: ended with ${signal ?? code}; it is started again in ${pause / SECOND} s`);
        await delay(pause);
        pause = Math.min(PAUSES.longest, 2 * pause);
        if (!stopping) start();
      });
    })();
  });

  return {
    /** resolves when the child works, with its word, in which the API says where callers reach it */
    ready,
    pid: () => child.pid!,
    async stop() {
      stopping = true;
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), GRACE[name]);
      await gone;
      clearTimeout(late);
    },
  };
}

/** Rejects with the signal's reason as soon as it is aborted. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** The first port from `from` on that nobody listens at. */
async function firstFreePort(from: number, host: string): Promise<number> {
  for (let port = from; port < from + 100; port++) {
    const isFree = await new Promise<boolean>((resolve) => {
      const server = createServer()
        .once('error', () => resolve(false))
        .listen(port, host, () => server.close(() => resolve((server.address() as AddressInfo | null) === null)));
    });
    if (isFree) return port;
  }
  throw new Error(`no free port from ${from} to ${from + 99}: give one as PORT`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.env.RUNPOD_ENDPOINT_ID) {
    await import('../../api/index.ts');
  } else {
    const stopping = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stopping.abort()); // one Ctrl-C may come twice, by npm
    try {
      const service = await startLocal({ env: process.env, signal: stopping.signal });
      console.log(`listening at ${service.publicUrl}, everything on this machine (no RUNPOD_ENDPOINT_ID)`);
      await aborted(stopping.signal).catch(service.stop);
      process.exit(0);
    } catch (error) {
      if (stopping.signal.aborted) process.exit(0);
      console.error((error as Error).message);
      process.exit(1);
    }
  }
}
