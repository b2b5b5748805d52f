import { link, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
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
  const existing = await readOptional(path); // a start with a full disk writes nothing
  if (!existing)
    await place(path, make(), link).catch((error) => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  const secret = existing ?? (await readFile(path));
  if (secret.length >= MIN_BYTES) return secret;
  throw new Error(
    `${path} has ${secret.length} bytes and needs at least ${MIN_BYTES}: delete it, and the next start creates a new one; earlier links become invalid`,
  );
}

/** Writes a secret over an older one. Only its owner can read the file. */
export async function writeSecret(path: string, text: string): Promise<void> {
  const isWritten = String(await readOptional(path)) === text && ((await stat(path)).mode & 0o077) === 0;
  if (!isWritten) await place(path, text, rename);
}

const readOptional = (path: string): Promise<Buffer | undefined> =>
  readFile(path).catch((error) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });

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
