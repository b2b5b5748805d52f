/** For tests: the API over HTTP on loopback, with a real store and bucket in a folder of its own, and RunPod's queue beside it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Hono } from 'hono';
import { pino } from 'pino';
import { createApp } from '../../api/app.ts';
import { readConfig } from '../../api/config.ts';
import { type ListenOptions, listen as listenAt } from '../../api/http/listen.ts';
import { generateKey } from '../../api/keys/key-value.ts';
import { createMetrics, instrument } from '../../api/metrics.ts';
import { openRunPod } from '../../api/runpod.ts';
import { LOCAL } from '../../api/store/key.ts';
import { openStore, type Store } from '../../api/store/store.ts';
import { createEstimator } from '../../api/tasks/estimate.ts';
import { createLifecycle } from '../../api/tasks/lifecycle.ts';
import { presentTask } from '../../api/tasks/present.ts';
import { createWebhooks } from '../../api/webhooks/sender.ts';
import type { Bucket } from '../../core/bucket/bucket.ts';
import { diskBucket } from '../../core/bucket/disk.ts';
import { bucketFolder } from '../../core/environment.ts';
import { taskFolder } from '../../core/job.ts';
import { serializers } from '../../core/log.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { newKey } from './test-store.ts';

export const WEBHOOK_SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
export const RUNPOD_KEY = 'rpa_test-key';

/** Makes an API key with these properties. @returns its id, and the headers that go with its requests */
export async function makeKey(store: Store, changes: Partial<Parameters<Store['addKey']>[0]> = {}) {
  const { id, value, hash } = generateKey();
  await store.addKey(newKey({ name: 'somebody', ...changes, id, hash }));
  return { id, value, headers: { authorization: `Bearer ${value}` } };
}

/** Listens on a free port of 127.0.0.1. */
export async function listen(app: Pick<Hono, 'fetch'>, limits: ListenOptions['limits'] = {}) {
  const { port, close } = await listenAt(app, { hostname: '127.0.0.1', port: 0, limits });
  return { url: `http://127.0.0.1:${port}`, port, close: (patience = 0) => close(patience) };
}

export type TestService = Awaited<ReturnType<typeof testService>>;

export async function testService(env: Record<string, string> = {}, limits: ListenOptions['limits'] = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'api-test-'));
  const clock = { ahead: 0 }; // milliseconds that the service's clock runs ahead
  const now = () => Date.now() + clock.ahead;
  const queue = queueServer({
    apiKey: RUNPOD_KEY,
    pollTimeout: 100,
    callbackRetryDelay: 10,
    workerTimeout: Infinity,
    now,
  });
  const runpod = await listen({
    fetch: async (request) => (await faults.runpod?.(request)) ?? queue.app.fetch(request),
  });
  const faults: {
    runpod?: (request: Request) => Response | undefined | Promise<Response | undefined>;
    bucket?: Error;
  } = {};
  const config = readConfig({
    MODEL: 'camera',
    RUNPOD_API_KEY: RUNPOD_KEY,
    RUNPOD_ENDPOINT_ID: 'ep',
    RUNPOD_BASE_URL: runpod.url,
    DATA_DIR: folder,
    ...env,
  });

  const taken = new Map<string, { id: string; input: Record<string, unknown> }>(); // by task

  // The address is known only once it listens, so the app comes a moment later.
  let app: Pick<Hono, 'fetch'> | undefined;
  const api = await listen({ fetch: (request, ...rest) => app!.fetch(request, ...rest) }, limits);
  const disk = await diskBucket(bucketFolder(folder), { publicUrl: api.url, now });
  /** Fails where it would have to be reached: links are made without. */
  const bucket: Bucket = new Proxy(disk, {
    get: (target, name: keyof Bucket) =>
      faults.bucket && name !== 'link' ? () => Promise.reject(faults.bucket) : target[name],
  });
  const logged: Record<string, unknown>[] = []; // every line of the log
  const log = pino({ level: 'debug', base: null, serializers }, { write: (line) => logged.push(JSON.parse(line)) });
  const metrics = createMetrics(log);
  const store = instrument(
    await openStore(config.databaseUrl, { clockSkew: () => clock.ahead }),
    metrics.observeStoreCall,
  );
  await store.updateKey(LOCAL, { webhook_secret: WEBHOOK_SECRET });
  const webhooks = createWebhooks({
    store,
    bucket,
    linkSeconds: config.linkSeconds,
    allowPrivate: config.allowPrivateUrls,
    onAttempt: metrics.observeWebhookAttempt,
    log,
    now,
  });
  const client = instrument(openRunPod({ ...config.runpod, baseUrl: runpod.url }), metrics.observeRunPodCall);
  const lifecycle = createLifecycle({
    store,
    bucket,
    runpod: client,
    callbackUrl: (token) => `${api.url}/runpod/callback/${token}`,
    taskDeadline: config.taskDeadline,
    stillTimeout: config.stillTimeout,
    retain: config.retain,
    watchInterval: 10,
    onDeliveryAdded: webhooks.wake,
    onTaskEnded: metrics.observeTaskEnd,
    log,
    now,
  });
  const stopping = new AbortController();
  app = createApp({
    config,
    store,
    bucket,
    disk,
    linkOrigin: api.url,
    lifecycle,
    webhooks,
    presentTask: (task) => presentTask(task, { bucket, linkSeconds: config.linkSeconds, now }),
    estimate: createEstimator({ store, log, model: config.model, prices: config.prices, now }),
    runpod: client,
    log,
    metrics,
    stopping: stopping.signal,
    now,
  });
  await lifecycle.start();

  async function status(id: string): Promise<PresentedTask> {
    return (await (await fetch(`${api.url}/status?id=${id}`)).json()) as PresentedTask;
  }

  /** The task as soon as it is as wanted. */
  async function until(id: string, isWanted: (task: PresentedTask) => unknown): Promise<PresentedTask> {
    for (;;) {
      const task = await status(id);
      if (isWanted(task)) return task;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  const key = (changes: Parameters<typeof makeKey>[1] = {}) => makeKey(store, changes);

  return {
    url: api.url,
    key,
    port: api.port,
    folder,
    logged,
    stopping,
    /** see listen.ts */
    stopListening: api.close,
    clock,
    bucket,
    disk,
    store,
    lifecycle,
    webhooks,
    queue: queue.queue,
    faults,
    status,
    until,

    post: (body: object, init: RequestInit = {}) =>
      fetch(`${api.url}/img2vid`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        ...init,
      }),

    /** A worker's take: the job that the API submitted for the task, as soon as it has. */
    async take(taskId: string): Promise<{ id: string; input: Record<string, unknown> }> {
      for (;;) {
        for (const job of queue.queue.take('worker-1', 1000)) {
          const input = job.input as Record<string, unknown>;
          taken.set(String(input.task_id), { id: job.id, input });
        }
        const job = taken.get(taskId);
        if (job) {
          taken.delete(taskId);
          return job;
        }
        await queue.queue.waitForChange(1000);
      }
    },

    /** A worker's word on a job. */
    report(jobId: string, message: { status?: string; output?: unknown; error?: string }) {
      queue.queue.report(queue.queue.find(jobId)!, 'worker-1', message);
    },

    /** Puts what a finished job leaves into the bucket, and returns its output. */
    async finish(taskId: string, jobId: string) {
      const key = `${taskFolder(taskId)}/${jobId}/video-1.mp4`;
      const still = `${taskFolder(taskId)}/still.png`;
      await bucket.put(key, 'not really a video');
      await bucket.put(still, 'not really a picture');
      const video = {
        key,
        seed: 1,
        width: 512,
        height: 288,
        frames: 14,
        fps: 6,
        seconds: 14 / 6,
        bytes: 18,
        sha256: 'x',
      };
      const output = { videos: [video], still, seed: 1, model: 'camera', warnings: [], timings_ms: { sampling: 5 } };
      await bucket.create(`${taskFolder(taskId)}/result.json`, JSON.stringify({ output }));
      return output;
    },

    async close() {
      await lifecycle.stop();
      await webhooks.stop();
      await api.close();
      await runpod.close();
      await store.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
