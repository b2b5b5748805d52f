// `npm run build`: compiles the image's programs to JavaScript in dist/, in the same folders, and copies the other files that they read.
// Tests name another folder, and a project with further programs.
import { execFileSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('../..', import.meta.url)));
const [dist = 'dist', project = 'tsconfig.build.json'] = process.argv.slice(2);
rmSync(dist, { recursive: true, force: true });
const compiler = ['node_modules/typescript/bin/tsc', '--project', project, '--outDir', dist];
execFileSync(process.execPath, compiler, { stdio: 'inherit' });
for (const path of [
  'core/picture/colours.mjs',
  'core/picture/decode.mjs',
  'core/picture/heif.mjs',
  'handler/runpod/ping-thread.mjs',
  'handler/models/svd/self-check.json', // a device is verified with the small model
  'handler/models/testdata/small-svd',
  'infra/tools/cuda-wheels.json',
  'infra/tools/svd-xt-configs.json',
  'api/page',
  'api/docs',
  'client/events.js',
  'client/sleep.js',
  'core/retry-after.js',
  'docs',
])
  cpSync(path, `${dist}/${path}`, { recursive: true, filter: (source) => !source.endsWith('.ts') });
