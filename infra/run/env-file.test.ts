import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const { PATH } = process.env;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'env-file-'));
  cpSync(join(ROOT, 'package.json'), join(folder, 'package.json')); // a checkout with a .env of its own
  for (const name of ['api', 'assets', 'client', 'core', 'handler', 'infra', 'node_modules'])
    symlinkSync(join(ROOT, name), join(folder, name));
});
beforeEach(() => rmSync(join(folder, '.env'), { recursive: true, force: true }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const writeEnv = (content: string | Uint8Array) => writeFileSync(join(folder, '.env'), content);

/** Runs a program in the folder. @returns what it printed */
function run(program: string, args: string[], env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd: folder, env: { PATH, ...env }, encoding: 'utf8' });
  return { status, out: stdout, err: stderr };
}

/** The variables that a program has. @returns undefined and the error, if the file is refused */
function read(env: NodeJS.ProcessEnv = {}) {
  const code = 'console.log(JSON.stringify(process.env))';
  const { status, out, err } = run(process.execPath, ['--import', './infra/run/env-file.mjs', '--eval', code], env);
  return status === 0 ? JSON.parse(out) : err;
}

test('a .env has comments, quotes and export, and may come from Windows', () => {
  const lines = [
    '# comment',
    'PORT=5001 # comment',
    'export HOST="::1"',
    "MODEL = 'svd'",
    'IMAGE=',
    'CURRENCY="a#b"',
    '',
  ];
  const expected = { PORT: '5001', HOST: '::1', MODEL: 'svd', IMAGE: '', CURRENCY: 'a#b' };
  for (const text of [lines.join('\n'), lines.join('\r\n'), `\uFEFF${lines.slice(1).join('\r\n')}`]) {
    writeEnv(text);
    expect(read()).toMatchObject(expected);
  }
  expect(read({ PORT: '', HOST: 'localhost' })).toMatchObject({ ...expected, PORT: '', HOST: 'localhost' });
});

test('no .env is fine; one that can’t be read ends the program with one line', () => {
  expect(read()).toMatchObject({ PATH });
  const path = join(folder, '.env');
  mkdirSync(path);
  expect(read()).toBe(`${path} can’t be read: it is a folder\n`);
  rmSync(path, { recursive: true });
  writeEnv(Buffer.from('\uFEFFPORT=5001\n', 'utf16le')); // as an old PowerShell writes it
  expect(read()).toBe(`${path} can’t be read: not UTF-8\n`);
  writeEnv('A B=1\n');
  expect(read()).toBe(`${path} needs NAME=VALUE in each line: "A B" is no name\n`);
  if (process.getuid?.() === 0) return; // may read every file
  chmodSync(path, 0);
  expect(read()).toBe(`${path} can’t be read: no permission\n`);
});

const npmRun = (...args: string[]) => ['npm', 'run', '--silent', ...args];

// One of each way to read it. The other scripts and roles read it as `start` and `all` do, as the last test shows.
test.each([
  [npmRun('start'), 'PORT must be'],
  [[join(ROOT, 'client/cli.mjs'), 'list'], '--url: must be'],
  [[process.execPath, '--import', 'tsx', 'infra/image/start.ts', 'all'], 'PORT must be'],
])('%j reads .env of the current folder', ([program, ...args], problem) => {
  writeEnv('PORT=none\nIMG2VID_URL=none\n');
  const { status, err } = run(program!, args, { MODEL: 'camera' });
  expect(err).toContain(problem);
  expect(status).toBeGreaterThan(0);
});

test('the environment wins over .env', () => {
  writeEnv(`IMG2VID_URL=none\nDATABASE_URL=none\nDATA_DIR=${folder}\n`);
  const [npm, ...list] = npmRun('keys', 'list');
  expect(run(npm!, list, { DATABASE_URL: '' })).toMatchObject({ status: 0, err: '' });
  const { err } = run(join(ROOT, 'client/cli.mjs'), ['list'], { IMG2VID_URL: 'http://other', IMG2VID_API_KEY: '…' });
  expect(err).toContain('--key: must be'); // the URL is checked first
});

test('the command line takes only its own variables from a .env of another project', () => {
  const path = join(folder, '.env');
  mkdirSync(path); // a virtual environment of Python
  const withoutKey = ['--import', 'tsx', join(ROOT, 'client/cli.mjs'), 'list', '--url', 'none'];
  expect(run(process.execPath, withoutKey).err).toContain('--url: must be');
  rmSync(path, { recursive: true });
  writeEnv('NODE_DEBUG=module\nmy-key=2\nIMG2VID_URL=none\n');
  const code = `import { loadEnvFile } from './core/env-file.mjs';
    loadEnvFile(['IMG2VID_URL']);
    console.log(process.env.NODE_DEBUG, process.env.IMG2VID_URL);`;
  expect(run(process.execPath, ['--input-type=module', '--eval', code]).out).toBe('undefined none\n');
});

test('the command line sends a key of the environment to no URL of .env', () => {
  writeEnv('IMG2VID_URL=none\n');
  const make = [join(ROOT, 'client/cli.mjs'), '--image', 'no-such.jpg']; // it reads the file after the URL
  expect(run(process.execPath, make).err).toContain('--url: must be');
  const { err } = run(process.execPath, make, { IMG2VID_API_KEY: `i2v_${'a'.repeat(8)}` });
  expect(err).toContain('no-such.jpg: there is no such file');
});

test('npm run dev reads .env at each start', async () => {
  writeEnv('PORT=none\n');
  const child = spawn('npm', ['run', '--silent', 'dev'], { cwd: folder, env: { PATH }, detached: true });
  try {
    let output = '';
    const said = async (text: string) => {
      while (!output.includes(text)) output += await once(child.stderr!, 'data');
    };
    await said('PORT must be');
    writeEnv('RUNPOD_ENDPOINT_ID=x\nDATABASE_URL=none\n');
    child.stdin!.write('\n'); // starts the service again
    await said('DATABASE_URL must be');
  } finally {
    process.kill(-child.pid!, 'SIGTERM');
  }
});

test('every script that starts a program reads .env before it, and so do the image’s programs and a pod’s', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  const without = Object.keys(scripts).filter((name) => !scripts[name]!.includes('--import ./infra/run/env-file.mjs'));
  expect(without).toEqual(['img2vid', 'test', 'check', 'docs', 'build', 'build:client', 'gallery', 'bench', 'soak']); // img2vid reads it itself, the others need none
  for (const [name, script] of Object.entries(scripts)) {
    const [program] = /[\w/.-]+\.(ts|mjs)$/.exec(script) ?? [];
    if (program) expect(existsSync(join(ROOT, program)), name).toBe(true);
  }
  for (const path of ['infra/image/start.ts', 'infra/image/health.ts', 'infra/image/pod.mjs']) {
    const [first] = readFileSync(join(ROOT, path), 'utf8').match(/^import .*$/m)!;
    expect(first, path).toBe("import '../run/env-file.mjs';");
  }
});
