/**
 * `npm start`: the whole service on one machine. The API and one worker run as children, which are restarted when they die. RunPod's
 * queue is simulated in this process, and so is a bridge unless a real one is configured. With RUNPOD_ENDPOINT_ID it is only
 * the API.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import { Hono } from 'hono';
import { databaseUrl } from '../../api/config.ts';
import { isLoopback, localUrl } from '../../api/http/host.ts';
import { createFirstKey } from '../../api/keys/first-key.ts';
import { isFolderInUse } from '../../api/store/libsql.ts';
import { openStore } from '../../api/store/store.ts';
import { ignoreOutputErrors } from '../../core/standard-output.ts';
import { SECOND } from '../../core/time.ts';
import { hasBridge } from '../../handler/still/bridges/open-bridges.ts';
import { tnlServer } from '../simulators/bridges/tnl.ts';
import { serveOnLoopback } from '../simulators/loopback.ts';
import { queueServer, workerEnv } from '../simulators/runpod-queue-server.ts';
import { isMain } from '../tools/command.ts';
import { firstFreePort } from './free-port.ts';
import { supervise } from './supervisor.ts';

/** The API needs at most 12 s to stop. The worker would give its job 30 s, but here the operator waits. */
const GRACE_PERIODS = { api: 13 * SECOND, worker: 3 * SECOND };

export interface LocalOptions {
  env: NodeJS.ProcessEnv;
  /** Writes the children's logs to files in DATA_DIR instead of to this terminal. */
  quiet?: boolean;
  /** The worker saves every decoded frame here (FRAMES_DIR). */
  framesDir?: string | undefined;
  /** Gets the first API key, which is created where HOST is not loopback. Without it the API prints the key to its stdout. */
  onFirstKey?: (key: string) => void;
  /** Aborts a start. */
  signal?: AbortSignal;
}

export type LocalService = Awaited<ReturnType<typeof startLocal>>;

/**
 * @returns `url` for this machine, `publicUrl` for callers, `device` of the networks, and `pids` of the current children
 * @throws Error in one line: a wrong variable, a port in use; or the signal's reason
 */
export async function startLocal({ env, quiet, framesDir, onFirstKey, signal }: LocalOptions) {
  const host = env.HOST || '127.0.0.1';
  if (env.PORT && !(Number(env.PORT) >= 1 && Number(env.PORT) <= 65535))
    throw new Error('PORT must be a whole number from 1 to 65535');
  const port = env.PORT ? Number(env.PORT) : await firstFreePort(5000, host);
  const url = localUrl(host, port);
  const dataDir = env.DATA_DIR || ((await isFolderInUse('data')) ? `data-${port}` : 'data');
  if (!env.DATA_DIR && dataDir !== 'data')
    console.log(`another process uses the folder data; this one uses ${dataDir}`);
  mkdirSync(dataDir, { recursive: true });
  const common = { ...env, DATA_DIR: resolve(dataDir), MODEL: env.MODEL || 'camera', HOST: host, PORT: String(port) };
  const firstKey = onFirstKey && !isLoopback(host) && (await openFirstKey(common));
  if (firstKey) onFirstKey(firstKey);

  const apiKey = randomBytes(16).toString('hex');
  const simulators = await startSimulators(apiKey);
  // Only this machine's own user gets placeholder pictures instead of a provider's.
  const isPlaceholder = !hasBridge(env) && isLoopback(host);
  let workerId = '';
  const child = (name: 'api' | 'worker', entry: string, environment: () => NodeJS.ProcessEnv) =>
    supervise({
      name,
      entry,
      env: () => ({ ...common, ...environment() }),
      logFile: quiet ? join(dataDir, `${name}.log`) : undefined,
      gracePeriod: GRACE_PERIODS[name],
    });
  const api = child('api', 'api/index', () => ({
    RUNPOD_API_KEY: apiKey,
    RUNPOD_ENDPOINT_ID: 'local',
    RUNPOD_BASE_URL: `${simulators.url}/v2`,
    CALLBACK_URL: url, // PUBLIC_URL may be a proxy that this machine does not reach
    ...(!hasBridge(env) && { LOCAL_BRIDGE: isPlaceholder ? 'placeholder' : 'none' }),
  }));
  const worker = child('worker', 'handler/index', () => {
    if (workerId) simulators.workerLost(workerId); // to the queue, a restarted worker is another one
    workerId = `local-${randomBytes(4).toString('hex')}`;
    return {
      ...workerEnv(`${simulators.url}/v2/local`, apiKey, workerId),
      ...(isPlaceholder && {
        ...{ STILL_BRIDGE: 'tnl', STILL_API_KEY: apiKey, STILL_BASE_URL: `${simulators.url}/bridge/v2` },
        ...{ MIDJOURNEY_API_KEY: '', MIDJOURNEY_BASE_URL: '' }, // without a bridge they mean nothing
      }),
      ...(framesDir && { FRAMES_DIR: framesDir }),
    };
  });
  const stop = async () => {
    await Promise.all([api.stop(), worker.stop()]);
    await simulators.close();
  };
  try {
    const ready = Promise.all([api.ready, worker.ready]);
    const [{ url: publicUrl = url }, { device }] = await (signal
      ? Promise.race([ready, rejectOnAbort(signal)])
      : ready);
    return { url, publicUrl, dataDir, device, pids: () => ({ api: api.pid(), worker: worker.pid() }), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** @returns the key, if there was none before */
async function openFirstKey(env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const store = await openStore(databaseUrl(env), { exclusive: false });
  try {
    return await createFirstKey(store, Date.now());
  } finally {
    await store.close();
  }
}

/** RunPod's queue and a bridge, on a free port that only this machine reaches. */
async function startSimulators(apiKey: string) {
  const { app: queueApp, queue } = queueServer({ apiKey, log: (text) => console.error(`queue: ${text}`) });
  const { app: bridge } = tnlServer({ apiKey });
  const app = new Hono().route('/bridge/v2', bridge).route('/bridge', bridge).route('/v2', queueApp);
  const { url, close } = await serveOnLoopback(getRequestListener(app.fetch));
  return { url, close, workerLost: (id: string) => queue.workerLost(id) };
}

async function rejectOnAbort(signal: AbortSignal): Promise<never> {
  if (!signal.aborted) await once(signal, 'abort');
  throw signal.reason;
}

async function main(): Promise<void> {
  ignoreOutputErrors();
  const stopping = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => stopping.abort()); // a Ctrl-C arrives twice by npm
  try {
    const { isTTY } = process.stdout;
    // Only warnings are logged on a terminal, so that the address stays in view.
    const env = isTTY ? { ...process.env, RUNPOD_LOG_LEVEL: process.env.RUNPOD_LOG_LEVEL || 'WARN' } : process.env;
    const service = await startLocal({ env, signal: stopping.signal });
    const { publicUrl, device } = service;
    if (device) console.log(`The model’s networks run on the device ${device}.`);
    if (isTTY) console.log(`Open ${publicUrl} in a browser. Ctrl-C ends the service.`);
    else console.log(`listening at ${publicUrl}, everything on this machine (no RUNPOD_ENDPOINT_ID)`);
    await rejectOnAbort(stopping.signal).catch(service.stop);
    process.exit(0);
  } catch (error) {
    if (!stopping.signal.aborted) console.error((error as Error).message);
    process.exit(stopping.signal.aborted ? 0 : 1);
  }
}

if (isMain(import.meta.url)) await (process.env.RUNPOD_ENDPOINT_ID ? import('../../api/index.ts') : main());
