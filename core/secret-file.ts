import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { hasCode, removeOrphans, tempName } from './temp-files.ts';

/**
 * Reads a secret, or creates it with `make` if the file is missing. Only its owner can read the file. Processes that start at the same
 * time get the same secret.
 */
export async function loadOrCreateSecret(path: string, make: () => string | Uint8Array): Promise<Buffer> {
  await mkdir(dirname(path), { recursive: true });
  const prefix = `${basename(path)}.`;
  await removeOrphans(dirname(path), prefix);
  const temporary = join(dirname(path), tempName(prefix));
  await writeFile(temporary, make(), { mode: 0o600 });
  try {
    await link(temporary, path); // fails if the file exists
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  } finally {
    await rm(temporary);
  }
  return readFile(path);
}
