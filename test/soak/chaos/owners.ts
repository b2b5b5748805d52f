/** Whose tasks they are in a chaos trial: API keys, one of which is short of money. */
import { newWebhookSecret } from '../../../api/keys/key-value.ts';
import { openStore } from '../../../api/store/store.ts';
import { makeKey } from '../../support/test-api.ts';

/** Micro-units of CURRENCY. While there is no history, 71,235 are reserved for a task, and 30,011 more if it has a prompt. */
const BUDGETS = { unbounded: null, tight: 75_000, ample: 100_000_000 };

export interface Owner {
  name: keyof typeof BUDGETS;
  /** of the key */
  id: string;
  /** micro-units; null: any amount */
  budget: number | null;
  /** that go with the key's requests */
  headers: { authorization: string };
  /** of its webhooks */
  secret: string;
}

/** For the API: no caller comes too often. */
export const NO_LIMITS = {
  MAX_OPEN_TASKS: '1000000',
  SUBMISSIONS_PER_MINUTE: '60000',
  REQUESTS_PER_MINUTE: '60000',
};

/** Makes the keys, before any API process runs. The first is the one that may spend any amount. */
export async function makeOwners(databaseUrl: string): Promise<Owner[]> {
  const store = await openStore(databaseUrl);
  try {
    const owners: Owner[] = [];
    for (const [name, budget] of Object.entries(BUDGETS) as [Owner['name'], number | null][]) {
      const secret = newWebhookSecret();
      const { id, headers } = await makeKey(store, { name, budget, webhook_secret: secret });
      owners.push({ name, id, budget, headers, secret });
    }
    return owners;
  } finally {
    await store.close();
  }
}
