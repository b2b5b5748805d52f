import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { removeOrphans, tempName } from './temp-files.ts';

/** One secret a path, made by whoever comes first and readable by its owner only; processes that start at once agree on it. */
export async function loadOrCreateSecret(path: string, make: () => string | Uint8Array): Promise<Buffer> {
  await mkdir(dirname(path), { recursive: true });
  const prefix = `${basename(path)}.`;
  await removeOrphans(dirname(path), prefix);
  const made = join(dirname(path), tempName(prefix));
  await writeFile(made, make(), { mode: 0o600 });
  try {
    await link(made, path); // fails where there is one
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  } finally {
    await rm(made);
  }
  return readFile(path);
}
