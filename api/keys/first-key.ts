/** Credentials that the service itself creates at its start. */
import { join } from 'node:path';
import { writeSecret } from '../../core/secret-file.ts';
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

/** @returns a line that says how the key gets the tasks that were made before there was a key; '' without such tasks */
export async function adoptionHint(store: Pick<Store, 'list'>, id: string): Promise<string> {
  const [task] = await store.list({ owner: LOCAL, limit: 1 });
  return task
    ? `This key can’t see earlier tasks. To give it those that have ended: npm run keys -- adopt ${id}\n`
    : '';
}

/** Writes the secret that signs the webhooks of this machine's tasks to DATA_DIR/webhook-secret. */
export async function writeWebhookSecret(dataDir: string, store: Store): Promise<void> {
  await writeSecret(join(dataDir, 'webhook-secret'), `${(await store.getKey(LOCAL))!.webhook_secret}\n`);
}
