import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/** Runs one of our programs by the shell, which gets the program's arguments as `"$@"`. */
function start(args: string[], script = 'exec "$@"', env: Record<string, string> = {}) {
  const child = spawn('/bin/sh', ['-c', script, 'sh', process.execPath, '--import', 'tsx', ...args], {
    cwd: ROOT,
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

test.for(['client/cli.ts', 'infra/tools/keys.ts', 'infra/deploy/deploy.ts', 'infra/run/demo.ts'])(
  '%s --help ends quietly with 0 if its reader has ended',
  async (program) => {
    const child = start([program, '--help']);
    child.stdout.destroy();
    const [err, [status]] = await Promise.all([text(child.stderr), once(child, 'close')]);
    expect([status, err]).toEqual([0, '']);
  },
);

test.for([
  ['client/cli.ts', 2],
  ['infra/tools/keys.ts', 2],
  ['infra/image/start.ts', 1],
] as const)('%s ends with its usual status if nobody reads its errors', async ([program, expected]) => {
  const child = start([program, 'unknown']);
  child.stderr.destroy();
  const [status] = await once(child, 'close');
  expect(status).toBe(expected);
});

test('a command whose output finds the disk full says so and ends with 1', async () => {
  const child = start(['client/cli.ts', '--help'], 'exec "$@" > /dev/full');
  const [err, [status]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  expect([status, err]).toEqual([1, 'standard output: ENOSPC: no space left on device, write\n']);
});

test('a long list ends when its reader has ended', async () => {
  const task = { id: 'x', status: 'queued', created_at: '2026-01-31T18:00:00Z', input: { prompt: 'x' } };
  const server = createServer((_request, response) => {
    response.setHeader('link', '</status?cursor=again>; rel="next"'); // so the list has no end
    response.setHeader('content-type', 'application/json').end(JSON.stringify(Array(100).fill(task)));
  }).listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const child = start(['client/cli.ts', 'list', '--limit', '0', '--url', `http://127.0.0.1:${port}`]);
  child.stdout.once('data', () => child.stdout.destroy());
  const [err, [status]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  expect([status, err]).toEqual([0, '']);
});

test('a program goes on if its log finds the disk full', async () => {
  const program = `
    import { createLog } from './core/log.ts';
    const log = createLog(process.env);
    for (let i = 0; i < 20; i++) {
      log.info('x'.repeat(100_000));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    console.log('also full');
    process.exit(0);`;
  const child = start(['--input-type=module', '-e', program], 'exec "$@" > /dev/full');
  const [err, [status]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  expect([status, err]).toEqual([0, '']);
});
