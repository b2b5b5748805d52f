import { Worker } from 'node:worker_threads';
import type { Log } from './job-log.ts';
import type { Queue } from './queue-client.ts';

/**
 * Pings go on in a thread of their own, and each names the jobs that were held last.
 * @param interval milliseconds
 */
export function startPings(address: Queue['pings'], interval: number, log: Log) {
  if (!address) return { hold() {}, async stop() {} };
  const workerData = { ...address, interval, timeout: 2 * interval };
  const thread = new Worker(new URL('./ping-thread.mjs', import.meta.url), { workerData, execArgv: [] });
  thread.on('message', (error: string) => log({ event: 'ping failed', error }));
  thread.on('error', (error) => log({ event: 'pings ended', error }));
  return {
    hold: (jobIds: string[]) => thread.postMessage(jobIds),
    async stop() {
      await thread.terminate();
    },
  };
}
