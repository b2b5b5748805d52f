/** Starts the API: reads the environment once, opens the store, listens, and stops in order at SIGTERM. */
import { serve } from '@hono/node-server';
import { openBucket } from '../handler/bucket/open.ts';
import { createLog } from '../handler/log.ts';
import { createApp } from './app.ts';
import { isLoopback, readConfig } from './config.ts';
import { openRunPod } from './runpod.ts';
import { openStore } from './store/store.ts';
import { createLifecycle } from './tasks/lifecycle.ts';
import { createWebhooks, webhookSecret } from './webhooks/webhooks.ts';

try {
  const log = createLog(process.env);
  const config = readConfig(process.env);
  const store = await openStore(config.databaseUrl);
  const { bucket, disk } = await openBucket(config.bucket, {
    publicUrl: config.publicUrl,
    patience: 8000, // milliseconds: callers wait
  });
  const linkOrigin = new URL(await bucket.link('probe', Math.floor(Date.now() / 1000) + 60)).origin;
  const webhooks = createWebhooks({
    store,
    bucket,
    secret: await webhookSecret(config.dataDir, store),
    linkSeconds: config.linkSeconds,
    allowPrivate: config.allowPrivateUrls,
    log,
  });
  const queueIsHere = config.runpod.baseUrl !== undefined && isLoopback(new URL(config.runpod.baseUrl).hostname);
  const lifecycle = createLifecycle({
    store,
    bucket,
    runpod: openRunPod(config.runpod),
    callbackUrl: (token) => `${config.publicUrl}/runpod/callback/${token}`,
    taskDeadline: config.taskDeadline,
    stillTimeout: config.stillTimeout,
    retain: config.retain,
    ...(queueIsHere && { runningTime: config.taskDeadline }), // a worker on this machine may have no GPU
    watchInterval: queueIsHere ? 150 : 1000, // RunPod limits looks; a stand-in on this machine does not
    onAnnouncement: webhooks.wake,
    log,
  });
  const app = createApp({ config, store, bucket, disk, linkOrigin, lifecycle, log, now: Date.now });

  const server = serve({ fetch: app.fetch, hostname: config.host, port: config.port }, () => {
    log.info({ url: config.publicUrl }, 'listening');
    process.send?.({ event: 'listening' });
  });
  server.on('error', (error: NodeJS.ErrnoException) => {
    const taken = error.code === 'EADDRINUSE';
    console.error(`api: ${taken ? `PORT ${config.port} is already in use` : error.message}`);
    process.exit(1);
  });
  await lifecycle.start();
  webhooks.wake();

  const stop = async () => {
    server.close();
    await lifecycle.stop();
    await webhooks.stop();
    await store.close();
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => void stop());
  if (process.channel) process.once('disconnect', () => void stop()); // started by a local supervisor that is gone
} catch (error) {
  console.error(`api: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}
