/** The API for tests: over HTTP on loopback, wired as in production, with a simulated RunPod queue. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Hono } from 'hono';
import { pino } from 'pino';
import { createApp } from '../../api/app.ts';
import { readConfig } from '../../api/config.ts';
import { type ListenOptions, listen as listenAt } from '../../api/http/listen.ts';
import { generateKey } from '../../api/keys/key-value.ts';
import { createServices, type ServiceOptions } from '../../api/services.ts';
import { LOCAL } from '../../api/store/key.ts';
import type { Store } from '../../api/store/store.ts';
import type { Bucket } from '../../core/bucket/bucket.ts';
import { taskFolder } from '../../core/job.ts';
import { createSerializers } from '../../core/log.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { realClock } from '../../infra/simulators/clock.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { newKey } from './test-store.ts';

export const WEBHOOK_SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
/** One pixel. */
const SMALLEST_WEBP = Buffer.from('UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA', 'base64');
export const RUNPOD_KEY = 'rpa_test-key';

/** @returns a new API key with these properties, and the headers of its requests */
export async function makeKey(store: Store, changes: Partial<Parameters<Store['addKey']>[0]> = {}) {
  const { id, value, hash } = generateKey();
  await store.addKey(newKey({ name: 'somebody', ...changes, id, hash }));
  return { id, value, headers: { authorization: `Bearer ${value}` } };
}

/** Listens on a free port of 127.0.0.1. */
export async function listen(app: Pick<Hono, 'fetch'>, limits: ListenOptions['limits'] = {}) {
  const { port, close } = await listenAt(app, { hostname: '127.0.0.1', port: 0, limits });
  return { url: `http://127.0.0.1:${port}`, port, close: (gracePeriod = 0) => close(gracePeriod) };
}

export type TestService = Awaited<ReturnType<typeof testService>>;

interface Faults {
  runpod?: (request: Request) => Response | undefined | Promise<Response | undefined>;
  bucket?: Error;
}

/**
 * Starts the service as `api/index.ts` does, with an own folder, a simulated RunPod queue, a clock that can be set ahead and a bucket that
 * can be made to fail.
 * @param env overrides variables of the environment
 */
export async function testService(
  env: Record<string, string> = {},
  limits: ListenOptions['limits'] = {},
  options: Pick<ServiceOptions, 'isQueueLocal'> = {},
) {
  const folder = await mkdtemp(join(tmpdir(), 'api-test-'));
  const clock = { ahead: 0 }; // milliseconds that the service's clock is ahead
  const faults: Faults = {};
  const { app: runpodApp, queue } = queueServer({
    apiKey: RUNPOD_KEY,
    pollTimeout: 100,
    callbackRetryDelay: 10,
    workerTimeout: Infinity,
    clock: realClock(() => Date.now() + clock.ahead),
  });
  const runpod = await listen({
    fetch: async (request) => (await faults.runpod?.(request)) ?? runpodApp.fetch(request),
  });
  // The configuration needs the port, so the app is created after listening.
  let app: Pick<Hono, 'fetch'> | undefined;
  const { url, port, close } = await listen({ fetch: (request, ...rest) => app!.fetch(request, ...rest) }, limits);
  const config = readConfig({
    MODEL: 'camera',
    PORT: String(port),
    CALLBACK_URL: url,
    RUNPOD_API_KEY: RUNPOD_KEY,
    RUNPOD_ENDPOINT_ID: 'ep',
    RUNPOD_BASE_URL: runpod.url,
    DATA_DIR: folder,
    ...env,
  });
  const logged: Record<string, unknown>[] = []; // every line of the log
  const serializers = createSerializers({ RUNPOD_API_KEY: RUNPOD_KEY });
  const log = pino({ level: 'debug', base: null, serializers }, { write: (line) => logged.push(JSON.parse(line)) });
  const services = await createServices({
    ...options,
    config,
    log,
    clockSkew: () => clock.ahead,
    wrapBucket: (bucket) =>
      new Proxy(bucket, {
        get: (target, name: keyof Bucket) =>
          faults.bucket && name !== 'link' ? () => Promise.reject(faults.bucket) : target[name],
      }),
  });
  await services.store.updateKey(LOCAL, { webhook_secret: WEBHOOK_SECRET });
  app = createApp(services);
  await services.start();

  return {
    ...services,
    ...createTestClient(url),
    ...createTestWorker(queue, services.bucket),
    ...{ url, port, folder, logged, clock, queue, faults },
    disk: services.disk!,
    key: (changes: Parameters<typeof makeKey>[1] = {}) => makeKey(services.store, changes),
    async close() {
      await services.stop(() => close());
      await runpod.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

function createTestClient(url: string) {
  const status = async (id: string) => (await (await fetch(`${url}/status?id=${id}`)).json()) as PresentedTask;
  return {
    status,

    /** Polls the task until the condition holds. */
    async until(id: string, condition: (task: PresentedTask) => unknown): Promise<PresentedTask> {
      for (;;) {
        const task = await status(id);
        if (condition(task)) return task;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },

    post: (body: object, init: RequestInit = {}) =>
      fetch(`${url}/img2vid`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        ...init,
      }),
  };
}

function createTestWorker(queue: ReturnType<typeof queueServer>['queue'], bucket: Bucket) {
  const taken = new Map<string, { id: string; input: Record<string, unknown> }>(); // by task
  return {
    /** Takes the job of a task, as a worker does, as soon as the API has submitted it. */
    async take(taskId: string): Promise<{ id: string; input: Record<string, unknown> }> {
      for (;;) {
        for (const job of queue.take('worker-1', 1000)) {
          const input = job.input as Record<string, unknown>;
          taken.set(String(input.task_id), { id: job.id, input });
        }
        const job = taken.get(taskId);
        if (job) {
          taken.delete(taskId);
          return job;
        }
        await queue.waitForChange(1000);
      }
    },

    /** Reports on a job, as a worker does. */
    report(jobId: string, message: { status?: string; output?: unknown; error?: string }) {
      queue.report(queue.find(jobId)!, 'worker-1', message);
    },

    /** Puts the files of a finished job into the bucket. @returns the job's output */
    async finish(taskId: string, jobId: string) {
      const key = `${taskFolder(taskId)}/${jobId}/video-1.mp4`;
      const still = `${taskFolder(taskId)}/still.png`;
      await bucket.put(key, 'not really a video');
      await bucket.put(still, 'not really a picture');
      const [poster, preview] = ['jpg', 'webp'].map((type) => key.replace('mp4', type));
      const still_preview = still.replace('png', 'jpg');
      for (const picture of [poster!, still_preview]) await bucket.put(picture, 'not really a picture');
      await bucket.put(preview!, SMALLEST_WEBP);
      const size = { width: 512, height: 288, frames: 14, fps: 6, seconds: 14 / 6 };
      const video = { key, poster, preview, seed: 1, ...size, bytes: 18, sha256: 'x' };
      const output = {
        videos: [video],
        still,
        still_preview,
        seed: 1,
        model: 'camera',
        warnings: [],
        timings_ms: { sampling: 5 },
      };
      await bucket.create(`${taskFolder(taskId)}/result.json`, JSON.stringify({ output }));
      return output;
    },
  };
}
