/** Credentials that the service itself creates at its start. */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LOCAL, SCOPES } from '../store/key.ts';
import type { Store } from '../store/store.ts';
import { FIRST_KEY, generateKey, newWebhookSecret } from './key-value.ts';

/** Creates an admin's key, unless there is or was a key. @returns its value, to be shown once; undefined: none was created */
export async function createFirstKey(store: Store, now: number): Promise<string | undefined> {
  if (await store.hasKeys()) return undefined;
  const { id, value, hash } = generateKey(FIRST_KEY);
  const key = { id, name: 'first', scopes: [...SCOPES], hash, webhook_secret: newWebhookSecret(), created_at: now };
  const isOurs = await store.addKey(key);
  return isOurs ? value : undefined;
}

/** Writes the secret that signs the webhooks of this machine's tasks to DATA_DIR/webhook-secret. */
export async function writeWebhookSecret(dataDir: string, store: Store): Promise<void> {
  const path = join(dataDir, 'webhook-secret');
  const text = `${(await store.getKey(LOCAL))!.webhook_secret}\n`;
  if ((await readFile(path, 'utf8').catch(() => '')) === text) return;
  await writeFile(path, text, { mode: 0o600 });
  await chmod(path, 0o600); // in case it existed before
}
