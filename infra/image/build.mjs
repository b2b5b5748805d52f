// `npm run build`: compiles the image's programs to JavaScript in dist/, in the same folders, and copies the other files that they read.
// Tests name another folder.
import { execFileSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('../..', import.meta.url)));
const dist = process.argv[2] ?? 'dist';
rmSync(dist, { recursive: true, force: true });
const compiler = ['node_modules/typescript/bin/tsc', '--project', 'tsconfig.build.json', '--outDir', dist];
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
