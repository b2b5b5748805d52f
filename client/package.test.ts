/** The package @img2vid/client as its users have it: built, packed and installed in an empty project. */
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TestService, testService } from '../test/support/test-api.ts';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const run = promisify(execFile);
const VIDEO = 'not really a video';
const SHA256 = createHash('sha256').update(VIDEO).digest('hex');
/** `.ci/run` sets the variable to a second version of Node. */
const NODES = [process.execPath, ...(process.env.NODE_24 ? [process.env.NODE_24] : [])];

let folder: string;
let tarball: string;
let files: string[];
/** the project in which the package is installed */
let project: string;
let service: TestService;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'package-'));
  const source = join(folder, 'client');
  for (const name of ['package.json', 'README.md', 'LICENSE'])
    await cp(join(ROOT, 'client', name), join(source, name), { recursive: true });
  await run(process.execPath, [join(ROOT, 'client/build.mjs'), join(source, 'dist')]);
  const packed = await run('npm', ['pack', '--json', '--ignore-scripts'], { cwd: source });
  const [{ filename, files: list }] = JSON.parse(packed.stdout);
  tarball = join(source, filename);
  files = list.map(({ path }: { path: string }) => path);

  project = join(folder, 'project');
  await mkdir(project);
  await writeFile(join(project, 'package.json'), '{ "private": true }');
  await run('npm', ['install', '--offline', '--ignore-scripts', '--no-audit', tarball], { cwd: project });
  await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .jpeg()
    .toFile(join(project, 'photo.jpg'));
  service = await testService();
  await writeFile(join(project, '.env'), `IMG2VID_URL=${service.url}\n`);
});
afterAll(async () => {
  await service.close();
  await rm(folder, { recursive: true });
});

/** Runs a program in the project while a worker makes its clip. @returns what it printed */
async function makeClip(program: string, args: string[]): Promise<string> {
  const child = spawn(program, args, { cwd: project, env: { PATH: process.env.PATH } });
  const output = Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  const [id] = await Promise.race([newTask(), output.then(() => [undefined])]); // a program may fail without a task
  if (id !== undefined) {
    const job = await service.take(id);
    const output = await service.finish(id, job.id);
    service.report(job.id, {
      output: { ...output, videos: output.videos.map((video) => ({ ...video, sha256: SHA256 })) },
    });
  }
  const [out, err, [code]] = await output;
  expect(code, out + err).toBe(0);
  return out + err;
}

async function newTask(): Promise<[string]> {
  for (;;) {
    const [task] = await (await fetch(`${service.url}/status?limit=1&status=queued`)).json();
    if (task) return [task.id];
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('the package has no dependency, less than 60 kB, and the licences of what it includes', async () => {
  expect((await stat(tarball)).size).toBeLessThan(60_000);
  expect(files.filter((path) => !/^dist\/[\w-]+\.(js|d\.ts)$/.test(path)).sort()).toEqual([
    'LICENSE',
    'README.md',
    'package.json',
  ]);
  const installed = join(project, 'node_modules/@img2vid/client');
  const { version, ...own } = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8'));
  expect(Object.keys(own).filter((name) => /dependencies/i.test(name))).toEqual([]);
  expect(version).toBe(JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8')).version);
  expect(await readdir(join(project, 'node_modules'))).toEqual(['.bin', '.package-lock.json', '@img2vid']);

  const licence = await readFile(join(installed, 'LICENSE'), 'utf8');
  const included = new Set<string>();
  for (const path of files.filter((path) => path.endsWith('.js'))) {
    const code = await readFile(join(installed, path), 'utf8');
    for (const [, name] of code.matchAll(/^\/\/ .*node_modules\/((?:@[^/]+\/)?[^/]+)\//gm)) included.add(name!);
    const imports = [...code.matchAll(/\b(?:from|import|require\()\s*"([^"]+)"/g)].map(([, name]) => name!);
    expect(
      imports.filter((name) => !/^(node:|\.\/)/.test(name)),
      path,
    ).toEqual([]);
  }
  expect(included).toContain('standardwebhooks');
  expect([...included].filter((name) => !licence.includes(`- ${name}: `))).toEqual([]);
});

test.each(NODES)('the example of its README makes a clip in %s', async (node) => {
  const readme = await readFile(join(project, 'node_modules/@img2vid/client/README.md'), 'utf8');
  const [, example] = /```js\n(.*?)```/s.exec(readme)!;
  await writeFile(join(project, 'clip.mjs'), example!.replace('http://127.0.0.1:5000', service.url));
  await rm(join(project, 'clip.mp4'), { force: true });
  expect(await makeClip(node, ['clip.mjs'])).toContain('succeeded 1');
  expect(await readFile(join(project, 'clip.mp4'), 'utf8')).toBe(VIDEO);
});

test.each(NODES)('the command line makes a clip in %s', async (node) => {
  const made = await makeClip(node, [
    'node_modules/.bin/img2vid',
    '--image',
    'photo.jpg',
    '--out',
    'by-command.mp4',
    '--force',
  ]);
  expect(made).toMatch(/ succeeded\n.*by-command\.mp4\n/s);
  expect(await readFile(join(project, 'by-command.mp4'), 'utf8')).toBe(VIDEO);
});

test('npx img2vid --help lists the parameters', async () => {
  const { stdout } = await run('npx', ['--offline', 'img2vid', '--help'], { cwd: project });
  expect(stdout).toContain('\n  --motion_bucket_id ');
});

const TYPED = `
import { ApiError, createClient, verifyWebhook, type Parameters, type Task } from '@img2vid/client';

const parameters: Parameters = { image: new Uint8Array(1), sampler: 'HeunEDMSampler', seed: undefined };
const client = createClient({ url: 'http://127.0.0.1:5000', fetch, onBreak: (error?: unknown) => void error });
const { signal } = new AbortController();
export async function make(): Promise<string[]> {
  const task = await client.img2vid(parameters, { wait: 60, signal });
  for await (const { progress } of task) progress.toFixed();
  const { videos = [], input, error }: Task = await task.done();
  if (input.sampler === 'LinearMultistepSampler') input.order.toFixed();
  if (error?.code === 'banned_prompt') throw new ApiError(error.message);
  const blob: Blob = await (await client.download(videos[0]!)).blob();
  const event = verifyWebhook(new Uint8Array(), new Headers(), 'whsec_');
  if (event.type !== 'webhook.test') event.data.warnings.map(({ field }) => field);
  for await (const { id } of client.list({ status: 'succeeded' })) await client.delete(id);
  return videos.map(({ link }) => link + blob.size);
}
// @ts-expect-error no such parameter
client.img2vid({ promt: 'x' });
// @ts-expect-error must be a number
client.img2vid({ prompt: 'x', T: '5' });
// @ts-expect-error no such status
client.list({ status: 'done' });
`;

test.each([
  ['nodenext', ['es2022', 'dom'], []],
  ['nodenext', ['es2022'], ['node']],
  ['bundler', ['es2022', 'dom'], []],
  ['bundler', ['es2022'], ['node']],
])('a program compiles with strict: resolution %s, lib %j, types %j', async (moduleResolution, lib, types) => {
  const typed = await mkdtemp(join(project, 'typed-'));
  await writeFile(join(typed, 'program.mts'), TYPED);
  const module = moduleResolution === 'bundler' ? 'esnext' : moduleResolution;
  const strict = { strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, noEmit: true };
  const typeRoots = [join(ROOT, 'node_modules/@types')];
  const compilerOptions = { ...strict, target: 'es2022', module, moduleResolution, lib, types, typeRoots };
  await writeFile(join(typed, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.mts'] }));
  const tsc = spawn(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', typed]);
  const [out, [code]] = await Promise.all([text(tsc.stdout), once(tsc, 'close')]);
  expect([out, code]).toEqual(['', 0]);
});

test('bundled for a browser, the client alone has less than 7 kB and nothing of Node', async () => {
  const bundle = (contents: string) =>
    build({
      stdin: { contents, resolveDir: project },
      bundle: true,
      platform: 'browser',
      format: 'esm',
      minify: true,
      write: false,
    });
  const { outputFiles } = await bundle("import { createClient } from '@img2vid/client'; createClient({ url: '/' });");
  expect(outputFiles[0]!.contents.length).toBeLessThan(7_000);
  const whole = await bundle("export * from '@img2vid/client';");
  expect(whole.outputFiles[0]!.text).toContain('whsec_');
});
