import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { createServer, get } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { PresentedTask } from '../../core/responses.ts';
import { MINUTE } from '../../core/time.ts';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { REPOSITORIES } from '../../handler/models/weights.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { startHub } from '../../infra/simulators/hub-server.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PASTE = await readFile(join(ROOT, 'commands.txt'), 'utf8');
/** The script that bash runs, in a pod as process 1. */
const SCRIPT = /^bash -c '([^']+)'\n$/.exec(PASTE)?.[1] ?? '';
/** As it comes out of a form field of one line. */
const JOINED = SCRIPT.replaceAll('\n', '');
const A_KEY = /i2v_[\w-]+/g;

const works = (program: string, ...args: string[]) => spawnSync(program, args).status === 0;

describe('the paste', () => {
  test('is one command without an inner quote, also where its lines are joined', () => {
    expect(SCRIPT).not.toBe('');
    for (const script of [SCRIPT, JOINED])
      expect(spawnSync('bash', ['-n', '-c', script], { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
  });

  test.each([
    [{}, /^APP_REPO is needed: the git URL .*\n$/],
    [{ APP_REPO: '', APP_TAG: 'v1' }, /^APP_REPO is needed: .*\n$/],
    [{ APP_REPO: 'file:///srv/repo.git' }, /^APP_TAG is needed: .*\n$/],
  ])('exits with one line and changes nothing if the repository or the tag is missing: %o', (env, line) => {
    const { status, stdout, stderr } = spawnSync('bash', ['--norc', '-c', SCRIPT], { env, encoding: 'utf8' });
    expect([status, stdout, stderr]).toEqual([1, '', expect.stringMatching(line)]);
  });

  const hasShellcheck = works('shellcheck', '--version');
  if (!hasShellcheck) console.warn('skipped: the lint of commands.txt, for there is no shellcheck');
  test.skipIf(!hasShellcheck)('passes shellcheck', () => {
    const lint = { input: SCRIPT, encoding: 'utf8' } as const;
    expect(spawnSync('shellcheck', ['--shell=bash', '-'], lint).stdout).toBe('');
  });
});

const canBeRoot = works('unshare', '--mount', '--pid', '--fork', 'true') && works('debootstrap', '--version');
if (!canBeRoot) console.warn('skipped: a pod from commands.txt, for that wants Linux, root and debootstrap');

/** A plain Debian with its own process tree and file system, like a container. */
describe.skipIf(!canBeRoot)('a pod', () => {
  let folder: string;
  let root: string;
  let port: number;
  let url: string; // only a service that listens at all addresses can be reached here
  let npmCache: string;
  const pods = new Set<Pod>();

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'pod-'));
    root = join(folder, 'root');
    const { status, stderr } = spawnSync('test/support/rootfs.sh', [root], { cwd: ROOT, encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    await cp('/etc/resolv.conf', join(root, 'etc/resolv.conf'), { dereference: true });
    for (const path of ['root/.npm', 'srv/bin', 'workspace']) await mkdir(join(root, path), { recursive: true });
    const version = /nodejs\.org\/dist\/v([\d.]+)/.exec(SCRIPT)![1]!;
    const made = spawnSync('test/support/node.sh', [version], { cwd: ROOT, encoding: 'utf8' });
    expect(made.status, made.stderr).toBe(0);
    await cp(made.stdout.trim(), join(root, 'srv/node'), { recursive: true });
    npmCache = spawnSync('npm', ['config', 'get', 'cache'], { encoding: 'utf8' }).stdout.trim();
    port = await freePort();
    url = `http://127.0.0.2:${port}`;
    git('init', '--quiet', '--bare');
    git('add', '--all');
    git('commit', '--quiet', '--message', 'as it lies here');
    git('tag', 'v1');
  }, 5 * MINUTE);
  afterEach(() => {
    for (const pod of pods) pod.kill();
  });
  afterAll(async () => {
    await Promise.all([...pods].map(({ exited }) => exited));
    await rm(folder, { recursive: true, force: true });
  });

  /** The repository that the pod fetches from, with this checkout as its files. */
  function git(...args: string[]) {
    const who = ['-c', 'user.name=a test', '-c', 'user.email=test@example.com'];
    const where = [`--git-dir=${root}/srv/repo.git`, ...(args[0] === 'init' ? [] : [`--work-tree=${ROOT}`])];
    const { status, stdout, stderr } = spawnSync('git', [...who, ...where, ...args], { cwd: ROOT, encoding: 'utf8' });
    expect(status, stderr).toBe(0);
    return stdout;
  }

  type Pod = ReturnType<typeof start>;
  function start(env: Record<string, string> = {}, script = JOINED) {
    // The machine's npm cache saves downloads; it is mounted for this process tree only.
    const enter =
      'mount --bind "$1" "$2/root/.npm" && exec unshare --pid --fork --kill-child=KILL --root="$2" --mount-proc /bin/bash -c "$3"';
    const child = spawn(
      'setpriv',
      ['--pdeathsig=KILL', 'unshare', '--mount', 'bash', '-c', enter, 'pod', npmCache, root, script],
      {
        env: {
          ...machine(),
          PATH: '/srv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
          HOME: '/root',
          RUNPOD_POD_ID: 'abc123',
          PORT: String(port),
          APP_REPO: 'file:///srv/repo.git',
          APP_TAG: 'v1',
          NODE_URL: 'file:///srv/node',
          ...env,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    const closed = once(child, 'close').then(([code]) => code as number);
    const pod = {
      exited: closed.finally(() => pods.delete(pod)),
      output: () => output,
      hasPrinted: (text: string) =>
        Promise.race([
          vi.waitFor(() => expect(output).toContain(text), { timeout: 5 * MINUTE }),
          closed.then((code) => expect.unreachable(`it ended with ${code}:\n${output}`)),
        ]),
      listens: () => pod.hasPrinted(`listening at https://abc123-${port}.proxy.runpod.net,`),
      /** of the pod's process 1 */
      pid: () => childrenOf(child.pid!)[0]!,
      stop() {
        process.kill(pod.pid(), 'SIGTERM');
        return pod.exited;
      },
      kill: () => end(child),
    };
    pods.add(pod);
    return pod;
  }

  async function post(key: string): Promise<PresentedTask> {
    const form = new FormData();
    form.set('image', new Blob([await readFile(join(ROOT, 'assets/coffee.png'))]));
    for (const [name, value] of Object.entries({ H: 64, W: 64, T: 2, steps: 1 })) form.set(name, String(value));
    const headers = { authorization: `Bearer ${key}`, prefer: 'wait=60' };
    const answer = await fetch(`${url}/img2vid`, { method: 'POST', headers, body: form });
    const task = await answer.json();
    expect(task).toMatchObject({ status: 'succeeded' });
    return task;
  }
  const ask = (path: string, key: string) => fetch(url + path, { headers: { authorization: `Bearer ${key}` } });

  let key: string;
  const made: string[] = []; // ids of tasks

  test(
    'continues after being killed while it fetches the code or the packages',
    async () => {
      const first = start({}, SCRIPT);
      await first.hasPrinted('fetching the code');
      first.kill();
      await first.exited;
      const app = join(root, 'workspace/img2vid/app');
      const second = start();
      await second.hasPrinted('installing packages');
      await vi.waitFor(() => expect(readdirSync(join(app, 'node_modules'))).not.toEqual([]), MINUTE);
      second.kill();
      await second.exited;
      expect(existsSync(join(app, 'node_modules/.package-lock.json'))).toBe(false);
    },
    5 * MINUTE,
  );

  test(
    'starts from nothing, prints the first key, makes a clip, survives crashes, and stops cleanly',
    async () => {
      const pod = start();
      await pod.listens();
      const keys = pod.output().match(A_KEY);
      expect(keys).toHaveLength(1);
      key = keys![0];
      const task = await post(key);
      made.unshift(task.id);
      const { link, bytes } = task.videos![0]!;
      const origin = `https://abc123-${port}.proxy.runpod.net`;
      expect(link.startsWith(`${origin}/files/`), link).toBe(true);
      expect((await (await fetch(link.replace(origin, url))).arrayBuffer()).byteLength).toBe(bytes);
      expect(await heads(`${origin}/`)).toBe(200); // the Host header has the proxy's name
      await vi.waitFor(async () =>
        // the queue reached the API, though the pod's public URL does not exist here
        expect(await (await ask('/metrics', key)).text()).toMatch(
          /http_requests_total\{method="POST",route="\/runpod\/callback\/:token",status="200"\} 1/,
        ),
      );

      for (const pid of childrenOf(pod.pid())) process.kill(pid, 'SIGKILL');
      await pod.hasPrinted('worker: ended with SIGKILL; restarting in');
      await vi.waitFor(() => ask('/readyz', key), MINUTE);
      made.unshift((await post(key)).id);
      expect(await pod.stop()).toBe(0);
      expect(pod.output()).toContain('"stopped"');
    },
    5 * MINUTE,
  );

  test(
    'starts again from its volume without any download, and still has its tasks',
    async () => {
      await rename(join(root, 'srv/repo.git'), join(root, 'srv/away.git'));
      const pod = start({ npm_config_registry: 'http://127.0.0.1:9' }, SCRIPT);
      await pod.listens();
      expect(pod.output()).not.toMatch(/fetching|installing|i2v_/);
      expect(((await (await ask('/status', key)).json()) as PresentedTask[]).map(({ id }) => id)).toEqual(made);
      expect(await pod.stop()).toBe(0);
      await rename(join(root, 'srv/away.git'), join(root, 'srv/repo.git'));
    },
    5 * MINUTE,
  );

  test(
    'switches to another tag, installs packages only if they differ, and downloads weights once',
    async () => {
      const readme = git('rev-parse', 'v1:README.md').trim();
      git('rm', '--quiet', '--cached', 'README.md');
      git('update-index', '--add', '--cacheinfo', `100644,${readme},new/READ.md`);
      git('commit', '--quiet', '--message', 'the next');
      git('tag', 'v2');
      await writeFile(join(root, 'dev/nvidiactl'), ''); // as if there were a GPU, which DEVICE=cpu leaves alone
      const hub = await startHub({ repository: REPOSITORIES.svd, folder: SMALL_SVD });
      const env = {
        APP_TAG: 'v2',
        MODEL: 'svd',
        DEVICE: 'cpu',
        HF_ENDPOINT: hub.url,
        npm_config_registry: 'http://127.0.0.1:9',
      };
      const first = start(env);
      await first.listens();
      const app = join(root, 'workspace/img2vid/app');
      expect([existsSync(join(app, 'README.md')), existsSync(join(app, 'new/READ.md'))]).toEqual([false, true]);
      expect(first.output()).toContain('"weights":"Hugging Face cache","folder":"/workspace/img2vid/huggingface/hub/');
      expect(await first.stop()).toBe(0);
      expect(hub.requests.length).toBeGreaterThan(0);
      await hub.close();
      const taken = createServer().listen(port);
      const second = start(env);
      expect(await second.exited).toBe(1);
      expect(second.output()).toMatch(new RegExp(`^api: PORT ${port} is already in use\n`, 'm')); // and no download
      expect(second.output()).not.toMatch(/fetching|reached/);
      taken.close();
    },
    5 * MINUTE,
  );

  test.each([
    ['a tag that is not there', { APP_TAG: 'v9' }, 128, /fatal: couldn't find remote ref v9\n$/],
    ['a wrong variable', { LINK_SECONDS: 'long' }, 1, /\nLINK_SECONDS must be a whole number from 1 to 604800\n$/],
    ['an unknown model', { MODEL: 'svd_xxl' }, 1, /\nMODEL must be one of camera, .*\n$/],
    [
      'a folder without weights',
      { MODEL: 'svd', DEVICE: 'cpu', MODEL_DIR: '/srv' },
      1,
      /\nMODEL_DIR \/srv lacks .*\n$/,
    ],
  ])(
    'prints in its last line what is wrong: %s',
    async (_, env, code, line) => {
      const pod = start(env);
      expect(await pod.exited).toBe(code);
      expect(`\n${pod.output()}`).toMatch(line);
    },
    5 * MINUTE,
  );

  test(
    'neither prints nor stores a token in the repository’s URL',
    async () => {
      const server = createServer((_, response) => response.writeHead(401, { 'www-authenticate': 'Basic' }).end());
      await once(server.listen(0, '127.0.0.1'), 'listening');
      const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
      const token = randomBytes(16).toString('hex'); // this file is in the repository, too
      for (const user of [token, `x-access-token:${token}`]) {
        const pod = start({ APP_REPO: `http://${user}@${host}/repo.git` });
        expect(await pod.exited).toBe(128);
        expect(pod.output()).toMatch(new RegExp(`fatal: .*http://${host}`));
        expect(pod.output()).not.toContain(token);
      }
      server.close();
      expect(works('grep', '-r', token, join(root, 'workspace'))).toBe(false);
    },
    5 * MINUTE,
  );

  test(
    'installs CUDA where there is a GPU, and does not start without it',
    async () => {
      await writeFile(join(root, 'dev/nvidiactl'), '');
      const python = '#!/bin/sh\ncase "$*" in *--version) ;; *) echo "there is no index" >&2; exit 1 ;; esac\n';
      await writeFile(join(root, 'srv/bin/python3'), python, { mode: 0o755 });
      const pod = start({ MODEL: 'svd' });
      expect(await pod.exited).toBe(1);
      expect(pod.output()).toMatch(
        /fetching nvidia_cuda_runtime .*\nthere is no index\npip could not fetch nvidia_cuda_runtime/,
      );
    },
    5 * MINUTE,
  );

  const heads = (address: string) => {
    const { host, pathname } = new URL(address);
    return new Promise((resolve, reject) => {
      get(url + pathname, { headers: { host } }, (response) => resolve(response.resume().statusCode)).on(
        'error',
        reject,
      );
    });
  };
});

/** Variables that tell npm how to fetch packages on this machine, and which certificates to trust. */
function machine(): Record<string, string> {
  const registry = spawnSync('npm', ['config', 'get', 'registry'], { encoding: 'utf8' }).stdout.trim();
  const proxies = Object.entries(process.env).filter(([name]) => /^(https?|no)_proxy$/i.test(name));
  return {
    ...(Object.fromEntries(proxies) as Record<string, string>),
    npm_config_registry: registry,
    NODE_EXTRA_CA_CERTS: '/etc/ssl/certs/ca-certificates.crt',
  };
}

const childrenOf = (pid: number) =>
  spawnSync('cat', [`/proc/${pid}/task/${pid}/children`], { encoding: 'utf8' })
    .stdout.trim()
    .split(' ')
    .map(Number);

/** Ends all processes of a pod at once. */
function end(child: ChildProcess) {
  child.kill('SIGKILL');
}
