/** The documentation's examples: each runs against the service. docs-pages.test.ts opens the pages. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Validator } from '@cfworker/json-schema';
import sharp from 'sharp';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { databaseUrl } from '../../api/config.ts';
import { openStore } from '../../api/store/store.ts';
import type { JobInput } from '../../core/job.ts';
import { ROLES, TOOLS } from '../../infra/image/roles.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { hasProgram } from '../../infra/run/programs.ts';
import { type Block, docsBlocks } from '../support/docs-blocks.ts';
import { programArgs } from '../support/programs.ts';
import { makeKey, type TestService, testService, WEBHOOK_SECRET } from '../support/test-api.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
const SERVICE = 'http://127.0.0.1:5000';
const PATH = process.env.PATH!;
/** `.ci/run` sets the variables to a Python that has the package. */
const PYTHONS: Record<string, string | undefined> = {
  requests: process.env.UPLOAD_PYTHON,
  openai: process.env.OPENAI_PYTHON,
};
/** The package that a program in Python needs. */
const packageOf = (code: string) => /^(?:import|from) (requests|openai)\b/m.exec(code)?.[1];
const pythonOf = (code: string) => PYTHONS[packageOf(code) ?? ''] || 'python3';
const BLOCKS = docsBlocks();

let service: TestService;
let folder: string;
let working: Promise<void>;
const stop = new AbortController();

beforeAll(async () => {
  service = await testService();
  working = work();
  folder = await mkdtemp(join(tmpdir(), 'docs-'));
  await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .jpeg()
    .toFile(join(folder, 'photo.jpg'));
  await mkdir(join(folder, 'node_modules/@img2vid'), { recursive: true });
  await symlink(ROOT, join(folder, 'node_modules/@img2vid/text-to-video-api')); // as npm installs a folder
  const client = join(folder, 'node_modules/@img2vid/client');
  await cp(join(ROOT, 'client/package.json'), join(client, 'package.json'));
  spawnSync(process.execPath, [join(ROOT, 'client/build.mjs'), join(client, 'dist')], { stdio: 'inherit' });
  await symlink(join(ROOT, 'node_modules/openai'), join(folder, 'node_modules/openai'));
  await mkdir(join(folder, 'bin'));
  await symlink(join(client, 'dist/cli.js'), join(folder, 'bin/img2vid')); // as npm installs the package
  await chmod(join(client, 'dist/cli.js'), 0o755);
  await writeFile(join(folder, 'bin/curl'), '#!/bin/sh\nPATH=$REAL_PATH exec curl --fail-with-body "$@"\n'); // an error status fails the example
  await chmod(join(folder, 'bin/curl'), 0o755);
  await mkdir(join(folder, 'operator-bin'));
  const keys = [process.execPath, ...programArgs('infra/tools/keys.ts')].join(' ');
  await writeFile(
    join(folder, 'operator-bin/npm'), // `npm run keys` with the compiled program; all else goes to npm itself
    `#!/bin/sh\nPATH=$REAL_PATH\n[ "$1 $2 $3" = 'run keys --' ] || exec npm "$@"\nshift 3\nexec ${keys} "$@"\n`,
  );
  await chmod(join(folder, 'operator-bin/npm'), 0o755);
});
afterAll(async () => {
  stop.abort();
  await working;
  await service.close();
  await rm(folder, { recursive: true });
});

/** A worker: every job succeeds. */
async function work() {
  const video = Buffer.alloc(412_604, 'not really a video');
  const sha256 = createHash('sha256').update(video).digest('hex');
  while (!stop.signal.aborted) {
    for (const job of service.queue.take('worker-1', 10)) {
      const { task_id, W, H, T, fps, seed } = job.input as JobInput;
      const output = await service.finish(task_id, job.id);
      const [made] = output.videos;
      const { key } = made!;
      await service.bucket.put(key, video);
      const size = { width: W, height: H, frames: T, fps, seconds: T / fps, bytes: video.length };
      const timings_ms = { sampling: 9_400, decoding: 2_600 };
      service.report(job.id, { output: { ...output, seed, timings_ms, videos: [{ ...made, ...size, sha256, seed }] } });
    }
    await service.queue.waitForChange(1000, stop.signal);
  }
}

/** The current folder of a page's examples: one may use the files of another. */
async function folderOf({ file }: Block): Promise<string> {
  const path = join(folder, file.replaceAll('/', '-'));
  const isNew = await mkdir(path, { recursive: true });
  if (isNew !== undefined) await symlink(join(folder, 'photo.jpg'), join(path, 'photo.jpg'));
  return path;
}

async function start(block: Block, env: Record<string, string> = {}): Promise<ChildProcess> {
  const { language, code } = block;
  const here = code.replaceAll(SERVICE, service.url);
  const [program, ...args] = {
    bash: ['bash', '-euo', 'pipefail', '-c', here],
    python: [pythonOf(code), '-c', here],
    js: ['node', '--input-type=module', '-e', here],
    ts: ['node', '--import', TSX, 'example.mts'],
  }[language]!;
  return spawn(program!, args, {
    cwd: await folderOf(block),
    env: {
      PATH: `${join(folder, 'bin')}:${PATH}`,
      REAL_PATH: PATH,
      IMG2VID_URL: service.url,
      IMG2VID_API_KEY: '',
      ...env,
    },
  });
}

/** Runs an operator's commands in the checkout, with an own database. ID becomes the id of a key in it. */
async function startOperator({ code }: Block): Promise<ChildProcess> {
  const DATA_DIR = await mkdtemp(join(folder, 'operator-'));
  let id = '';
  if (/\bID\b/.test(code)) {
    const store = await openStore(databaseUrl({ DATA_DIR }));
    ({ id } = await makeKey(store));
    await store.close();
  }
  const args = ['-euo', 'pipefail', '-c', code.replace(/\bID\b/g, id)];
  const env = { PATH: `${join(folder, 'operator-bin')}:${PATH}`, REAL_PATH: PATH, DATA_DIR, DATABASE_URL: '' }; // wins over a developer’s .env
  return spawn('bash', args, { cwd: ROOT, env });
}

async function run(block: Block) {
  if (block.language === 'ts')
    await writeFile(join(await folderOf(block), 'example.mts'), block.code.replaceAll(SERVICE, service.url));
  const child = await (block.kind === 'operator' ? startOperator(block) : start(block));
  let [out, err] = ['', ''];
  child.stdout!.on('data', (text) => (out += text));
  child.stderr!.on('data', (text) => (err += text));
  const [code] = await once(child, 'close');
  return { code, out: out.replaceAll(service.url, SERVICE), err };
}

const PROGRAMS: Record<string, string> = { bash: 'bash', python: 'python3' };
const missing = [...new Set(Object.values(PROGRAMS))].filter((program) => !hasProgram(program));
if (!hasProgram('curl')) missing.push('curl');
if (missing.length > 0) console.warn(`examples are skipped: there is no ${missing.join(', no ')}`);
const absent = Object.keys(PYTHONS).filter(
  (name) => spawnSync(pythonOf(`import ${name}`), ['-c', `import ${name}`]).status,
);
const lacks = ({ language, code }: Block) =>
  missing.some((program) => program === PROGRAMS[language] || (program === 'curl' && /\bcurl\b/.test(code))) ||
  (language === 'python' && absent.includes(packageOf(code) ?? ''));

/** The value in which `…` within a string stands for any text, and a field `…` for any further fields. */
function withGaps(value: unknown): unknown {
  if (typeof value === 'string' && value.includes('…'))
    return expect.stringMatching(new RegExp(`^${value.split('…').map(escaped).join('.*')}$`, 's'));
  if (Array.isArray(value)) return value.map(withGaps);
  if (typeof value !== 'object' || value === null) return value;
  const { '…': further, ...shown } = value as Record<string, unknown>;
  const fields = Object.fromEntries(Object.entries(shown).map(([name, inner]) => [name, withGaps(inner)]));
  return further === undefined ? fields : expect.objectContaining(fields);
}
const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

const nameOf = ({ file, line, language, kind, code }: Block) =>
  `${file}:${line}, ${language}${kind && ` ${kind}`}: ${code.split('\n')[0]!.slice(0, 60)}`;

/** Schemas of the OpenAPI document by the kind of a JSON block. */
const SCHEMAS: Record<string, string> = {
  task: 'Task',
  webhook: 'Event',
  dry_run: 'DryRun',
  usage: 'Usage',
  delivery: 'Delivery',
};

describe('every example works', () => {
  for (const [i, block] of BLOCKS.entries()) {
    if (!['bash', 'js', 'ts', 'python'].includes(block.language) || !['', 'refused', 'operator'].includes(block.kind))
      continue;
    const next = BLOCKS[i + 1];
    const answer = next?.file === block.file && next.kind === 'answer' ? next : undefined;
    test.skipIf(lacks(block))(`${nameOf(block)}${lacks(block) ? ' (skipped)' : ''}`, async () => {
      const { code, out, err } = await run(block);
      if (block.kind === 'refused') expect([code !== 0, answer !== undefined]).toEqual([true, true]);
      else expect(code, out + err).toBe(0);
      if (answer) expect(JSON.parse(out)).toEqual(withGaps(JSON.parse(answer.code)));
      else if (/prefer: wait|text\/event-stream|task\.videos/.test(block.code)) expect(out).toMatch(/succeeded/);
    });
  }

  test('shown JSON is what the service’s OpenAPI document describes', async () => {
    const { components } = await (await fetch(`${service.url}/openapi.json`)).json();
    for (const block of BLOCKS) {
      const name = block.language === 'json' && SCHEMAS[block.kind];
      if (!name) continue;
      const schema = JSON.parse(JSON.stringify({ $ref: `#/components/schemas/${name}`, components }), (key, value) => {
        if (block.code.includes('…') && (key === 'format' || key === 'pattern')) return;
        return value?.properties ? { ...value, additionalProperties: false } : value;
      });
      expect(new Validator(schema, '2020-12', false).validate(JSON.parse(block.code)).errors, nameOf(block)).toEqual(
        [],
      );
    }
  });

  test('commands that are only shown name existing scripts and roles', async () => {
    const { scripts } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'));
    for (const block of BLOCKS.filter(({ kind, language }) => kind === 'shown' && language === 'bash')) {
      const commands = block.code.replace(/\\\n/g, ' ');
      for (const [, script] of commands.matchAll(/\bnpm run ([\w-]+)/g))
        expect(scripts, nameOf(block)).toHaveProperty(script!);
      for (const [, word] of commands.matchAll(/\bdocker run .*[ /]img2vid(?::[\w.]+)? +(\w+)/g))
        expect({ ...ROLES, ...TOOLS }, nameOf(block)).toHaveProperty(word!);
    }
  });

  test('the receiver accepts only events that the service has signed', async () => {
    const [block] = BLOCKS.filter(({ kind }) => kind === 'receiver');
    const port = await freePort();
    const code = block!.code.replace('8000', `${port}, '127.0.0.1', () => console.log('listening')`);
    await writeFile(join(await folderOf(block!), 'example.mts'), code);
    const child = await start(block!, { WEBHOOK_SECRET });
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    expect((await lines.next()).value).toBe('listening');
    const body = JSON.stringify({
      type: 'task.succeeded',
      timestamp: 'now',
      data: { videos: [{ link: 'https://a/b.mp4' }] },
    });
    const post = (secret: string) => {
      const [id, at] = [randomUUID(), new Date()];
      const headers = {
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
        'webhook-signature': new Webhook(secret).sign(id, at, body),
      };
      return fetch(`http://127.0.0.1:${port}`, { method: 'POST', headers, body });
    };
    expect((await post(`whsec_${Buffer.alloc(32).toString('base64')}`)).status).toBe(400);
    expect((await post(WEBHOOK_SECRET)).status).toBe(204);
    expect((await lines.next()).value).toBe('https://a/b.mp4');
    child.kill('SIGKILL');
    await once(child, 'close');
  });

  test('examples in TypeScript compile', async () => {
    const typed = BLOCKS.filter(({ language, kind }) => language === 'ts' && kind !== 'shown');
    await Promise.all(typed.map(({ code }, i) => writeFile(join(folder, `typed-${i}.mts`), code)));
    const strict = { strict: true, noEmit: true, skipLibCheck: true, allowImportingTsExtensions: true };
    const modern = { target: 'ES2023', lib: ['ES2024', 'DOM'], module: 'NodeNext' };
    const compilerOptions = { ...strict, ...modern, types: ['node'], typeRoots: [join(ROOT, 'node_modules/@types')] };
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['typed-*.mts'] }));
    const child = spawn(join(ROOT, 'node_modules/.bin/tsc'), ['-p', folder]);
    let output = '';
    child.stdout.on('data', (text) => (output += text));
    const [code] = await once(child, 'close');
    expect([code, output]).toEqual([0, '']);
    expect(typed.length).toBeGreaterThan(2);
  });

  test('every block is of a kind that a test knows', () => {
    const known = [
      ...['bash', 'js', 'ts', 'python', 'bash refused', 'bash operator', 'bash shown'],
      ...['json answer', ...Object.keys(SCHEMAS).map((kind) => `json ${kind}`), 'text', 'yaml', 'nginx'],
      ...['ts receiver', 'ts shown', 'python shown', 'go shown'], // receivers.test.ts
      ...['bash backup', 'bash restore'], // backup.test.ts
    ];
    const drawn = (file: string) => ['README.md', 'docs/contributing.md'].includes(file); // by GitHub, not by the service
    const unknown = BLOCKS.filter(({ file, language, kind }) => {
      const name = `${language} ${kind}`.trim();
      return !known.includes(name) && !(name === 'mermaid' && drawn(file));
    });
    expect(unknown.map(nameOf)).toEqual([]);
    expect(BLOCKS.length).toBeGreaterThan(15);
  });
});
