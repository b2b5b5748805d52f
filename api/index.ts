/** Starts the API: reads the environment once, opens the dependencies, listens, and stops in order at SIGTERM. */
import { createLog } from '../core/log.ts';
import { findSandbox } from '../core/picture/picture.ts';
import { SECOND } from '../core/time.ts';
import { createApp } from './app.ts';
import { readConfig } from './config.ts';
import { isLoopback } from './http/host.ts';
import { listen } from './http/listen.ts';
import { adoptionHint, createFirstKey, writeWebhookSecret } from './keys/first-key.ts';
import { FIRST_KEY } from './keys/key-value.ts';
import { createServices, type Services } from './services.ts';

try {
  const log = createLog(process.env);
  const config = readConfig(process.env);
  const services = await createServices({ config, log });
  if (isLoopback(config.host)) await writeWebhookSecret(config.dataDir, services.store);
  else await printFirstKey(services.store);
  const listener = await listen(createApp(services), { hostname: config.host, port: config.port });
  // Before anything is awaited: a signal without a listener ends the process at once, and its requests with it.
  let stoppedAt: number | undefined;
  const onSignal = async () => {
    if (stoppedAt !== undefined) {
      // An earlier repetition is the same Ctrl-C: the terminal, npm and a supervisor each pass it on.
      if (performance.now() - stoppedAt > SECOND) process.exit(1);
      return;
    }
    stoppedAt = performance.now();
    log.info('stopping');
    await services.stop(listener.close).catch((error) => {
      log.error({ error }, 'the store could not be closed');
      process.exit(1);
    });
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, onSignal);
  if (process.channel) process.once('disconnect', () => stoppedAt ?? onSignal()); // its local supervisor has died

  log.info({ url: config.publicUrl }, 'listening');
  if (process.stdout.isTTY && !process.send) console.log(`Open ${config.publicUrl} in a browser. Ctrl-C ends the API.`);
  process.send?.({ event: 'listening', url: config.publicUrl });
  await services.start();
  void logSandbox(log);
} catch (error) {
  console.error(`api: ${error instanceof Error ? error.message : error}`);
  process.exit(1);
}

/** Finds the decoder's sandbox before the first picture comes. */
async function logSandbox(log: Services['log']): Promise<void> {
  try {
    log.info({ sandbox: (await findSandbox()).name }, 'pictures are decoded in a sandbox');
  } catch (error) {
    log.error({ error }, 'pictures can’t be decoded on this machine');
  }
}

/** Prints to stdout instead of the log, which may be kept and sent elsewhere. */
async function printFirstKey(store: Services['store']): Promise<void> {
  const value = await createFirstKey(store, Date.now());
  if (value === undefined) return;
  const hint = await adoptionHint(store, FIRST_KEY);
  console.log(
    `\nThere was no API key, so one with all scopes was created. It is shown only now:\n\n  ${value}\n\n${hint}`,
  );
}
