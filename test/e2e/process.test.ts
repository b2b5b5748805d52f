import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openStore } from '../../api/store/store.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { type ApiProcess, startApi } from '../support/api-process.ts';
import { listen } from '../support/test-api.ts';

const KEY = 'a-key-that-is-in-no-log';
let folder: string;
let closeQueue: () => void;
let api: ApiProcess & { logged: string[]; stopping: Promise<void> };
let isRunPodBroken: boolean;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'stop-'));
  const queue = queueServer({ apiKey: KEY, pollTimeout: 100 });
  isRunPodBroken = false;
  const runpodServer = await listen({
    fetch: (request) => (isRunPodBroken ? new Response('broken', { status: 500 }) : queue.app.fetch(request)),
  });
  closeQueue = () => {
    queue.close();
    void runpodServer.close();
  };
  const started = await startApi({ dataDir: folder, runpod: { url: runpodServer.url, apiKey: KEY }, stdout: 'pipe' });
  const logged: string[] = [];
  const stopping = new Promise<void>((resolve) => {
    createInterface({ input: started.child.stdout! }).on('line', (line) => {
      logged.push(line);
      if (JSON.parse(line).message === 'stopping') resolve();
    });
  });
  api = { ...started, logged, stopping };
});
afterEach(async () => {
  api.child.kill('SIGKILL');
  await api.exited;
  closeQueue();
  await rm(folder, { recursive: true, force: true });
});

const BODY = JSON.stringify({ prompt: 'a lighthouse' });
/** A POST of which only the beginning is sent. It is in progress until `end` sends the rest. */
async function halfPost(): Promise<{ posting: ClientRequest; end(): Promise<IncomingMessage> }> {
  const headers = { 'content-type': 'application/json', 'content-length': BODY.length, expect: '100-continue' };
  const posting = request({ port: api.port, method: 'POST', path: '/img2vid', headers });
  posting.on('error', () => undefined); // the process is going to die
  posting.flushHeaders();
  await once(posting, 'continue'); // the API has it
  posting.write(BODY.slice(0, 5));
  return {
    posting,
    async end() {
      posting.end(BODY.slice(5));
      return (await once(posting, 'response'))[0] as IncomingMessage;
    },
  };
}

test('after SIGTERM a POST in progress is answered and stored, event streams end, and the API exits soon', async () => {
  const url = `http://127.0.0.1:${api.port}`;
  const first = await fetch(`${url}/img2vid`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: BODY,
  });
  const { id } = (await first.json()) as { id: string };
  const events = await fetch(`${url}/status?id=${id}`, { headers: { accept: 'text/event-stream' } });
  const { end } = await halfPost();
  isRunPodBroken = true;
  expect((await (await fetch(`${url}/readyz`)).json()).parts.runpod).toEqual({ status: 'failing', reason: 'error' });

  const began = performance.now();
  api.child.kill('SIGTERM');
  api.child.kill('SIGINT'); // not a second signal: a Ctrl-C comes from the terminal, npm and the supervisor at once
  await api.stopping;
  expect(await events.text()).toContain(`"id":"${id}"`); // resolves: the stream has ended, not broken
  await expect(fetch(`${url}/healthz`)).rejects.toThrow();
  expect(api.child.exitCode).toBe(null); // the POST is waited for
  const answer = await end();
  expect([answer.statusCode, answer.headers.connection]).toEqual([202, 'close']);
  const posted = JSON.parse(await text(answer)) as { id: string };
  expect(await api.exited).toEqual([0, null]);
  expect(api.logged.join()).toContain('Request failed with status code 500');
  expect(api.logged.join()).not.toContain(KEY);
  expect(performance.now() - began).toBeLessThan(8000);

  const store = await openStore(`file:${join(folder, 'tasks.db')}`); // it is unlocked
  expect((await store.get(posted.id))!.input.prompt).toBe('a lighthouse');
  await store.close();
});

test('a signal right after the start stops the API in order', async () => {
  api.child.kill('SIGTERM');
  expect(await api.exited).toEqual([0, null]);
});

test('a second signal ends the API at once', async () => {
  await halfPost();
  api.child.kill('SIGTERM');
  await api.stopping;
  const insisting = (async () => {
    while (api.child.exitCode === null) {
      await delay(100);
      api.child.kill('SIGTERM');
    }
  })();
  expect(await api.exited).toEqual([1, null]);
  await insisting;
});
