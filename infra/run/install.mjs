// For programs that may start before the packages are installed.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const installed = `${root}node_modules/.package-lock.json`; // npm writes it at the end of each installation

/** Whether node_modules has the versions of the lockfile. */
function isInstalled() {
  if (!existsSync(installed)) return false;
  const there = JSON.parse(readFileSync(installed, 'utf8')).packages;
  const wanted = Object.entries(JSON.parse(readFileSync(`${root}package-lock.json`, 'utf8')).packages);
  return wanted.every(
    ([path, { version, optional, dev }]) => !path || optional || dev || there[path]?.version === version,
  );
}

/** Installs the packages of the lockfile unless they are there. Ends the process if that fails. @param flags for `npm ci` */
export function install(...flags) {
  if (isInstalled()) return;
  console.log('installing packages (once, a minute or two) …');
  rmSync(installed, { force: true }); // first, so that an installation that is killed does not look complete
  const npm = process.env.npm_execpath; // set by `npm run`
  const [command, ...first] = npm ? [process.execPath, npm] : ['npm'];
  const { status } = spawnSync(command, [...first, 'ci', '--loglevel=error', ...flags], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
