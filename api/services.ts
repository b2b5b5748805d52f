/** The composition root: opens every dependency and puts them together, for the API and for its tests. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Bucket } from '../core/bucket/bucket.ts';
import { openBucket } from '../core/bucket/open-bucket.ts';
import type { PresentedTask } from '../core/responses.ts';
import { SECOND } from '../core/time.ts';
import type { Config } from './config.ts';
import type { Dependencies } from './dependencies.ts';
import { createBodyBudget } from './http/body-budget.ts';
import { isLoopback } from './http/host.ts';
import { createMetrics, instrument } from './metrics.ts';
import { createPruner } from './pruner.ts';
import { createRescheduler } from './rescheduler.ts';
import { openRunPod } from './runpod.ts';
import { openStore } from './store/store.ts';
import type { PublicTask } from './store/task.ts';
import { createEstimator } from './tasks/estimate.ts';
import { createTaskIds } from './tasks/id.ts';
import { createLifecycle } from './tasks/lifecycle.ts';
import { presentTask } from './tasks/present.ts';
import { createQueue } from './tasks/queue.ts';
import { createUploadSweeper } from './tasks/upload-sweeper.ts';
import { createTurns } from './turns.ts';
import { createWebhooks } from './webhooks/sender.ts';

/** How long requests and background work may take to end when the process stops. */
const GRACE_PERIOD = 10 * SECOND;

export interface ServiceOptions {
  config: Config;
  log: Logger;
  /** for tests: milliseconds that the service's clock is ahead of the machine's */
  clockSkew?: () => number;
  /** for tests: whether RunPod is a simulator on this machine; by default its URL says so */
  isQueueLocal?: boolean;
  /** for tests: replaces the bucket with one that may fail */
  wrapBucket?: (bucket: Bucket) => Bucket;
}

export type Services = Awaited<ReturnType<typeof createServices>>;

/**
 * Opens the store, the bucket and RunPod's endpoint. Nothing runs in the background before `start`.
 * @throws Error in one line: the store can't be opened, or the bucket's variables are wrong
 */
export async function createServices({
  config,
  log,
  clockSkew = () => 0,
  isQueueLocal = config.runpod.baseUrl !== undefined && isLoopback(new URL(config.runpod.baseUrl).hostname),
  wrapBucket = (bucket) => bucket,
}: ServiceOptions) {
  const now = () => Date.now() + clockSkew();
  const uptime = () => Math.floor(performance.now()) + clockSkew();
  const metrics = createMetrics(log);
  const store = instrument(await openStore(config.databaseUrl, { clockSkew, log }), metrics.observeStoreCall);
  const { publicUrl } = config;
  const opened = await openBucket(config.bucket, { publicUrl, retryBudget: 8 * SECOND, now }); // clients wait
  const bucket = wrapBucket(opened.bucket);
  const probe = await bucket.link('probe', Math.floor(now() / 1000) + 60);
  const runpod = instrument(openRunPod(config.runpod), metrics.observeRunPodCall);
  const dependencies: Dependencies = { config, store, bucket, runpod, isQueueLocal, log, now, uptime };
  const webhooks = createWebhooks(dependencies, metrics.observeWebhookAttempt);
  const lifecycle = createLifecycle({
    ...dependencies,
    onDeliveryAdded: webhooks.wake,
    onProgress: webhooks.sendProgress,
    onTaskEnded: metrics.observeTaskEnd,
  });
  const pollers = [createPruner(dependencies), createUploadSweeper(dependencies), createRescheduler(dependencies)];
  const stopping = new AbortController();
  const estimate = createEstimator(dependencies);
  const placeOf = createQueue(dependencies, estimate);

  return {
    ...dependencies,
    /** the bucket, if it is a folder whose files the API itself serves */
    disk: opened.disk,
    /** origin of signed links, such as https://bucket.example.com */
    linkOrigin: new URL(probe).origin,
    lifecycle,
    webhooks,
    estimate,
    /** ids of new tasks, ascending */
    nextTaskId: createTaskIds(now),
    /** counts the bodies of all requests together */
    reserveBody: createBodyBudget(),
    /** a task as clients see it, with freshly signed links */
    async presentTask(task: PublicTask): Promise<PresentedTask> {
      const presented = await presentTask(task, dependencies);
      return task.status === 'queued' ? { ...presented, ...(await placeOf(task.id)) } : presented;
    },
    metrics,
    /** runs a page of a list when it is its owner's turn */
    takeTurn: createTurns(),
    /** aborted when the process stops: waiting requests end, and the service is not ready */
    stopping: stopping.signal,
    announceStop: () => stopping.abort(),

    /** Starts the background work. */
    async start(): Promise<void> {
      await lifecycle.start();
      webhooks.wake();
      for (const poller of pollers) poller.wake();
    },

    /**
     * Ends requests and background work, and closes the store. Work that exceeds the grace period is safe in the store, where another
     * process continues it.
     * @param closeListener ends when there are no more requests, or after these milliseconds
     * @throws Error the store could not be closed
     */
    async stop(closeListener: (gracePeriod: number) => Promise<void>): Promise<void> {
      stopping.abort();
      const parts = [lifecycle, webhooks, ...pollers];
      const ended = Promise.allSettled([closeListener(GRACE_PERIOD), ...parts.map((part) => part.stop())]);
      await Promise.race([ended, delay(GRACE_PERIOD, undefined, { ref: false })]);
      const timeout = delay(2 * SECOND, undefined, { ref: false }).then(() => {
        throw new Error('closing the store timed out');
      });
      await Promise.race([store.close(), timeout]);
    },
  };
}
