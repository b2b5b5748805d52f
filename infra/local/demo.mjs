// `npm run demo` on a machine with nothing but Node and npm: installs what is missing, then hands over to demo.ts.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`Node ${process.versions.node} is too old: 20.19 or newer is needed`);
  process.exit(1);
}

/** Whether node_modules holds what the lockfile says. */
function isInstalled() {
  const installed = `${root}node_modules/.package-lock.json`; // written by npm at the end of each install
  if (!existsSync(installed)) return false;
  const there = JSON.parse(readFileSync(installed, 'utf8')).packages;
  const wanted = Object.entries(JSON.parse(readFileSync(`${root}package-lock.json`, 'utf8')).packages);
  return wanted.every(
    ([path, { version, optional, dev }]) => !path || optional || dev || there[path]?.version === version,
  );
}

if (!isInstalled()) {
  console.log('installing packages (once, about half a minute) …');
  const npm = process.env.npm_execpath; // set by `npm run`
  const [command, ...first] = npm ? [process.execPath, npm] : ['npm'];
  const { status } = spawnSync(command, [...first, 'ci', '--loglevel=error'], { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

const { register } = await import('tsx/esm/api');
register();
await import('./demo.ts');
