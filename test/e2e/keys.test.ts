import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { KEY_CACHE_TTL } from '../../api/keys/access.ts';
import { openStore } from '../../api/store/store.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { hasPostgres, type LocalPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { queueServer } from '../../infra/simulators/runpod-queue-server.ts';
import { main } from '../../infra/tools/keys.ts';
import { startApi } from '../support/api-process.ts';
import { programArgs } from '../support/programs.ts';
import { listen, type TestService, testService } from '../support/test-api.ts';

vi.setConfig({ testTimeout: 60_000 }); // each starts several processes

const RUNPOD_KEY = 'test-key';
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const A_KEY = /i2v_[\da-f]{16}_[\w-]{43}/g;
const WIDE = { HOST: '0.0.0.0' };

let folder: string;
let queue: ReturnType<typeof queueServer>;
let runpodServer: Awaited<ReturnType<typeof listen>>;
const running: Api[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'keys-'));
  queue = queueServer({ apiKey: RUNPOD_KEY, pollTimeout: 100, workerTimeout: Infinity });
  runpodServer = await listen(queue.app);
});
afterEach(async () => {
  await Promise.all(running.splice(0).map((api) => api.stop()));
  queue.close();
  await runpodServer.close();
  await rm(folder, { recursive: true, force: true });
});

interface Api {
  /** with this key, if any */
  ask(path: string, key?: string, init?: RequestInit): Promise<Response>;
  /** @returns all that it has written to its stdout */
  stop(): Promise<string>;
}

async function start(env: Record<string, string> = {}): Promise<Api> {
  const runpod = { url: runpodServer.url, apiKey: RUNPOD_KEY };
  const { url, child, exited } = await startApi({ dataDir: folder, runpod, env, stdout: 'pipe' });
  const written = text(child.stdout!);
  const api: Api = {
    ask: (path, key, init = {}) =>
      fetch(`${url}${path}`, { ...init, headers: { ...init.headers, ...(key && { authorization: `Bearer ${key}` }) } }),
    async stop() {
      child.kill('SIGTERM');
      await exited;
      return written;
    },
  };
  running.push(api);
  return api;
}

interface Outcome {
  out: string;
  err: string;
  status: number;
}

/** `npm run keys` as a process of its own, without npm. */
async function keysProcess(...args: string[]): Promise<Outcome> {
  const env = { PATH: process.env.PATH, DATA_DIR: folder };
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [...programArgs('infra/tools/keys.ts'), ...args],
      { cwd: ROOT, env },
      (_, out, err) => resolve({ out, err, status: child.exitCode! }),
    );
  });
}

/** `npm run keys` in this process. */
async function keys(dataDir: string, ...args: string[]): Promise<Outcome> {
  const [out, err]: string[][] = [[], []];
  const io = { out: { write: (part: string) => out!.push(part) }, err: { write: (part: string) => err!.push(part) } };
  const status = await main(args, { env: { DATA_DIR: dataDir }, ...io });
  return { out: out!.join(''), err: err!.join(''), status };
}

/** Id and key in the output of `keys create`. */
function readKey({ out, err }: Outcome): { id: string; key: string } {
  expect(err).toBe('');
  return { id: /^id +(\S+)$/m.exec(out)![1]!, key: out.match(A_KEY)![0] };
}

/** Waits until this key's requests get this status: the API caches keys for a second. */
async function until(status: number, { ask }: Api, key?: string): Promise<void> {
  while ((await ask('/usage', key)).status !== status) await delay(100); // not faster: wrong keys are counted
}

describe('the first key, where other machines can reach the API', () => {
  test('is printed once, and then every request needs a key', async () => {
    const first = await start(WIDE);
    expect((await first.ask('/status')).status).toBe(401);
    const key = (await first.stop()).match(A_KEY) ?? [];
    expect(key).toHaveLength(1);
    const again = await start(WIDE);
    expect((await again.ask('/status', key[0])).status).toBe(200);
    expect((await again.ask('/status', `${key[0]}x`)).status).toBe(401);
    expect((await again.ask('/status')).status).toBe(401);
    expect(await again.stop()).not.toContain('API key');
  });

  test('appears in the terminal of `npm start`, with a URL that can be opened', async () => {
    const port = String(await freePort());
    const child = spawn(process.execPath, programArgs('infra/run/start.ts'), {
      cwd: ROOT,
      env: { PATH: process.env.PATH, DATA_DIR: folder, PORT: port, ...WIDE },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(child, 'exit');
    let output = '';
    for await (const part of child.stdout.setEncoding('utf8')) {
      output += part;
      if (!child.killed && /^listening at .*\n/m.test(output)) child.kill('SIGTERM');
    }
    expect(await exited).toEqual([0, null]);
    expect(output.match(A_KEY)).toHaveLength(1);
    expect(output).toContain(`listening at http://127.0.0.1:${port}, everything on this machine`);
  });
});

describe.skipIf(!hasPostgres)(`the first key of processes with one PostgreSQL${skipped}`, () => {
  let postgres: LocalPostgres;
  beforeAll(async () => {
    postgres = await startPostgres();
  });
  afterAll(() => postgres?.stop());

  test('is the same for all, also when two make it at the same time', async () => {
    const { name, url } = await postgres.database();
    const env = { ...WIDE, DATABASE_URL: url };
    await (await openStore(url)).close(); // makes the tables
    const locks = (state: string) => `(select count(*) from pg_locks where relation = 'keys'::regclass and ${state})`;
    const holding = postgres.query(
      name,
      `do $$ begin
        lock table keys in exclusive mode;
        while ${locks('not granted')} < 2 loop perform pg_sleep(0.01); end loop;
      end $$`,
    );
    while ((await postgres.query(name, `select ${locks("granted and mode = 'ExclusiveLock'")}`)) !== '1');
    const both = await Promise.all([start(env), start(env)]); // neither finds a key, and both wait to write one
    await holding;
    const late = await start(env);
    const output = await Promise.all(both.map((api) => api.stop()));
    const found = output.join('').match(A_KEY) ?? [];
    expect(found).toHaveLength(1);
    expect((await late.ask('/status', found[0])).status).toBe(200);
    expect((await late.ask('/status')).status).toBe(401);
    expect(await late.stop()).not.toContain('API key');
  });
});

describe('npm run keys, while an API runs', () => {
  test('create makes every request need a key, and revoke ends a key', async () => {
    const api = await start(); // has no key where only this machine can reach it
    expect((await api.ask('/usage')).status).toBe(200);
    const mine = readKey(await keysProcess('create', '--name', 'me'));
    await until(401, api);
    expect((await api.ask('/usage', mine.key)).status).toBe(200);
    const other = readKey(await keys(folder, 'create', '--name', 'somebody', '--scopes', 'read'));
    expect((await api.ask('/usage', other.key)).status).toBe(200);
    expect((await api.ask('/img2vid', other.key, { method: 'POST' })).status).toBe(403);

    expect((await keys(folder, 'revoke', mine.id)).out).toBe(`me (${mine.id}): revoked\n`);
    await until(401, api, mine.key);
    expect((await api.ask('/usage', other.key)).status).toBe(200);
    expect(await api.stop()).not.toContain('API key');
  });

  describe('in this process', () => {
    let service: TestService;
    beforeEach(async () => {
      service = await testService({ PRICE_PER_STILL: '0.25' });
    });
    afterEach(() => service.close());

    const run = async (...args: string[]) => keys(service.folder, ...args);
    /** Creates a key, and lets the API forget what it has cached. */
    async function create(...args: string[]) {
      const created = await run('create', '--name', 'me', ...args);
      service.clock.ahead += KEY_CACHE_TTL;
      return { ...readKey(created), out: created.out };
    }
    const ask = (path: string, key?: string) =>
      fetch(`${service.url}${path}`, key === undefined ? {} : { headers: { authorization: `Bearer ${key}` } });
    async function post(key?: string): Promise<PresentedTask> {
      const headers = { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) };
      return (await service.post({ prompt: 'a lighthouse' }, { headers })).json();
    }

    test('adopt gives a key the tasks that ended before there was a key', async () => {
      const [ended, active] = [await post(), await post()];
      await fetch(`${service.url}/cancel?id=${ended.id}`, { method: 'POST' });
      const { id, key, out } = await create();
      expect(out).toContain(`npm run keys -- adopt ${id}\n`);
      expect((await ask('/status')).status).toBe(401);
      expect(await (await ask('/status', key)).json()).toEqual([]);
      expect((await run('adopt', id)).out).toBe(`me (${id}): got 1 task\n`);
      expect(await (await ask('/status', key)).json()).toEqual([expect.objectContaining({ id: ended.id })]);
      expect((await ask(`/status?id=${active.id}`, key)).status).toBe(404);
      expect((await run('adopt', 'local')).status).toBe(2);
    });

    test('rotate keeps the old key value valid for a time, or with --hours 0 not at all', async () => {
      const { id, key } = await create();
      async function rotate(...args: string[]) {
        const [value] = (await run('rotate', id, ...args)).out.match(A_KEY)!;
        service.clock.ahead += KEY_CACHE_TTL;
        return value;
      }
      const statuses = (...values: string[]) =>
        Promise.all(values.map(async (value) => (await ask('/usage', value)).status));
      const second = await rotate();
      expect(await statuses(key, second)).toEqual([200, 200]);
      const third = await rotate('--hours', '0');
      expect(await statuses(key, second, third)).toEqual([401, 401, 200]);
    });

    test('list shows what each key has spent, and what is reserved for active tasks', async () => {
      const { id, key } = await create('--budget', '2');
      const account = async () => {
        const [names, ...rows] = (await run('list')).out
          .trim()
          .split('\n')
          .map((row) => row.split(/ {2,}/));
        const row = rows.find(([first]) => first === id)!;
        return Object.fromEntries(
          ['name', 'budget', 'spent', 'reserved', 'open'].map((n) => [n, row[names!.indexOf(n)]]),
        );
      };
      const task = await post(key);
      expect(await account()).toEqual({ name: 'me', budget: '2.00', spent: '0.00', reserved: '0.25', open: '1' });
      const job = await service.take(task.id);
      service.report(job.id, { output: await service.finish(task.id, job.id) });
      const events = await fetch(`${service.url}/status?id=${task.id}`, {
        headers: { accept: 'text/event-stream', authorization: `Bearer ${key}` },
      });
      expect(await events.text()).toContain('"status":"succeeded"');
      expect(await account()).toEqual({ name: 'me', budget: '2.00', spent: '0.25', reserved: '0.00', open: '0' });
    });
  });

  test('wrong usage ends with 2 and one line that names the option', async () => {
    const { out, err, status } = await keysProcess('create', '--name', 'me', '--budget', '1,5');
    expect([out, err, status]).toEqual([
      '',
      expect.stringMatching(/^--budget must be none or a decimal number.*\n$/),
      2,
    ]);
    async function failure(expectedStatus: number, ...args: string[]): Promise<string> {
      const { out, err, status } = await keys(folder, ...args);
      expect([out, status]).toEqual(['', expectedStatus]);
      return err;
    }
    const NAME = ['create', '--name', 'me'];
    for (const [flag, ...args] of [
      ['name', 'create'],
      ['name', 'create', '--name', ''],
      ['name', 'create', '--name'],
      ['name', 'list', '--name', 'me'],
      ['nam', 'create', '--nam', 'me'],
      ['name', 'set', 'local'],
      ['scopes', ...NAME, '--scopes', 'write'],
      ['scopes', 'set', 'local', '--scopes', 'read'],
      ['budget', ...NAME, '--budget', '0.0000001'],
      ['budget', ...NAME, '--budget', '-5'],
      ['max-open', ...NAME, '--max-open', '0'],
      ['submissions', ...NAME, '--submissions', '60001'],
      ['requests', 'set', 'local', '--requests', 'many'],
      ['hours', 'rotate', 'local', '--hours', '1.5'],
      ['hours', ...NAME, '--hours', '1'],
      ['webhook', 'rotate', 'local', '--webhook=1'],
      ['webhook', 'rotate', 'local'],
    ])
      expect(await failure(2, ...args)).toMatch(new RegExp(`^[^\n]*--${flag}\\b[^\n]*\n$`));
    expect(await failure(2)).toBe('no action is given; use one of create, list, set, rotate, adopt, revoke\n');
    expect(await failure(2, 'revoke')).toBe('revoke: needs ID\n');
    expect(await failure(1, 'revoke', 'nobody')).toBe('there is no key nobody; npm run keys -- list shows all\n');
  });
});
