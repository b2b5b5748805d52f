import { Hono } from 'hono';
import { realClock } from '../infra/simulators/clock.ts';
import { queueServer, workerEnv } from '../infra/simulators/runpod-queue-server.ts';
import { listen } from '../test/support/test-api.ts';

const KEY = 'a key';

/**
 * Starts RunPod's queue in this process, on a free port of 127.0.0.1. Its jobs' times are those of `performance.now()`.
 * @param root what else the server does: middleware, other routes
 */
export async function openQueue(root = new Hono()) {
  const { app, queue, close } = queueServer({ apiKey: KEY, clock: realClock(() => performance.now()) });
  const server = await listen(root.route('/v2', app));
  return {
    queue,
    url: server.url,
    apiKey: KEY,
    /** the variables that RunPod gives its workers */
    env: workerEnv(`${server.url}/v2/bench`, KEY, 'bench'),
    async close() {
      close();
      await server.close();
    },
  };
}

/** Queues a job for each input and waits until the last has ended. @throws Error if one has not succeeded */
export async function runAll(queue: Awaited<ReturnType<typeof openQueue>>['queue'], inputs: unknown[]) {
  const jobs = inputs.map((input) => queue.submit({ input }));
  while (jobs.some(({ ended }) => ended === undefined)) await queue.waitForChange(60_000);
  const failed = jobs.find(({ status }) => status !== 'COMPLETED');
  if (failed) throw new Error(`a job is ${failed.status}: ${failed.error}`);
  return jobs.map(({ created, started, ended, output }) => ({ created, started: started!, ended: ended!, output }));
}
