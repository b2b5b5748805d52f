import { execFile } from 'node:child_process';
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { serve as listen } from '@hono/node-server';
import { Hono } from 'hono';
import { beforeAll, describe, expect, test } from 'vitest';
import { type Handler, serve } from '../../handler/runpod/index.ts';
import { python, skipped } from '../../test/support/worker-conformance.ts';
import { queueServer } from './runpod-queue-server.ts';

const KEY = 'test-key';

/** Does what the jobs of testdata/client.py ask for. */
const handle: Handler = ({ input }, { progress, signal }) => {
  const { fail, chunks, hold } = input as { fail?: string; chunks?: unknown[]; hold?: true };
  if (fail) throw new Error(fail);
  if (chunks) {
    return (async function* () {
      yield* chunks;
    })();
  }
  if (!hold) return input;
  progress({ step: 1 });
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
};

describe.skipIf(!python)(`RunPod’s own Python clients${skipped}`, () => {
  let results: Record<string, unknown>;

  beforeAll(async () => {
    const { app, close } = queueServer({ apiKey: KEY });
    const server = listen({ fetch: new Hono().route('/v2', app).fetch, hostname: '127.0.0.1', port: 0 }) as Server;
    if (!server.listening) await once(server, 'listening');
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v2`;
    const ending = new AbortController();
    const worker = serve(handle, {
      env: {
        RUNPOD_WEBHOOK_GET_JOB: `${base}/ep/job-take/$ID`,
        RUNPOD_WEBHOOK_POST_OUTPUT: `${base}/ep/job-done/$RUNPOD_POD_ID/$ID`,
        RUNPOD_WEBHOOK_POST_STREAM: `${base}/ep/job-stream/$RUNPOD_POD_ID/$ID`,
        RUNPOD_AI_API_KEY: KEY,
        RUNPOD_POD_ID: 'w1',
      },
      argv: [],
      log: () => {},
      signal: ending.signal,
    });
    const client = fileURLToPath(new URL('testdata/client.py', import.meta.url));
    const env = { PATH: process.env.PATH, HOME: tmpdir(), RUNPOD_ENDPOINT_BASE_URL: base, KEY };
    try {
      const { stdout } = await promisify(execFile)(python!, [client], { env, timeout: 60_000, killSignal: 'SIGKILL' });
      results = JSON.parse(stdout.trim().split('\n').at(-1)!);
    } finally {
      ending.abort();
      await worker;
      close();
      server.close().closeAllConnections();
    }
  }, 70_000);

  const ECHO = { echo: 'héllo' };
  const STREAM = [1, { b: 2 }, null];
  const purged = { removed: 2, status: 'completed' };
  /** while one job runs */
  const health = (inQueue: number) => ({
    jobs: expect.objectContaining({ inProgress: 1, inQueue }),
    workers: expect.objectContaining({ idle: 0, running: 1 }),
  });

  test.each<[string, unknown]>([
    ['run_sync', ECHO],
    ['run_sync failed', null],
    ['output', [ECHO, 'COMPLETED']],
    ['output later', ECHO],
    ['failed', [null, 'FAILED']],
    ['stream', STREAM],
    ['running', 'IN_PROGRESS'],
    ['progress', { step: 1 }],
    ['queued', 'IN_QUEUE'],
    ['health', health(3)],
    ['cancel queued', true],
    ['purge', purged],
    ['purged', ['CANCELLED', 'CANCELLED', 'CANCELLED']],
    ['cancel', true],
    ['cancelled', 'CANCELLED'],
    ['unknown job', 404],
    ['wrong key', expect.stringContaining('401')],
    ['async output', [ECHO, 'COMPLETED']],
    ['async failed', [null, 'FAILED']],
    ['async stream', STREAM],
    ['async health', health(1)],
    ['async purge', { ...purged, removed: 1 }],
    ['async purged', 'CANCELLED'],
    ['async cancel', true],
    ['async cancelled', 'CANCELLED'],
  ])('%s', (what, expected) => {
    expect(results[what]).toEqual(expected);
  });
});
