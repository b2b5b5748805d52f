import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { queueServer } from '../infra/simulators/runpod-queue-server.ts';

const KEY = 'a key';

/**
 * RunPod's queue in this process, on a free port of this machine; its jobs' times are those of `performance.now()`.
 * @param root what else the server does: middleware, other routes
 */
export async function openQueue(root = new Hono()) {
  const { app, queue } = queueServer({ apiKey: KEY, now: () => performance.now() });
  const server = serve({ fetch: root.route('/v2', app).fetch, hostname: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    queue,
    url,
    /** what RunPod gives its workers */
    env: {
      RUNPOD_AI_API_KEY: KEY,
      RUNPOD_POD_ID: 'bench',
      RUNPOD_WEBHOOK_GET_JOB: `${url}/v2/bench/job-take/$ID?gpu=none`,
      RUNPOD_WEBHOOK_POST_OUTPUT: `${url}/v2/bench/job-done/$RUNPOD_POD_ID/$ID?gpu=none`,
      RUNPOD_WEBHOOK_PING: `${url}/v2/bench/ping/$RUNPOD_POD_ID`,
    },
    close() {
      server.close();
      if ('closeAllConnections' in server) server.closeAllConnections();
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
