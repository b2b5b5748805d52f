/**
 * Vitest's set-up of tests that start processes of ours: compiles the programs once, as `npm run build` does for the image, and the demo.
 * They then start in half the time that tsx needs, which compiles each program's modules again.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** Vitest calls it for each project that starts programs, and the first call compiles. @returns what Vitest calls at the end */
export default function compile(): (() => void) | undefined {
  if (process.env.COMPILED_PROGRAMS) return undefined;
  const cache = join(ROOT, 'node_modules/.cache'); // below it, packages are found
  mkdirSync(cache, { recursive: true });
  const folder = mkdtempSync(join(cache, 'programs-'));
  const args = [join(ROOT, 'infra/image/build.mjs'), folder, 'test/support/tsconfig.programs.json'];
  execFileSync(process.execPath, args, { stdio: 'inherit' });
  symlinkSync(join(ROOT, 'assets'), join(folder, 'assets')); // the demo's picture
  process.env.COMPILED_PROGRAMS = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}

/** The compiled module of a file from the repository's root, such as api/index.ts. Without Vitest's set-up, the file itself. */
function compiled(path: string): string {
  const { COMPILED_PROGRAMS } = process.env;
  const module = COMPILED_PROGRAMS && join(COMPILED_PROGRAMS, path.replace(/\.ts$/, '.js'));
  return module && existsSync(module) ? module : join(ROOT, path);
}

/** Arguments of Node that start a program. */
export function programArgs(path: string): string[] {
  const module = compiled(path);
  return module.endsWith('.ts') ? ['--import', 'tsx', module] : [module];
}

/** `startLocal`, whose children are as compiled as it is itself. */
export async function importStart(): Promise<typeof import('../../infra/run/start.ts')> {
  return import(pathToFileURL(compiled('infra/run/start.ts')).href);
}
