/**
 * A real PostgreSQL for tests, on loopback, with a temporary folder whose data need not survive a crash. `.ci/run` installs it; without
 * it the tests that need it are skipped.
 */
import { execFile } from 'node:child_process';
import { chown, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { freePort } from '../run/free-port.ts';
import { isProgram } from '../run/programs.ts';
import { startProgram } from './start-program.ts';

const VERSIONS = ['19', '18', '17', '16', '15'];
const NOBODY = 65_534;
const DEBIAN = '/usr/lib/postgresql'; // a folder for each version, none of them in PATH

/** The folder of its programs; undefined where it is not installed. */
const programs: string | undefined = [
  ...(process.env.PATH ?? '').split(delimiter),
  ...VERSIONS.map((version) => join(DEBIAN, version, 'bin')),
].find((folder) => folder && ['initdb', 'postgres', 'psql'].every((name) => isProgram(join(folder, name))));

export const hasPostgres = programs !== undefined;
/** A suffix for the titles of tests. */
export const skipped = hasPostgres ? '' : ' (no PostgreSQL: skipped)';
if (!hasPostgres) console.warn('no PostgreSQL: tests that need it are skipped');

export type LocalPostgres = Awaited<ReturnType<typeof startPostgres>>;

/** @throws Error with the server's output, if it does not start */
export async function startPostgres() {
  const run = promisify(execFile);
  const folder = await mkdtemp(join(tmpdir(), 'postgres-'));
  const isRoot = process.getuid?.() === 0; // PostgreSQL refuses to run as root
  if (isRoot) await chown(folder, NOBODY, NOBODY);
  const options = { cwd: folder, ...(isRoot && { uid: NOBODY, gid: NOBODY }) };
  const data = join(folder, 'data');
  const initialize = ['-D', data, '-U', 'tester', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync'];
  await run(join(programs!, 'initdb'), initialize, options);

  const port = await freePort();
  const url = (database: string) => `postgres://tester@127.0.0.1:${port}/${database}`;
  /** @returns the rows, one a line */
  async function query(database: string, text: string): Promise<string> {
    const args = ['-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', text, url(database)];
    return (await run(join(programs!, 'psql'), args)).stdout.trim();
  }
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', fsync: 'off', max_connections: '100' };
  const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const server = await startProgram(join(programs!, 'postgres'), ['-D', data, '-p', String(port), ...args], {
    ...options,
    killSignal: 'SIGQUIT', // immediate shutdown, its child processes included
    isReady: () => query('postgres', 'select 1'),
  });

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
      await server.stop();
      await rm(folder, { recursive: true });
    },
  };
}
