/**
 * A real PostgreSQL for tests, on loopback with a folder of its own, which a crash need not survive. `.ci/run` installs it; where it is
 * missing, the tests that want it are skipped and say so.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { chown, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { freePort } from '../run/free-port.ts';
import { isProgram } from '../run/programs.ts';

const OLDEST = 15;
const PATIENCE = 30_000; // milliseconds, for it to start
const NOBODY = 65_534;
const DEBIAN = '/usr/lib/postgresql'; // a folder a version, none of them in PATH

/** The folder of its programs, or undefined where there is none. */
const programs: string | undefined = [
  ...(process.env.PATH ?? '').split(delimiter),
  ...versions().map((version) => join(DEBIAN, String(version), 'bin')),
].find((folder) => folder && ['initdb', 'postgres', 'psql'].every((name) => isProgram(join(folder, name))));

export const hasPostgres = programs !== undefined;
/** For the names of tests. */
export const skipped = hasPostgres ? '' : ' (no PostgreSQL: skipped)';
if (!hasPostgres) console.warn('no PostgreSQL: what wants a real one is skipped');

export type LocalPostgres = Awaited<ReturnType<typeof startPostgres>>;

/** @throws Error that says what the server said */
export async function startPostgres() {
  const run = promisify(execFile);
  const folder = await mkdtemp(join(tmpdir(), 'postgres-'));
  const isRoot = process.getuid?.() === 0; // as which it refuses to run
  const user = isRoot ? { uid: NOBODY, gid: NOBODY } : {};
  if (isRoot) await chown(folder, NOBODY, NOBODY);
  const data = join(folder, 'data');
  await run(
    join(programs!, 'initdb'),
    ['-D', data, '-U', 'tester', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync'],
    { ...user, cwd: folder },
  );
  const port = await freePort();
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', fsync: 'off', max_connections: '100' };
  const child = spawn(
    join(programs!, 'postgres'),
    [
      '-D',
      data,
      '-p',
      String(port),
      ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ],
    { ...user, cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  child.stderr.on('data', (text) => (said = (said + text).slice(-5000)));
  const exited = once(child, 'exit');
  const kill = () => child.kill('SIGQUIT'); // at once, its own children too
  process.once('exit', kill);

  const url = (database: string) => `postgres://tester@127.0.0.1:${port}/${database}`;
  /** What a statement answers, a line a row. */
  async function query(database: string, text: string): Promise<string> {
    const { stdout } = await run(join(programs!, 'psql'), [
      '-XAtq',
      '-v',
      'ON_ERROR_STOP=1',
      '-c',
      text,
      url(database),
    ]);
    return stdout.trim();
  }

  const deadline = Date.now() + PATIENCE;
  while (!(await query('postgres', 'select 1').catch(() => undefined))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      kill();
      throw new Error(`PostgreSQL did not start: ${said}`);
    }
    await delay(20);
  }

  let count = 0;
  return {
    port,
    query,
    /** Makes an empty database. */
    async database(): Promise<{ name: string; url: string }> {
      const name = `test_${++count}`;
      await query('postgres', `create database ${name}`);
      return { name, url: url(name) };
    },
    async stop() {
      kill();
      process.off('exit', kill);
      await exited;
      await rm(folder, { recursive: true });
    },
  };
}

/** Those that Debian has installed, newest first. */
function versions(): number[] {
  try {
    return readdirSync(DEBIAN)
      .map(Number)
      .filter((version) => version >= OLDEST)
      .sort((a, b) => b - a);
  } catch {
    return []; // another system, or none installed
  }
}
