/** The API keys of a chaos trial, one of which has little money. */
import { newWebhookSecret } from '../../../api/keys/key-value.ts';
import { openStore } from '../../../api/store/store.ts';
import { makeKey } from '../../support/test-api.ts';

/** Micro-units. As long as no task has ended, 71,235 are reserved for a task, and 30,011 more if it has a prompt. */
const BUDGETS = { unbounded: null, tight: 75_000, ample: 100_000_000 };

export interface Owner {
  name: keyof typeof BUDGETS;
  /** of the key */
  id: string;
  /** micro-units; null: unlimited */
  budget: number | null;
  headers: { authorization: string };
  /** of its webhooks */
  secret: string;
}

/** Makes the keys, before any API process runs. The first one has no budget. */
export async function makeOwners(databaseUrl: string): Promise<Owner[]> {
  const store = await openStore(databaseUrl);
  const owners: Owner[] = [];
  for (const [name, budget] of Object.entries(BUDGETS) as [Owner['name'], number | null][]) {
    const secret = newWebhookSecret();
    const { id, headers } = await makeKey(store, { name, budget, webhook_secret: secret });
    owners.push({ name, id, budget, headers, secret });
  }
  await store.close();
  return owners;
}
