/** What the worker's log must not contain after any answer of a bridge: the prompt, the bridge's key, and links to pictures. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Context } from 'hono';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Call, KEY, type Started, startBridge } from '../support/test-bridge.ts';

const PROMPT = 'a lighthouse that nobody may know of, 灯塔';
const LINK = 'http://127.0.0.1:1/attachments/private-picture.png?signature=abcdef';
/** A bridge that repeats what it knows. */
const ECHO = `cannot draw “A Lighthouse that NOBODY may…” (灯) for ${KEY}, see ${LINK}`;
const SECRETS = [KEY, PROMPT, /lighthouse/i, /nobody/i, '灯', 'private-picture', 'abcdef'];

const BASE = {
  ...{ model: 'camera', H: 64, W: 64, T: 2, fps: 6, seed: 3, steps: 2, cond_aug: 0.02, decoding_t: 2 },
  ...{ motion_bucket_id: 127, num_cols: 1, image_index: 1, fit: 'cover' },
  ...{ sampler: 'DPMPP2MSampler', discretization: 'LegacyDDPMDiscretization', guider: 'IdentityGuider' },
};

let folder: string;
let bridge: Started;
let worker: ChildProcess;
let url: string;
let odd: { call: Call; answer: (c: Context) => Response } | undefined;
const lines: string[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'worker-log-'));
  const intervene = (call: Call, _: number, c: Context) => (call === odd?.call ? odd.answer(c) : undefined);
  bridge = await startBridge('mj-proxy', { intervene });
  worker = spawn(
    process.execPath,
    ['--import', 'tsx', 'handler/index.ts', '--rp_serve_api', '--rp_api_host', '127.0.0.1', '--rp_api_port', '0'],
    {
      env: {
        ...{ PATH: process.env.PATH, DATA_DIR: folder, MODEL: 'camera', RUNPOD_LOG_LEVEL: 'TRACE' },
        ...{ MIDJOURNEY_BRIDGE: 'mj-proxy', MIDJOURNEY_API_KEY: KEY, MIDJOURNEY_BASE_URL: bridge.baseUrl },
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  url = await new Promise((resolve) => {
    createInterface({ input: worker.stdout! }).on('line', (line) => {
      lines.push(line);
      const { message, url } = JSON.parse(line);
      if (message === 'serving') resolve(url);
    });
  });
});
afterAll(async () => {
  const exited = once(worker, 'exit');
  worker.kill();
  await exited;
  await bridge.close();
  await rm(folder, { recursive: true });
});

const task = { id: '1', status: 'SUCCESS', progress: '100%' };

test.each<[string, Call, (c: Context) => Response, code: string]>([
  ['unknown fields', 'imagine', (c) => c.json({ [PROMPT]: 1, key: KEY, text: ECHO, list: [[LINK]] }), 'lost'],
  ['text and status 500', 'imagine', (c) => c.text(ECHO, 500), 'lost'],
  ['a refused key', 'imagine', (c) => c.json({ code: 4, description: ECHO }, 401), 'no_credit'],
  ['a failure', 'imagine', (c) => c.json({ code: 9, description: ECHO, result: LINK }), 'upstream_error'],
  ['a banned word', 'imagine', (c) => c.json({ code: 24, properties: { bannedWord: ECHO } }), 'banned_prompt'],
  ['an unknown status', 'status', (c) => c.json({ ...task, status: ECHO, imageUrl: LINK }), 'upstream_error'],
  ['a reason to fail', 'status', (c) => c.json({ ...task, status: 'FAILURE', failReason: ECHO }), 'upstream_error'],
  ['text', 'status', (c) => c.text(`${ECHO}\n${ECHO}`), 'upstream_error'],
  ['a private picture', 'status', (c) => c.json({ ...task, imageUrl: LINK }), 'image_unavailable'],
  ['an unusable picture', 'picture', (c) => c.text(ECHO), 'image_unavailable'],
])('an answer with %s to a request of type %s', async (_, call, answer, code) => {
  odd = { call, answer };
  const from = lines.length;
  const response = await fetch(`${url}/runsync`, {
    method: 'POST',
    body: JSON.stringify({ input: { ...BASE, prompt: PROMPT, task_id: randomUUID() } }),
  });
  const failure = JSON.parse((await response.json()).error);
  expect(failure.code).toBe(code);
  expect(failure.message).not.toContain(KEY);
  await vi.waitFor(() => expect(lines.slice(from).at(-1)).toContain('job ended'));
  const logged = lines.slice(from);
  const error = expect.objectContaining({ stack: expect.stringMatching(/\n +at .*:\d+:\d+/) });
  const warning = expect.objectContaining({ level: 'WARN', message: 'job failed', error });
  if (code !== 'banned_prompt') expect(logged.map((line) => JSON.parse(line))).toContainEqual(warning);
  for (const secret of SECRETS) expect(logged.filter((line) => line.match(secret))).toEqual([]);
});
