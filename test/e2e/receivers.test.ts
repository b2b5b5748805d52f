/** Webhook receivers with the official packages of Standard Webhooks verify our events, and refuse forged or changed ones. */
import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isProgram } from '../../infra/run/programs.ts';
import { listen, type TestService, testService, WEBHOOK_SECRET } from '../support/test-api.ts';

interface Delivery {
  verified: boolean;
  /** webhook-id */
  id: string;
  type: string | null;
}

const here = (name: string) => fileURLToPath(new URL(`receivers/${name}`, import.meta.url));
/** The program that a variable names, which `.ci/run` sets. */
const named = (variable: string) => ({
  program: [process.env[variable]].find((path) => path && isProgram(path)),
  skipped: ` (no ${variable}: skipped)`,
});

const RECEIVERS: { language: string; program: string | undefined; args: string[]; skipped: string }[] = [
  { language: 'Node', program: process.execPath, args: ['--import', 'tsx', here('receiver.ts')], skipped: '' },
  { language: 'Python', ...named('STANDARDWEBHOOKS_PYTHON'), args: [here('receiver.py')] },
  { language: 'Go', ...named('WEBHOOK_RECEIVER'), args: [] },
];
const OTHER_SECRET = `whsec_${randomBytes(32).toString('base64')}`;
/** Longer than the 500 characters that an event may have. */
const PROMPT = `a lighthouse, “á l’aube” — '灯台' "فنار" \\ </p> \u2028 e\u0301 👩🏽‍🚀 ${'🌊'.repeat(500)}`;
const TYPES = ['task.canceled', 'task.failed', 'task.succeeded'];

for (const { language, program, args, skipped } of RECEIVERS) {
  if (!program) console.warn(`a receiver in ${language}${skipped}`);

  describe.skipIf(!program)(`a receiver in ${language}${program ? '' : skipped}`, () => {
    let service: TestService;
    let ends: (() => Promise<unknown>)[];

    beforeEach(async () => {
      service = await testService({ ALLOW_PRIVATE_URLS: '1' });
      ends = [() => service.close()];
    });
    afterEach(async () => {
      for (const end of ends) await end();
    });

    async function startReceiver(secret: string) {
      const child = spawn(program!, args, {
        cwd: here(''),
        env: { PATH: process.env.PATH, WEBHOOK_SECRET: secret },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const exited = once(child, 'exit');
      const kill = () => child.kill('SIGKILL');
      process.once('exit', kill);
      ends.push(async () => {
        kill();
        process.off('exit', kill);
        await exited;
      });
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      const next = async () => {
        const { done, value } = await lines.next();
        if (done) throw new Error(`the receiver in ${language} has ended`);
        return value;
      };
      return { url: `http://127.0.0.1:${await next()}`, delivery: async () => JSON.parse(await next()) as Delivery };
    }
    type Receiver = Awaited<ReturnType<typeof startReceiver>>;

    /** Ends three tasks, one in each way, with this webhook URL. */
    async function endTasks(webhook_url: string) {
      const post = async () => (await (await service.post({ prompt: PROMPT, webhook_url })).json()).id as string;
      const succeeding = await post();
      const job = await service.take(succeeding);
      service.report(job.id, { output: await service.finish(succeeding, job.id) });
      const failing = await post();
      const error = JSON.stringify({ code: 'banned_prompt', message: `not “${PROMPT}”`, retryable: false });
      service.report((await service.take(failing)).id, { error });
      await fetch(`${service.url}/cancel?id=${await post()}`, { method: 'POST' });
    }

    /** The first three events, without repetitions. */
    async function events({ delivery }: Receiver): Promise<Delivery[]> {
      const first = new Map<string, Delivery>();
      while (first.size < TYPES.length) {
        const one = await delivery();
        if (!first.has(one.id)) first.set(one.id, one);
      }
      return [...first.values()];
    }

    async function expectVerified(receiver: Receiver) {
      const deliveries = await events(receiver);
      expect(deliveries.map(({ type }) => type).sort()).toEqual(TYPES);
      expect(deliveries.every(({ verified }) => verified)).toBe(true);
    }

    async function expectRefused(receiver: Receiver) {
      for (const delivery of await events(receiver)) expect(delivery).toMatchObject({ verified: false, type: null });
    }

    test('verifies the events of all three ends', async () => {
      const receiver = await startReceiver(WEBHOOK_SECRET);
      await endTasks(receiver.url);
      await expectVerified(receiver);
    });

    test('refuses every event if its secret is another one', async () => {
      const receiver = await startReceiver(OTHER_SECRET);
      await endTasks(receiver.url);
      await expectRefused(receiver);
    });

    test.each<[string, (body: Buffer) => void, (receiver: Receiver) => Promise<void>]>([
      ['verifies unchanged events', () => {}, expectVerified],
      ['refuses events with one changed letter', (body) => (body[body.indexOf('lighthouse')]! ^= 1), expectRefused],
      [
        'refuses events with one changed byte of a character',
        (body) => (body[body.indexOf('á') + 1]! ^= 128),
        expectRefused,
      ],
    ])('%s', async (_, change, expectation) => {
      const receiver = await startReceiver(WEBHOOK_SECRET);
      const between = await listen(
        new Hono().post('/', async (c) => {
          const headers = Object.fromEntries(
            Object.entries(c.req.header()).filter(([name]) => name.startsWith('webhook-')),
          );
          const body = Buffer.from(await c.req.arrayBuffer());
          change(body);
          const { status } = await fetch(receiver.url, { method: 'POST', headers, body });
          return c.body(null, status as 204);
        }),
      );
      ends.push(between.close);
      await endTasks(between.url);
      await expectation(receiver);
    });

    test('finds its signature among several', async () => {
      const body = JSON.stringify({ type: 'task.succeeded', data: { prompt: PROMPT } });
      async function post(url: string, ...signers: string[]) {
        const [id, now] = [randomUUID(), new Date()];
        const headers = {
          'webhook-id': id,
          'webhook-timestamp': String(Math.floor(now.getTime() / 1000)),
          'webhook-signature': signers.map((secret) => new Webhook(secret).sign(id, now, body)).join(' '),
        };
        return (await fetch(url, { method: 'POST', headers, body })).status;
      }
      for (const [own, other] of [
        [WEBHOOK_SECRET, OTHER_SECRET],
        [OTHER_SECRET, WEBHOOK_SECRET],
      ] as const) {
        const { url, delivery } = await startReceiver(own);
        expect(await post(url, own, other)).toBe(204);
        expect(await post(url, other, own)).toBe(204);
        expect(await post(url, other, other)).toBe(400);
        const { verified, type } = await delivery();
        expect({ verified, type }).toEqual({ verified: true, type: 'task.succeeded' });
      }
    });
  });
}

test('the documentation shows these receivers’ code', async () => {
  const programs = await Promise.all(
    ['receiver.ts', 'receiver.py', 'receiver.go'].map((name) => readFile(here(name), 'utf8')),
  );
  const page = await readFile(new URL('../../docs/api/webhooks.md', import.meta.url), 'utf8');
  const blocks = [...page.matchAll(/^```(?:ts|python|go) shown\n(.*?)^```$/gms)];
  const shown = blocks.flatMap(([, code]) => code!.trimEnd().split('\n'));
  const lines = new Set(
    programs
      .join('\n')
      .split('\n')
      .map((line) => line.trim()),
  );
  expect(blocks.length).toBe(3);
  expect(shown.filter((line) => !lines.has(line.trim()))).toEqual([]);
});
