/** What a program in each sandbox may reach, of those that work on this machine. A decoder that a picture has taken over is such a program. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, expect, test } from 'vitest';
import { findSandbox } from './picture.ts';
import { DECODER_ENV, SANDBOXES, type Sandbox } from './sandbox.ts';

/** Tries to reach what it should not, and prints a result or an error's code by name. */
const PROBE = `
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
const [secret, port, parent] = process.argv.slice(2);
const results = {};
const attempt = async (name, work) => {
  results[name] = await Promise.resolve().then(work).catch((error) => error.code ?? error.message);
};
await attempt('secret', () => readFileSync(secret, 'utf8'));
await attempt('write', () => writeFileSync(secret + '-2', ''));
await attempt('overwrite', () => writeFileSync(process.argv[1], ''));
await attempt('root', () => readdirSync('/').filter((name) => ['etc', 'home', 'root', 'proc', 'sys', 'var'].includes(name)));
await attempt('environment', () => readFileSync('/proc/' + parent + '/environ', 'utf8').length);
await attempt('signal', () => process.kill(Number(parent), 0));
await attempt('program', () => spawnSync('/bin/sh', ['-c', 'exit 0']).status);
await attempt('network', () => new Promise((resolve, reject) => {
  connect(Number(port), '127.0.0.1').on('connect', function () { this.destroy(); resolve('connected'); }).on('error', reject);
}));
console.log(JSON.stringify(results));
`;

const folder = await mkdtemp(join(tmpdir(), 'sandbox-'));
await chmod(folder, 0o755); // so that another user can read the program
const code = join(folder, 'code');
await mkdir(code);
const program = join(code, 'probe.mjs');
const secret = join(folder, 'secret');
const empty = join(code, 'empty.mjs');
await writeFile(program, PROBE);
await writeFile(empty, '');
await writeFile(secret, 'a secret', { mode: 0o600 });
const server = createServer().listen(0, '127.0.0.1');
await once(server, 'listening');
afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

/** @param options further ones of Node, such as those that lift its own restrictions, as native code can */
async function probe(sandbox: Sandbox, options: string[]): Promise<Record<string, unknown>> {
  const { port } = server.address() as { port: number };
  const command = sandbox.command(program, [secret, String(port), String(process.pid)]);
  command.splice(command.indexOf(process.execPath, command.indexOf('setpriv') + 1) + 1, 0, ...options);
  const child = spawn(command[0]!, command.slice(1), { env: DECODER_ENV, stdio: ['ignore', 'pipe', 'pipe'] });
  const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
  if (output === '') throw new Error(errors);
  return JSON.parse(output);
}
const nativeCode = ['--allow-fs-read=*', '--allow-fs-write=*', '--allow-child-process'];
const isWorking = (sandbox: Sandbox) => {
  const [command, ...args] = sandbox.command(empty, []);
  return spawnSync(command!, args, { env: DECODER_ENV }).status === 0;
};
const working = new Map(SANDBOXES.filter(isWorking).map((sandbox) => [sandbox.name, sandbox]));

test('the decoder runs in the first sandbox that works on this machine', async () => {
  expect((await findSandbox()).name).toBe([...working.keys()][0]);
});

const namespaces = working.get('namespaces');
if (namespaces)
  test('in namespaces even native code reaches no file, process or network', async () => {
    // Node and the packages may be in somebody's home folder.
    const mounted = [process.execPath, import.meta.filename].map((path) => path.split('/')[1]);
    const root = ['home', 'root', 'var'].filter((name) => mounted.includes(name));
    expect(await probe(namespaces, nativeCode)).toEqual({
      ...{ secret: 'ENOENT', write: 'EROFS', overwrite: 'EROFS', root, environment: 'ENOENT' },
      ...{ signal: 'ESRCH', program: 0, network: 'ENETUNREACH' },
    });
  });

const anotherUser = working.get('another user');
if (anotherUser)
  test('as another user native code reaches no file of the service and no process', async () => {
    expect(await probe(anotherUser, nativeCode)).toMatchObject({
      ...{ secret: 'EACCES', write: 'EACCES', overwrite: 'EACCES', environment: 'EACCES', signal: 'EPERM' },
    });
  });

for (const name of ['namespaces', 'another user', 'permissions'] as const) {
  const sandbox = working.get(name);
  if (sandbox)
    test(`JavaScript in the sandbox "${name}" reads, writes and starts nothing`, async () => {
      const denied = 'ERR_ACCESS_DENIED';
      expect(await probe(sandbox, [])).toMatchObject({
        ...{ secret: denied, write: denied, overwrite: denied, root: denied, environment: denied, program: denied },
      });
    });
}
