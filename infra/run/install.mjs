// For programs that begin where nothing but Node and npm may be there.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const installed = `${root}node_modules/.package-lock.json`; // written by npm at the end of each install

/** Whether node_modules holds what the lockfile says. */
function isInstalled() {
  if (!existsSync(installed)) return false;
  const there = JSON.parse(readFileSync(installed, 'utf8')).packages;
  const wanted = Object.entries(JSON.parse(readFileSync(`${root}package-lock.json`, 'utf8')).packages);
  return wanted.every(
    ([path, { version, optional, dev }]) => !path || optional || dev || there[path]?.version === version,
  );
}

/** Brings node_modules to what the lockfile says, if it is not; ends the process where that fails. @param flags for `npm ci` */
export function install(...flags) {
  if (isInstalled()) return;
  console.log('installing packages (once, about half a minute) …');
  rmSync(installed, { force: true }); // first: npm removes it among the rest, and may be killed over that
  const npm = process.env.npm_execpath; // set by `npm run`
  const [command, ...first] = npm ? [process.execPath, npm] : ['npm'];
  const { status } = spawnSync(command, [...first, 'ci', '--loglevel=error', ...flags], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
