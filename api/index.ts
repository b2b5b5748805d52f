/** Starts the API: reads the environment once, opens the store, listens, and stops in order at SIGTERM. */
import { setTimeout as delay } from 'node:timers/promises';
import { openBucket } from '../core/bucket/open-bucket.ts';
import { createLog } from '../core/log.ts';
import { SECOND } from '../core/time.ts';
import { createApp } from './app.ts';
import { readConfig } from './config.ts';
import { isLoopback } from './http/host.ts';
import { listen } from './http/listen.ts';
import { createFirstKey, writeWebhookSecret } from './keys/first-key.ts';
import { createMetrics, instrument } from './metrics.ts';
import { openRunPod } from './runpod.ts';
import { openStore } from './store/store.ts';
import { createEstimator } from './tasks/estimate.ts';
import { createLifecycle } from './tasks/lifecycle.ts';
import { presentTask } from './tasks/present.ts';
import { createWebhooks } from './webhooks/sender.ts';

/** What hangs at a stop is cut off after this. */
const RETRY_BUDGET = 10 * SECOND;

try {
  const log = createLog(process.env);
  const config = readConfig(process.env);
  const metrics = createMetrics(log);
  const store = instrument(await openStore(config.databaseUrl), metrics.observeStoreCall);
  if (isLoopback(config.host)) await writeWebhookSecret(config.dataDir, store);
  else tellFirstKey(await createFirstKey(store, Date.now()));
  const { bucket, disk } = await openBucket(config.bucket, {
    publicUrl: config.publicUrl,
    retryBudget: 8000, // milliseconds: callers wait
  });
  const linkOrigin = new URL(await bucket.link('probe', Math.floor(Date.now() / 1000) + 60)).origin;
  const webhooks = createWebhooks({
    store,
    bucket,
    linkSeconds: config.linkSeconds,
    allowPrivate: config.allowPrivateUrls,
    onAttempt: metrics.observeWebhookAttempt,
    log,
  });
  const runpod = instrument(openRunPod(config.runpod), metrics.observeRunPodCall);
  const queueIsHere = config.runpod.baseUrl !== undefined && isLoopback(new URL(config.runpod.baseUrl).hostname);
  const lifecycle = createLifecycle({
    store,
    bucket,
    runpod,
    callbackUrl: (token) => `${config.callbackUrl}/runpod/callback/${token}`,
    taskDeadline: config.taskDeadline,
    stillTimeout: config.stillTimeout,
    retain: config.retain,
    ...(queueIsHere && { runningTime: config.taskDeadline }), // a worker on this machine may have no GPU
    watchInterval: queueIsHere ? 150 : 1000, // RunPod limits looks; a stand-in on this machine does not
    onDeliveryAdded: webhooks.wake,
    onTaskEnded: metrics.observeTaskEnd,
    log,
  });
  const stopping = new AbortController();
  const app = createApp({
    config,
    store,
    bucket,
    disk,
    linkOrigin,
    lifecycle,
    webhooks,
    presentTask: (task) => presentTask(task, { bucket, linkSeconds: config.linkSeconds, now: Date.now }),
    estimate: createEstimator({ store, log, model: config.model, prices: config.prices, now: Date.now }),
    runpod,
    log,
    metrics,
    stopping: stopping.signal,
    now: Date.now,
  });
  const listener = await listen(app, { hostname: config.host, port: config.port });
  log.info({ url: config.publicUrl }, 'listening');
  process.send?.({ event: 'listening', url: config.publicUrl });
  await lifecycle.start();
  webhooks.wake();

  /** What is not done in time is safe in the store: the next process, or another, goes on with it. */
  const stop = async () => {
    log.info('stopping');
    stopping.abort();
    const done = Promise.allSettled([listener.close(RETRY_BUDGET), lifecycle.stop(), webhooks.stop()]);
    await Promise.race([done, delay(RETRY_BUDGET)]);
    await Promise.race([store.close(), delay(2 * SECOND).then(() => Promise.reject(new Error('it does not end')))]);
  };
  let since: number | undefined; // when it was first told to stop
  const told = () => {
    if (since === undefined) {
      since = performance.now();
      stop().then(
        () => process.exit(0),
        (error) => {
          log.error({ error }, 'the store could not be closed');
          process.exit(1);
        },
      );
    } else if (performance.now() - since > SECOND) process.exit(1);
    // else it is the same Ctrl-C: the terminal, npm and a supervisor each pass it on
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, told);
  if (process.channel) process.once('disconnect', () => since ?? told()); // started by a local supervisor that is gone
} catch (error) {
  console.error(`api: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}

/** Past the log, which may be kept and sent elsewhere. */
function tellFirstKey(text: string | undefined): void {
  if (text === undefined) return;
  process.stdout.write(
    `\nThere was no API key, so here is one, with all scopes. It is shown this once:\n\n  ${text}\n\n`,
  );
}
