/**
 * Temporary files and folders. Their names contain the host and the process id of their creator, so that a later process on the same
 * host can remove those of dead processes.
 *
 * Limits: if another program has got a dead creator's id, its files stay until that program has ended too. Processes that share a
 * folder but can't see each other, as in two containers, must have different host names.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { SECOND } from './time.ts';

const HOST = hostname().replaceAll(/[^A-Za-z0-9-]/g, '-');
/** What tempName appends to its prefix. */
const CREATOR = /^(?<host>[A-Za-z0-9-]*)\.(?<pid>[1-9]\d{0,8})\.[\da-f-]{36}$/;

/** A unique name for a temporary file or folder of this process. */
export const tempName = (prefix = '') => `${prefix}${HOST}.${process.pid}.${randomUUID()}`;

/** Removes the temporary files and folders of this host's dead processes, whose names begin with `prefix`. */
export async function removeOrphans(folder: string, prefix = ''): Promise<void> {
  for (const name of await readdir(folder)) {
    const { host, pid } = (name.startsWith(prefix) && CREATOR.exec(name.slice(prefix.length))?.groups) || {};
    if (host !== HOST || !(await isDead(Number(pid), join(folder, name)))) continue;
    await rm(join(folder, name), { recursive: true, force: true }).catch((error) => {
      if (!hasCode(error, 'EACCES', 'EPERM')) throw error; // another user's
    });
  }
}

/** Whether the process that created `path` has died. */
async function isDead(pid: number, path: string): Promise<boolean> {
  if (pid === process.pid) {
    // A restarted container gives its process the same id: files older than this process belong to its predecessor.
    const startedAt = Date.now() - SECOND * process.uptime();
    return stat(path).then(
      ({ mtimeMs }) => mtimeMs < startedAt,
      () => false, // removed meanwhile
    );
  }
  try {
    process.kill(pid, 0); // signal 0 only tests whether the process exists
    return false;
  } catch (error) {
    return hasCode(error, 'ESRCH');
  }
}

const SCRATCH = 'img2vid-';

/** Creates an empty folder for the temporary files of one job. The caller removes it. */
export async function createScratchFolder(): Promise<string> {
  const path = join(tmpdir(), tempName(SCRATCH));
  await mkdir(path, { mode: 0o700 });
  return path;
}

/** Removes the scratch folders of dead workers. */
export const removeOrphanedScratch = () => removeOrphans(tmpdir(), SCRATCH);

/** Whether an error is one of Node's with one of these codes, such as ENOENT. */
export const hasCode = (error: unknown, ...codes: string[]) =>
  error instanceof Error && 'code' in error && codes.includes(String(error.code));
