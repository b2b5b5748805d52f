// `npm run build:client [FOLDER]`: compiles the package @img2vid/client into the folder, by default client/dist.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const folder = dirname(fileURLToPath(import.meta.url));
const dist = process.argv[2] ? resolve(process.argv[2]) : join(folder, 'dist');
const declarations = mkdtempSync(join(tmpdir(), 'client-'));
try {
  const tsc = join(folder, '../node_modules/typescript/bin/tsc');
  execFileSync(process.execPath, [tsc, '--project', folder, '--outDir', declarations], { stdio: 'inherit' });
  rmSync(dist, { recursive: true, force: true });
  await build({
    // The webhook is an entry, so that bundlers drop what it includes if a program does not use it.
    entryPoints: ['client/index.ts', 'client/webhook.ts', 'client/cli.ts'],
    absWorkingDir: join(folder, '..'),
    outdir: dist,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    external: ['node:*'],
    target: 'es2022',
    logLevel: 'warning',
  });
  cpSync(join(declarations, 'client'), dist, { recursive: true });
} finally {
  rmSync(declarations, { recursive: true });
}
