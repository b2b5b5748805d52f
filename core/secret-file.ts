import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { hasCode, removeOrphans, tempName } from './temp-files.ts';

/** Shorter secrets can be guessed: an empty one signs what anybody can sign. */
const MIN_BYTES = 32;

/**
 * Reads a secret, or creates it with `make` if the file is missing. Only its owner can read the file. Processes that start at the same
 * time get the same secret.
 * @throws Error that names the file, if the secret has less than 32 bytes
 */
export async function loadOrCreateSecret(path: string, make: () => Uint8Array): Promise<Buffer> {
  await place(path, make(), link).catch((error) => {
    if (!hasCode(error, 'EEXIST')) throw error;
  });
  const secret = await readFile(path);
  if (secret.length >= MIN_BYTES) return secret;
  throw new Error(
    `${path} has ${secret.length} bytes and needs at least ${MIN_BYTES}: delete it, and the next start creates a new one; earlier links become invalid`,
  );
}

/** Writes a secret over an older one. Only its owner can read the file. */
export const writeSecret = (path: string, text: string): Promise<void> => place(path, text, rename);

/** A crash or a power cut leaves the old file, or none, or the whole new one. */
async function place(path: string, content: string | Uint8Array, moveIn: typeof link | typeof rename): Promise<void> {
  const folder = dirname(path);
  const prefix = `${basename(path)}.`;
  await mkdir(folder, { recursive: true });
  await removeOrphans(folder, prefix);
  const temporary = join(folder, tempName(prefix));
  try {
    await writeFile(temporary, content, { mode: 0o600, flush: true });
    await moveIn(temporary, path);
  } finally {
    await rm(temporary, { force: true });
  }
}
