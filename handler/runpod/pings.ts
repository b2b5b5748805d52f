import { Worker } from 'node:worker_threads';
import type { Log } from './job-log.ts';
import type { Queue } from './queue-client.ts';

/**
 * Sends pings from a thread. Each names the jobs of the last `setJobs`.
 * @param target undefined: no pings
 * @param interval milliseconds
 */
export function startPings(target: Queue['pings'], interval: number, log: Log) {
  if (!target) return { setJobs() {}, async stop() {} };
  const workerData = { ...target, interval, timeout: 2 * interval };
  const thread = new Worker(new URL('./ping-thread.mjs', import.meta.url), { workerData, execArgv: [] });
  thread.on('message', (error: string) => log({ event: 'ping failed', error }));
  thread.on('error', (error) => log({ event: 'pings ended', error }));
  return {
    setJobs: (jobIds: string[]) => thread.postMessage(jobIds),
    async stop() {
      await thread.terminate();
    },
  };
}
