/** `npm run keys`: the API keys in the environment's database. It works while the API runs, too. */
import { databaseUrl } from '../../api/config.ts';
import { adoptionHint } from '../../api/keys/first-key.ts';
import { generateKey, newWebhookSecret } from '../../api/keys/key-value.ts';
import { costOf, parsePrice } from '../../api/money.ts';
import { type Key, type KeyChanges, LOCAL, SCOPES, type Scope, spentOf } from '../../api/store/key.ts';
import { openStore, type Store } from '../../api/store/store.ts';
import { formatCount } from '../../core/format.ts';
import { HOUR } from '../../core/time.ts';
import { type CliIo, defineCommand, runIfMain, UsageError, type Values } from './command.ts';

const LIMITS = {
  name: { value: 'NAME', help: 'the owner’s name, 1 to 100 characters; required by create' },
  scopes: { value: 'LIST', help: `some of ${SCOPES.join(', ')}, separated by commas; default submit,read` },
  budget: { value: 'AMOUNT', help: 'most spending in a calendar month (UTC), in units of CURRENCY, or none' },
  'max-open': { value: 'N', help: 'most active tasks, instead of MAX_OPEN_TASKS; usual: MAX_OPEN_TASKS again' },
  submissions: { value: 'N', help: 'most new tasks per minute, instead of SUBMISSIONS_PER_MINUTE; or usual' },
  requests: { value: 'N', help: 'most requests per minute, instead of REQUESTS_PER_MINUTE; or usual' },
} as const;

const ROTATION = {
  webhook: { help: 'replaces the webhook secret instead of the key' },
  hours: { value: 'N', help: 'hours for which the old key or secret stays valid, 0 to 9999; default 24' },
} as const;

const ID = ['ID'];
const ACTIONS = {
  create: {
    help: 'creates a key, and prints it and its webhook secret, which are never shown again',
    options: LIMITS,
    run: create,
  },
  list: { help: 'lists the keys with their limits and spending', run: list },
  set: { help: 'changes a key; takes the options of create', args: ID, options: LIMITS, run: set },
  rotate: {
    help: 'replaces a key; the old one stays valid for a while',
    args: ID,
    options: ROTATION,
    run: rotate,
  },
  adopt: {
    help: `gives a key the ended tasks that were created before there was a key (those of the key ${LOCAL})`,
    args: ID,
    run: adopt,
  },
  revoke: { help: 'revokes a key for good; its tasks continue', args: ID, run: revoke },
};

const NOTES = `
The database is that of DATABASE_URL, or the file in DATA_DIR. The API applies a change within a second. As soon as
there is a key, every request needs one. As long as there is none, requests from this machine use the built-in key 'local'.`;

/** @returns the exit status */
export const main = defineCommand('npm run keys', ACTIONS, NOTES);

async function create(io: CliIo, values: Values<typeof LIMITS>): Promise<undefined> {
  const { name, ...changes } = readLimits(values);
  if (name === undefined) throw new UsageError('--name is required: the name of the key’s owner');
  await withStore(io, async (store) => {
    const isFirst = !(await store.hasKeys());
    const { id, value, hash } = generateKey();
    const webhook_secret = newWebhookSecret();
    const key = { name, scopes: ['submit', 'read'] as Scope[], ...changes };
    await store.addKey({ ...key, id, hash, webhook_secret, created_at: Date.now() });
    const note = isFirst
      ? `\nThis is the first key: from now on every request needs one.\n${await adoptionHint(store, id)}`
      : '';
    return `${line('id', id)}${line('key', value)}${line('webhook secret', webhook_secret)}\nThey are shown only now.\n${note}`;
  });
}

async function list(io: CliIo): Promise<undefined> {
  await withStore(io, async (store) => formatTable((await store.listKeys()).map(rowOf)));
}

async function set(io: CliIo, values: Values<typeof LIMITS>, id: string): Promise<undefined> {
  const changes = readLimits(values);
  const options = Object.keys(LIMITS).map((name) => `--${name}`);
  if (Object.keys(changes).length === 0) throw new UsageError(`set: needs at least one of ${options.join(', ')}`);
  if (id === LOCAL && changes.scopes) throw new UsageError(`--scopes: the key ${LOCAL} has all scopes`);
  await withStore(io, async (store) => {
    const { name } = await findKey(store, id);
    await store.updateKey(id, changes);
    return `${changes.name ?? name} (${id}): changed\n`;
  });
}

async function rotate(io: CliIo, { webhook, hours = '24' }: Values<typeof ROTATION>, id: string): Promise<undefined> {
  if (!/^\d{1,4}$/.test(hours)) throw new UsageError('--hours must be a whole number from 0 to 9999');
  if (id === LOCAL && !webhook)
    throw new UsageError(`the key ${LOCAL} has no value to rotate; --webhook replaces its webhook secret`);
  const until = Date.now() + Number(hours) * HOUR;
  await withStore(io, async (store) => {
    const key = await findKey(store, id);
    if (webhook) {
      const webhook_secret = newWebhookSecret();
      const old = { old_webhook_secret: key.webhook_secret, old_webhook_until: until };
      await store.updateKey(id, { webhook_secret, ...old });
      return line('webhook secret', webhook_secret);
    }
    if (key.revoked_at !== null) throw new Error(`the key ${id} is revoked: create another one`);
    const { value, hash } = generateKey(id);
    await store.updateKey(id, { hash, old_hash: key.hash, old_until: until });
    return line('key', value);
  });
}

async function adopt(io: CliIo, _: Values, id: string): Promise<undefined> {
  if (id === LOCAL) throw new UsageError(`ID must be another key than ${LOCAL}`);
  await withStore(io, async (store) => {
    const { name } = await findKey(store, id);
    return `${name} (${id}): got ${formatCount(await store.transfer(LOCAL, id), 'task')}\n`;
  });
}

async function revoke(io: CliIo, _: Values, id: string): Promise<undefined> {
  if (id === LOCAL)
    throw new UsageError(`the key ${LOCAL} can’t be revoked; it gives no access once there is another key`);
  await withStore(io, async (store) => {
    const { name, revoked_at } = await findKey(store, id);
    await store.updateKey(id, { revoked_at: revoked_at ?? Date.now() });
    return `${name} (${id}): revoked\n`;
  });
}

/** Prints what `work` returns. */
async function withStore({ env, out }: CliIo, work: (store: Store) => Promise<string>): Promise<undefined> {
  const store = await openStore(databaseUrl(env), { exclusive: false });
  try {
    out.write(await work(store));
  } finally {
    await store.close();
  }
}

async function findKey(store: Store, id: string): Promise<Key> {
  const key = await store.getKey(id);
  if (!key) throw new Error(`there is no key ${id}; npm run keys -- list shows all`);
  return key;
}

/** @throws UsageError that names the option and what is allowed */
function readLimits(values: Values<typeof LIMITS>): KeyChanges {
  const { name, scopes, budget } = values;
  if (name !== undefined && !/^\S(.{0,98}\S)?$/.test(name))
    throw new UsageError('--name must be text of 1 to 100 characters');
  return {
    ...(name !== undefined && { name }),
    ...(scopes !== undefined && { scopes: readScopes(scopes) }),
    ...(budget !== undefined && { budget: readBudget(budget) }),
    ...readLimit('max_active', values['max-open'], 'max-open', 1_000_000),
    ...readLimit('submissions_per_minute', values.submissions, 'submissions', 60_000),
    ...readLimit('requests_per_minute', values.requests, 'requests', 60_000),
  };
}

function readScopes(text: string): Scope[] {
  const scopes = text.split(',').map((scope) => scope.trim());
  if (!scopes.every((scope) => (SCOPES as readonly string[]).includes(scope)))
    throw new UsageError(`--scopes must be some of ${SCOPES.join(', ')}, separated by commas`);
  return [...new Set(scopes)] as Scope[];
}

function readBudget(text: string): number | null {
  if (text === 'none') return null;
  const price = parsePrice(text);
  if (price === undefined || price % 1_000_000n !== 0n)
    throw new UsageError('--budget must be none or a decimal number, such as 25 or 0.50, with at most 6 decimals');
  return costOf(price);
}

function readLimit(field: keyof KeyChanges, text: string | undefined, option: string, max: number): KeyChanges {
  if (text === undefined) return {};
  if (text === 'usual') return { [field]: null };
  const value = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > max) throw new UsageError(`--${option} must be usual or a whole number from 1 to ${max}`);
  return { [field]: value };
}

const line = (name: string, value: string) => `${name.padEnd(15)} ${value}\n`;

function rowOf(key: Key): Record<string, string> {
  const units = (micro: number) => (micro / 1e6).toFixed(2);
  const limit = (value: number | null) => String(value ?? 'usual');
  const day = (time: number) => new Date(time).toISOString().slice(0, 10);
  return {
    id: key.id,
    name: key.name,
    scopes: key.scopes.join(','),
    budget: key.budget === null ? 'none' : units(key.budget),
    spent: units(spentOf(key, Date.now())),
    reserved: units(key.reserved),
    open: String(key.active_tasks),
    'max open': limit(key.max_active),
    submissions: limit(key.submissions_per_minute),
    requests: limit(key.requests_per_minute),
    created: day(key.created_at),
    revoked: key.revoked_at === null ? '' : day(key.revoked_at),
  };
}

/** @param rows at least one: there is always the key `local` */
function formatTable(rows: Record<string, string>[]): string {
  const lines = [Object.keys(rows[0]!), ...rows.map(Object.values<string>)];
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((cells) => cells[column]!.length)));
  const padded = lines.map((cells) => cells.map((cell, column) => cell.padEnd(widths[column]!)).join('  '));
  return padded.map((text) => `${text.trimEnd()}\n`).join('');
}

await runIfMain(import.meta.url, main);
