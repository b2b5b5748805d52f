import { execFile, execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, chown, cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Hono } from 'hono';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { PresentedTask } from '../../core/responses.ts';
import { MINUTE } from '../../core/time.ts';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { cacheName, REPOSITORIES } from '../../handler/models/weights.ts';
import { readMp4 } from '../../handler/video/mp4.ts';
import { listen } from '../../test/support/test-api.ts';
import { freePort } from '../run/free-port.ts';
import { isProgram } from '../run/programs.ts';
import { startHub } from '../simulators/hub-server.ts';
import { queueServer } from '../simulators/runpod-queue-server.ts';

// buildah builds the image and podman runs it, both without a daemon; .ci/run installs them.

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const USER = 1000;
const NODE = process.env.NODE_24;
const LINTERS = process.env.LINT_PYTHON && dirname(process.env.LINT_PYTHON);
const TOOLS = ['debootstrap', 'buildah', 'podman', 'runc', 'conmon'];

const inPath = (name: string) =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => isProgram(join(folder, name)));
const lacking = [
  ...(process.getuid?.() === 0 ? [] : ['root']),
  ...TOOLS.filter((name) => !inPath(name)),
  ...(NODE ? [] : ['NODE_24']),
];
const skipped = lacking.length > 0 ? ` (no ${lacking.join(', no ')}: skipped)` : '';
if (skipped) console.warn(`no ${lacking.join(', no ')}: the image is not built`);

const run = promisify(execFile);
let folder: string;
/** Options that say where images and containers are stored. */
let storage: string[];
/** Of this run alone, for others may use the same storage. */
const IMAGE = `localhost/img2vid-${process.pid}`;

/** @throws with the whole output */
async function buildah(...args: string[]): Promise<string> {
  const { stdout } = await run('buildah', [...storage, ...args], { cwd: ROOT, maxBuffer: 1 << 26 });
  return stdout.trim();
}

async function podman(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const engine = [...storage, '--runtime', 'runc', '--cgroup-manager', 'cgroupfs'];
  const without = (text: string) => text.replace(/^time=.*systemd.*\n/gm, ''); // it would like to have it for health checks
  return run('podman', [...engine, ...args], { timeout: 2 * MINUTE }).then(
    ({ stdout, stderr }) => ({ code: 0, out: stdout, err: without(stderr) }),
    ({ code, stdout, stderr }) => ({ code, out: stdout, err: without(stderr) }),
  );
}

/**
 * Makes the Dockerfile's base image, Debian with Node. It trusts this machine's certificate authorities and uses its package indexes,
 * none of which is in the Dockerfile.
 */
async function makeBase() {
  const container = await buildah('from', 'scratch');
  const root = await buildah('mount', container);
  await run(join(ROOT, 'test/support/rootfs.sh'), [root]);
  const local = join(root, 'usr/local');
  await cp(NODE!, join(local, 'bin/node'));
  await chmod(join(local, 'bin/node'), 0o755);
  const npm = (await run('npm', ['root', '--global'])).stdout.trim();
  await cp(join(npm, 'npm'), join(local, 'lib/node_modules/npm'), { recursive: true });
  await symlink('../lib/node_modules/npm/bin/npm-cli.js', join(local, 'bin/npm'));
  const registry = (await run('npm', ['config', 'get', 'registry'])).stdout;
  await mkdir(join(local, 'etc'), { recursive: true });
  await writeFile(join(local, 'etc/npmrc'), `registry=${registry}`);
  const authorities = '/etc/ssl/certs/ca-certificates.crt';
  const env = { NODE_EXTRA_CA_CERTS: authorities, PIP_CERT: authorities, PIP_INDEX_URL: process.env.PIP_INDEX_URL };
  const flags = Object.entries(env).flatMap(([name, value]) => (value ? ['--env', `${name}=${value}`] : []));
  await buildah('config', ...flags, container);
  await buildah('commit', '--quiet', '--rm', container, 'localhost/base');
}

const BUILD = [
  'bud',
  '--layers',
  '--force-rm', // else a container of the last stage remains where its layers were kept
  '--format=docker',
  '--isolation=chroot',
  '--jobs=2',
  '--build-arg=BASE=localhost/base',
];
const build = (...args: string[]) => buildah(...BUILD, ...args, '.');

describe.skipIf(!LINTERS)(`linters${LINTERS ? '' : ' (no LINT_PYTHON: skipped)'}`, () => {
  const complaints = (linter: string, ...files: string[]) =>
    run(join(LINTERS!, linter), files, { cwd: ROOT }).then(
      () => '',
      ({ stdout, message }) => stdout || message,
    );

  test('hadolint finds no fault in the Dockerfile', async () => {
    expect(await complaints('hadolint', 'Dockerfile')).toBe('');
  });

  test('shellcheck finds no fault in the scripts', async () => {
    const scripts = execFileSync('git', ['ls-files', '*.sh', '.ci/run'], { cwd: ROOT, encoding: 'utf8' });
    expect(await complaints('shellcheck', ...scripts.trim().split('\n'))).toBe('');
  });
});

describe.skipIf(skipped)(`the image${skipped}`, { timeout: 10 * MINUTE }, () => {
  let cleanUps: (() => unknown)[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'image-'));
    const place = process.env.IMAGE_STORAGE || folder; // a named storage is kept for the next run
    storage = ['--root', join(place, 'images'), '--runroot', join(place, 'run'), '--storage-driver', 'overlay'];
    if (!(await buildah('images', '--quiet', '--filter=reference=localhost/base'))) await makeBase();
    await build('--build-arg=CUDA=0', `--tag=${IMAGE}`);
  }, 10 * MINUTE);
  afterAll(async () => {
    if (process.env.IMAGE_STORAGE) await podman('untag', IMAGE);
    else await buildah('rmi', '--all', '--force');
    await rm(folder, { recursive: true, force: true });
  }, MINUTE);
  afterEach(async () => {
    for (const cleanUp of cleanUps.reverse()) await cleanUp();
    cleanUps = [];
  }, MINUTE);

  /** A folder of this machine that the image's user can write. */
  async function volume(): Promise<string> {
    const path = await mkdtemp(join(folder, 'volume-'));
    await chown(path, USER, USER);
    return path;
  }

  const options = (env: Record<string, string>, volumes: Record<string, string>) => [
    '--network=host',
    '--read-only',
    '--tmpfs=/tmp',
    '--cap-drop=all',
    '--security-opt=no-new-privileges',
    '--health-interval=disable', // no timer; it is asked here
    ...['--ulimit=nofile=1024:1024', '--ulimit=nproc=4096:4096'], // podman's own are more than some machines allow
    ...Object.entries(env).map(([name, value]) => `--env=${name}=${value}`),
    ...Object.entries(volumes).map(([inside, path]) => `--volume=${path}:${inside}`),
  ];

  /** Runs a container until it ends. */
  const once = (args: string[], env: Record<string, string> = {}, volumes: Record<string, string> = {}) =>
    podman('run', '--rm', ...options(env, volumes), IMAGE, ...args);

  async function start(args: string[], env: Record<string, string>, volumes: Record<string, string>) {
    const { code, out, err } = await podman('run', '--detach', ...options(env, volumes), IMAGE, ...args);
    expect(code, err).toBe(0);
    const id = out.trim();
    cleanUps.push(() => podman('rm', '--force', '--time=0', id));
    const inspect = async (format: string) => (await podman('inspect', '--format', format, id)).out.trim();
    const logs = () => podman('logs', id).then(({ out, err }) => out + err);
    return {
      id,
      inspect,
      logs,
      /** Waits for a log line. */
      said: (pattern: RegExp) =>
        vi.waitFor(
          async () => {
            const text = await logs();
            const match = pattern.exec(text);
            if (!match && (await inspect('{{.State.Running}}')) === 'false') throw new Error(`it has ended: ${text}`);
            expect(match, text).not.toBe(null);
            return match!;
          },
          { timeout: MINUTE, interval: 100 },
        ),
      health: async () => (await podman('healthcheck', 'run', id)).code,
      /** @returns the exit code, and the milliseconds until it ended */
      async stop() {
        const began = performance.now();
        await podman('stop', '--time=30', id);
        return { code: await inspect('{{.State.ExitCode}}'), ms: performance.now() - began };
      },
    };
  }

  const picture = new Blob([new Uint8Array(readFileSync(join(ROOT, 'assets/coffee.png')))]);

  /** Posts a picture, follows its task to the end, and fetches the MP4. */
  async function makeClip(url: string, key: string, fields: Record<string, string>) {
    const headers = { authorization: `Bearer ${key}` };
    const form = new FormData();
    form.append('image', picture);
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    const posted = await fetch(`${url}/img2vid`, { method: 'POST', body: form, headers });
    const { id } = (await posted.json()) as { id: string };
    expect(posted.status).toBe(202);
    const where = `${url}/status?id=${id}`;
    await (await fetch(where, { headers: { ...headers, accept: 'text/event-stream' } })).text();
    const task = (await (await fetch(where, { headers })).json()) as PresentedTask;
    expect(task.error).toBe(undefined);
    const path = join(folder, `${id}.mp4`);
    await writeFile(path, new Uint8Array(await (await fetch(task.videos![0]!.link)).arrayBuffer()));
    const frames = [];
    for await (const { width, height } of readMp4(path)) frames.push(`${width}×${height}`);
    return { task, frames };
  }

  test('the role all makes a clip from a picture without privileges, and stops cleanly', async () => {
    const port = await freePort();
    const data = await volume();
    const service = await start([], { PORT: String(port) }, { '/data': data });
    expect(await service.health()).toBe(1); // still starting
    const [key] = await service.said(/i2v_[\w-]+/);
    await service.said(/^listening at /m);
    const url = `http://127.0.0.1:${port}`;
    const { task, frames } = await makeClip(url, key, { H: '128', W: '192', T: '3' });
    expect(task).toMatchObject({ status: 'succeeded', model: 'camera' });
    expect(frames).toEqual(['192×128', '192×128', '192×128']);
    expect((await fetch(`${url}/`)).status).toBe(200); // the page's files are there
    expect(await service.health()).toBe(0);

    // A tool in another container, on the same data.
    const { code, out } = await once(['keys', 'create', '--name', 'Alice'], {}, { '/data': data });
    expect(code).toBe(0);
    const authorization = `Bearer ${/i2v_[\w-]+/.exec(out)![0]}`;
    expect((await fetch(`${url}/status`, { headers: { authorization } })).status).toBe(200);

    const processes = (await podman('top', service.id, 'user')).out.trim().split('\n').slice(1);
    expect(processes).toEqual([USER, USER, USER].map(String));
    const { code: ended, ms } = await service.stop();
    expect(ended).toBe('0');
    expect(ms).toBeLessThan(13_000);
    expect((await podman('diff', service.id)).out.trim()).toBe('C /etc'); // podman's own: resolv.conf and hosts
  });

  test('the roles api and worker work in two containers, and the worker downloads its weights to the network volume', async () => {
    const apiKey = 'runpod-key';
    const queue = queueServer({ apiKey });
    const far = await listen({ fetch: new Hono().route('/v2', queue.app).fetch });
    const hub = await startHub({ repository: REPOSITORIES.svd_xt, folder: SMALL_SVD });
    cleanUps.push(hub.close, far.close, queue.close);
    const [port, data, network] = [await freePort(), await volume(), await volume()];
    const worker = await start(
      [],
      {
        RUNPOD_WEBHOOK_GET_JOB: `${far.url}/v2/ep/job-take/$ID?gpu=none`,
        RUNPOD_WEBHOOK_POST_OUTPUT: `${far.url}/v2/ep/job-done/$RUNPOD_POD_ID/$ID?gpu=none`,
        RUNPOD_WEBHOOK_PING: `${far.url}/v2/ep/ping/$RUNPOD_POD_ID`,
        RUNPOD_AI_API_KEY: apiKey,
        RUNPOD_POD_ID: 'w1',
        HF_ENDPOINT: hub.url,
      },
      { '/data': data, '/runpod-volume': network },
    );
    const api = await start(
      ['api'],
      { PORT: String(port), RUNPOD_API_KEY: apiKey, RUNPOD_ENDPOINT_ID: 'ep', RUNPOD_BASE_URL: `${far.url}/v2` },
      { '/data': data },
    );
    await worker.said(/"serving"/);
    expect(await worker.health()).toBe(0);
    const [key] = await api.said(/i2v_[\w-]+/);
    await api.said(/"listening"/);
    expect(await api.health()).toBe(0);
    const { task, frames } = await makeClip(`http://127.0.0.1:${port}`, key, {
      H: '64',
      W: '64',
      T: '2',
      steps: '1',
    });
    expect(task).toMatchObject({ status: 'succeeded', model: 'svd_xt' });
    expect(frames).toEqual(['64×64', '64×64']);
    const cached = join(network, 'huggingface-cache/hub', cacheName(REPOSITORIES.svd_xt));
    expect(readdirSync(join(cached, 'snapshots'))).toEqual([hub.commit]);
    expect(await worker.logs()).not.toContain('ping'); // whose thread would be missing
    expect((await Promise.all([api.stop(), worker.stop()])).map(({ code }) => code)).toEqual(['0', '0']);
  });

  test('SIGTERM ends a container with 0 even while it starts', async () => {
    let isAsked = false;
    const silent = await listen({
      fetch: () => {
        isAsked = true;
        return new Promise<Response>(() => {});
      },
    });
    cleanUps.push(silent.close);
    const data = await volume();
    for (const [role, env] of [
      ['all', { PORT: String(await freePort()) }],
      ['worker', { MODEL: 'svd', HF_ENDPOINT: silent.url }],
    ] as const) {
      const service = await start([role], env, { '/data': data });
      // Node, as the first process, loses a signal that comes before its listeners. They are there once it works.
      const pid = await service.inspect('{{.State.Pid}}');
      const hasChildren = () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8') !== '';
      await vi.waitFor(() => expect(role === 'all' ? hasChildren() : isAsked).toBe(true), { timeout: MINUTE });
      const { code, ms } = await service.stop();
      expect(code, await service.logs()).toBe('0');
      expect(ms).toBeLessThan(13_000);
      expect(await service.logs()).not.toContain('listening');
    }
  });

  test('an unknown role and a wrong MODEL_DIR are reported in one line', async () => {
    expect(await once(['constructor'])).toMatchObject({
      code: 1,
      out: '',
      err: 'constructor: must be a role (all, api, worker) or a tool (keys, bucket, models, device)\n',
    });
    const there = { '/data': await volume() };
    const { code, err } = await once(['worker'], { MODEL_DIR: '/nowhere' }, there);
    expect({ code, err }).toEqual({ code: 1, err: 'worker: MODEL_DIR /nowhere is not there\n' });
  });

  /** A new container of an image. @returns its file system's root on this machine */
  async function mount(image: string): Promise<string> {
    const container = await buildah('from', image);
    cleanUps.push(() => buildah('rm', container));
    return buildah('mount', container);
  }

  // The image that is run is built without, for its two gigabytes would only be copied about; the stage is the same.
  test('the CUDA stage has every library that CUDA needs, except for the driver', async () => {
    // The build fails if a library lacks what it needs.
    const stage = await build('--quiet', '--build-arg=CUDA=1', '--target=cuda');
    const installed = readdirSync(join(await mount(stage), 'cuda'), { recursive: true, encoding: 'utf8' });
    expect(installed.filter((path) => /\.so(\.|$)/.test(path))).toHaveLength(18);
  });

  test('the image contains what it runs, and nothing else', async () => {
    const root = await mount(IMAGE);
    const app = join(root, 'app');
    const paths = readdirSync(app, { recursive: true, encoding: 'utf8' });
    expect(readdirSync(app).sort()).toEqual(['dist', 'node_modules', 'package.json']);
    const small = 'dist/handler/models/testdata/small-svd'; // by which a device is verified
    const others = paths.filter((path) => !path.startsWith(small) && path !== dirname(small));
    expect(
      others.filter((path) =>
        /^dist\/(.*\/)?(test|testdata|bench|soak|e2e)(\/|$)|^dist\/.*(\.test\.|\.ts$)/.test(path),
      ),
    ).toEqual([]);
    expect(others.filter((path) => /\.(safetensors|onnx|env|pem|dll|dylib|map|whl)$|^\.env/.test(path))).toEqual([]);
    const check = `import { checkDevice } from '${app}/dist/handler/models/svd/self-check.js';
      await checkDevice({ device: 'cpu', name: 'processor' });`;
    await run(NODE!, ['--input-type=module', '-e', check]);
    expect((await run('find', [join(root, 'usr/lib'), '-name', 'libvulkan.so.1'])).stdout).not.toBe('');
    expect(paths.filter((path) => /(darwin|win32|arm64|musl)[^/]*\/?.*\.node$/.test(path))).toEqual([]);
    for (const name of ['tsx', 'esbuild', 'typescript', 'vitest', '@biomejs', 'playwright-core'])
      expect(existsSync(join(app, 'node_modules', name)), name).toBe(false);
    expect(inPathOf(root, 'python3')).toBe(false);
    expect((await run('find', [root, '-xdev', '-user', String(USER)])).stdout.trim()).toBe(join(root, 'data'));
    const megabytes = async (path: string) => Number((await run('du', ['-smx', path])).stdout.split('\t')[0]);
    const [all, ours] = [await megabytes(root), await megabytes(app)];
    console.log(`the image without CUDA: ${all} MB, of which ${ours} MB are not Debian or Node`);
    expect(ours).toBeLessThan(400);
  });
});

const inPathOf = (root: string, name: string) =>
  ['bin', 'usr/bin', 'usr/local/bin'].some((folder) => existsSync(join(root, folder, name)));
