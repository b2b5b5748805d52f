import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openStore } from '../../api/store/store.ts';
import { readMp4 } from '../../handler/video/mp4.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { programArgs } from '../support/programs.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const hasTerminal = spawnSync('script', ['-qec', 'true', '/dev/null']).status === 0; // util-linux
if (!hasTerminal) console.warn('skipped: the test with a terminal (no script of util-linux)');
let folder: string;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'demo-'));
  const port = await freePort();
  env = { PATH: process.env.PATH, PORT: String(port), DATA_DIR: join(folder, 'data') };
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const demo = (environment: NodeJS.ProcessEnv, ...args: string[]) => demoIn(ROOT, environment, ...args);
const demoIn = (cwd: string, environment: NodeJS.ProcessEnv, ...args: string[]) =>
  spawnSync(process.execPath, [...programArgs('infra/run/demo.ts'), ...args], {
    cwd,
    env: environment,
    encoding: 'utf8',
  });
const TINY = ['--H', '64', '--W', '128', '--T', '3', '--steps', '2'];

test('--once makes a clip from the bundled picture, saves it and its frames, prints its file, and exits', async () => {
  const { DATA_DIR: _, ...environment } = env;
  const cwd = await mkdtemp(join(folder, 'cwd-'));
  const [out, frames] = [join(folder, 'clip.mp4'), join(folder, 'frames')];
  const args = ['--once', '--seed', '23', '--out', out, `--frames=${frames}`, ...TINY];
  const { status, stdout } = demoIn(cwd, environment, ...args);
  expect(status, stdout).toBe(0);
  expect(stdout).not.toContain('http://'); // the link would lead to nothing
  expect(stdout).not.toContain('another process');
  expect(await readdir(cwd)).toEqual(['data']);
  const [file] = /data\/bucket\/objects\/tasks\/\S+video-1\.mp4$/m.exec(stdout)!;
  expect(await readFile(join(cwd, file))).toEqual(await readFile(out));
  expect((await readdir(frames)).sort()).toEqual(['0001.png', '0002.png', '0003.png']);
  let t = 0;
  for await (const { width, height, data } of readMp4(out)) {
    const name = join(frames, `000${++t}.png`);
    expect(await sharp(name).metadata()).toMatchObject({ width: 128, height: 64, depth: 'uchar', channels: 3 });
    const kept = await sharp(name).raw().toBuffer();
    const error = kept.reduce((sum, value, i) => sum + Math.abs(value - data[i]!), 0) / kept.length;
    expect([width, height, error < 6]).toEqual([128, 64, true]); // the same picture apart from the encoder's loss
    expect(error).toBeGreaterThan(0); // saved before encoding
  }
  expect(t).toBe(3);
}, 60_000);

test.skipIf(!hasTerminal)(
  'npm start says on a terminal what to open, and nothing else',
  async () => {
    const command = `exec ${[process.execPath, ...programArgs('infra/run/start.ts')].join(' ')}`;
    const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: ROOT, env });
    const exited = once(child, 'exit');
    let output = '';
    for await (const part of child.stdout.setEncoding('utf8')) {
      output += part;
      if (output.includes('Open ') && !child.stdin.writableEnded) child.stdin.end('\x03'); // Ctrl-C
    }
    expect(await exited).toEqual([0, null]);
    const said = output.replace('^C', '').trim();
    expect(said).toBe(`Open http://127.0.0.1:${env.PORT} in a browser. Ctrl-C ends the service.`);
  },
  60_000,
);

test('without DATA_DIR the demo uses another folder while a process uses data', async () => {
  const { DATA_DIR: _, ...environment } = env;
  const cwd = await mkdtemp(join(folder, 'cwd-'));
  await mkdir(join(cwd, 'data'));
  const other = await openStore(`file:${cwd}/data/tasks.db`);
  const { stdout } = demoIn(cwd, environment, '--once', ...TINY);
  await other.close();
  expect(stdout).toContain(`another process uses the folder data; this one uses data-${env.PORT}\n`);
  expect(await readdir(cwd)).toEqual(['data', `data-${env.PORT}`]);
}, 60_000);

test('wrong flags end the demo with one line each, before anything is started', () => {
  const DATA_DIR = join(folder, 'nothing');
  const complaint = (...args: string[]) => {
    const { status, stderr } = demo({ ...env, DATA_DIR }, ...args);
    expect(status).toBe(1);
    return stderr.trim();
  };
  expect(complaint('--image', 'no-such.jpg')).toBe('--image no-such.jpg: there is no such file');
  expect(complaint('--H', '100', '--step', '5', '--motion', '5')).toBe(
    '--step: unknown; did you mean steps?\n--motion: unknown; use motion_bucket_id\n--H: must be a multiple of 64 from 64 to 2048; nearest: 64 and 128',
  );
  expect(complaint('picture.jpg')).toMatch(/^picture.jpg: flags begin with --/);
  expect(existsSync(DATA_DIR)).toBe(false);
}, 60_000);

test('the error names a port in use, or a file that is not a picture', async () => {
  const blocker = createServer().listen(Number(env.PORT), '127.0.0.1');
  const args = [...programArgs('infra/run/demo.ts'), '--once'];
  const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ['ignore', 'ignore', 'pipe'] });
  const [errors, [code]] = await Promise.all([text(child.stderr), once(child, 'close')]);
  blocker.close();
  expect([code, errors]).toEqual([1, expect.stringContaining(`PORT ${env.PORT} is already in use`)]);
  const { status, stderr } = demo(env, '--once', '--image', 'package.json');
  expect([status, stderr]).toEqual([1, expect.stringContaining('not a complete picture of type jpeg')]);
}, 60_000);

test('where requests need an API key, the demo makes and prints the first one; later it needs one and says how to make it', async () => {
  const data = join(folder, 'wide');
  const wide = { ...env, HOST: '0.0.0.0', DATA_DIR: data };
  const run = (key: string) => demo({ ...wide, IMG2VID_API_KEY: key }, '--once', ...TINY);
  const first = run('');
  expect(first.status, first.stderr).toBe(0);
  const [key] = first.stdout.match(/(?<=IMG2VID_API_KEY=)i2v_\S+/)!;
  expect(first.stdout).toContain('/video-1.mp4');
  expect(await readFile(join(data, 'api.log'), 'utf8')).not.toContain('i2v_');

  const again = run('');
  expect([again.status, again.stdout]).toEqual([1, expect.not.stringContaining('i2v_')]);
  expect(again.stderr).toContain(`DATA_DIR=${data} npm run keys -- create --name demo\n`);
  expect(run('a').stderr).toContain('IMG2VID_API_KEY must be an API key');
  const prompted = demo({ ...wide, IMG2VID_API_KEY: key }, '--once', ...TINY, '--prompt', 'x'); // placeholders are for loopback only
  expect(prompted.stderr).toContain('prompt: this service has no image provider');
}, 90_000);

test('Ctrl-C ends the demo and all its child processes', async () => {
  const child = spawn(process.execPath, ['infra/run/demo.mjs', ...TINY], { cwd: ROOT, env }); // as `npm run demo` does
  let output = '';
  await new Promise<void>((resolve, reject) => {
    child.once('exit', () => reject(new Error(output)));
    child.stdout.setEncoding('utf8').on('data', (part: string) => {
      output += part;
      if (output.includes('Ctrl-C ends the service')) resolve();
    });
  });
  expect(output).toMatch(
    /http:\/\/127\.0\.0\.1:\d+\/files\/tasks\/.*video-1\.mp4\?expires=\d+&filename=coffee-\d+\.mp4&signature=\S+/,
  );
  const children = await childrenOf(child.pid!);
  expect(children.length).toBeGreaterThanOrEqual(2); // API and worker
  child.removeAllListeners('exit');
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGINT');
  expect(await gone).toBe(130);
  for (const pid of children) expect(existsSync(`/proc/${pid}`), `process ${pid}`).toBe(false);
}, 60_000);

async function childrenOf(pid: number): Promise<number[]> {
  if (process.platform !== 'linux') return [];
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.trim().split(' ').filter(Boolean).map(Number);
}
