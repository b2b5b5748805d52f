/**
 * What a killed process leaves behind: files and folders that it would have removed itself. Their names carry their maker's host and
 * process id, so that whoever comes later on that host can tell which makers are dead.
 *
 * Limits: where another program has got a dead maker's id meanwhile, its leftovers stay until that one has ended too; and processes
 * that share a folder but can't see each other, as in two containers, must not share a host name.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';

const HOST = hostname().replaceAll(/[^A-Za-z0-9-]/g, '-');
const MAKER = /^(?<host>[A-Za-z0-9-]*)\.(?<pid>[1-9]\d{0,8})\.[\da-f-]{36}$/; // what tempName puts behind its prefix

/** A name for a file or folder of this process, used by nobody else. */
export const tempName = (prefix = '') => `${prefix}${HOST}.${process.pid}.${randomUUID()}`;

/** Removes what dead processes of this host have left in the folder, under names with this prefix. */
export async function removeOrphans(folder: string, prefix = ''): Promise<void> {
  for (const name of await readdir(folder)) {
    const { host, pid } = (name.startsWith(prefix) && MAKER.exec(name.slice(prefix.length))?.groups) || {};
    if (host !== HOST || !(await isDead(Number(pid), join(folder, name)))) continue;
    await rm(join(folder, name), { recursive: true, force: true }).catch((error) => {
      if (!isCode(error, 'EACCES', 'EPERM')) throw error; // another user's: not ours to remove
    });
  }
}

/** Whether the maker of a file or folder has died. */
async function isDead(pid: number, path: string): Promise<boolean> {
  if (pid === process.pid) {
    // A container that is started again gives its process the same id: what is older than this process is its forerunner's.
    const began = Date.now() - 1000 * process.uptime();
    return stat(path).then(
      ({ mtimeMs }) => mtimeMs < began,
      () => false, // gone already
    );
  }
  try {
    process.kill(pid, 0); // only asks whether it is there
    return false;
  } catch (error) {
    return isCode(error, 'ESRCH');
  }
}

const SCRATCH = 'img2vid-';

/** A new folder for what need not outlive a job, among the system's temporary ones; whoever asks for it removes it. */
export async function createScratchFolder(): Promise<string> {
  const path = join(tmpdir(), tempName(SCRATCH));
  await mkdir(path, { mode: 0o700 });
  return path;
}

/** Removes the scratch folders of dead workers. */
export const removeOrphanedScratch = () => removeOrphans(tmpdir(), SCRATCH);

const isCode = (error: unknown, ...codes: string[]) =>
  error instanceof Error && 'code' in error && codes.includes(String(error.code));
