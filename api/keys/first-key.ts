/** What is there before the operator has made any key. */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LOCAL, SCOPES } from '../store/key.ts';
import type { Store } from '../store/store.ts';
import { FIRST_KEY, generateKey, KEY_DEFAULTS, newWebhookSecret } from './key-value.ts';

/** Makes the first key, an admin's, unless there is or was any. @returns its text, which is shown once and can't be read again */
export async function createFirstKey(store: Store, now: number): Promise<string | undefined> {
  if (await store.hasKeys()) return undefined;
  const { id, value, hash } = generateKey(FIRST_KEY);
  const isOurs = await store.addKey({
    id,
    name: 'first',
    scopes: [...SCOPES],
    hash,
    ...KEY_DEFAULTS,
    webhook_secret: newWebhookSecret(),
    created_at: now,
  });
  return isOurs ? value : undefined;
}

/** Shows who is on this machine the secret of its webhooks, in DATA_DIR/webhook-secret. */
export async function writeWebhookSecret(dataDir: string, store: Store): Promise<void> {
  const path = join(dataDir, 'webhook-secret');
  const text = `${(await store.getKey(LOCAL))!.webhook_secret}\n`;
  if ((await readFile(path, 'utf8').catch(() => '')) === text) return;
  await writeFile(path, text, { mode: 0o600 });
  await chmod(path, 0o600); // it may have been there
}
