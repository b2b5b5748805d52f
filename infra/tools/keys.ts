/** `npm run keys -- create|list|set|rotate|revoke`: the API keys in the environment's database, also while the API runs. */
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { databaseUrl } from '../../api/config.ts';
import { NEW_KEY, newText, newWebhookSecret } from '../../api/keys/key-value.ts';
import { costOf, parsePrice } from '../../api/money.ts';
import { type Key, type KeyChanges, LOCAL, monthOf, SCOPES, type Scope } from '../../api/store/key.ts';
import { openStore, type Store } from '../../api/store/store.ts';
import { HOUR } from '../../core/time.ts';

const USAGE = `npm run keys -- create | list | set ID | rotate ID | revoke ID

  create  makes a key and shows it, and the secret of its webhooks, this once
          --name NAME           whose it is; needed
          --scopes submit,read  and admin, which may do all; submit,read if not said
  set     changes a key's name, scopes or limits; create takes these, too:
          --budget AMOUNT       the most that it may spend in a calendar month (UTC), in units of CURRENCY, or none
          --max-open N          tasks open at a time, instead of MAX_OPEN_TASKS; usual takes that back, here and below
          --submissions N       a minute, instead of SUBMISSIONS_PER_MINUTE
          --requests N          a minute, instead of REQUESTS_PER_MINUTE
  rotate  gives a key a new text, or with --webhook its webhooks a new secret; the old one is good as well
          --hours N             for so long, 24 if not said
  revoke  ends a key for good; its tasks go on

The database is that of DATABASE_URL, or the file in DATA_DIR. The API heeds a change within a second. As soon as there is a key, every
request needs one. The key 'local' is that of requests from this machine as long as there is no other.
`;

export interface Surroundings {
  env: NodeJS.ProcessEnv;
  out: { write(text: string): unknown };
  err: { write(text: string): unknown };
  now?: () => number;
}

/** @returns the exit status; what was wrong is one line on `err` */
export async function main(args: string[], { env, out, err, now = Date.now }: Surroundings): Promise<number> {
  try {
    const { values, positionals } = readArgs(args);
    const [command = '', id, ...more] = positionals;
    if (values.help) {
      out.write(USAGE);
      return 0;
    }
    const work = Object.hasOwn(COMMANDS, command) ? COMMANDS[command as keyof typeof COMMANDS] : undefined;
    const takesId = command !== 'create' && command !== 'list';
    if (!work || more.length > 0 || takesId !== (id !== undefined)) throw new Error(USAGE.trimEnd());
    for (const name of Object.keys(values))
      if (!work.options.includes(name)) throw new Error(`--${name}: not for ${command}`);
    const given = readValues(values); // before a database is made
    const store = await openStore(databaseUrl(env), { beside: true });
    try {
      out.write(await work.run({ store, id: id ?? '', given, now: now() }));
    } finally {
      await store.close();
    }
    return 0;
  } catch (error) {
    err.write(`${(error as Error).message}\n`);
    return 1;
  }
}

const OPTIONS = {
  name: { type: 'string' },
  scopes: { type: 'string' },
  budget: { type: 'string' },
  'max-open': { type: 'string' },
  submissions: { type: 'string' },
  requests: { type: 'string' },
  hours: { type: 'string' },
  webhook: { type: 'boolean' },
  help: { type: 'boolean' },
} as const;

function readArgs(args: string[]) {
  try {
    return parseArgs({ args, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new Error((error as Error).message.split(/[.\n]/)[0]); // what follows are hints on quoting
  }
}
type Values = ReturnType<typeof readArgs>['values'];

/** @throws Error that names the option and what is allowed */
function readValues(values: Values) {
  const { name, scopes, budget, hours = '24', webhook = false } = values;
  if (name !== undefined && !/^\S(.{0,98}\S)?$/.test(name))
    throw new Error('--name must be text of 1 to 100 characters');
  const changes: KeyChanges = {
    ...(name !== undefined && { name }),
    ...(scopes !== undefined && { scopes: readScopes(scopes) }),
    ...(budget !== undefined && { budget: readBudget(budget) }),
    ...limit('max_open', values['max-open'], 'max-open', 1_000_000),
    ...limit('submissions_per_minute', values.submissions, 'submissions', 60_000),
    ...limit('requests_per_minute', values.requests, 'requests', 60_000),
  };
  if (!/^\d{1,4}$/.test(hours)) throw new Error('--hours must be a whole number from 0 to 9999');
  return { changes, grace: Number(hours) * HOUR, webhook };
}

function readScopes(text: string): Scope[] {
  const scopes = text.split(',').map((scope) => scope.trim());
  if (!scopes.every((scope) => (SCOPES as readonly string[]).includes(scope)))
    throw new Error(`--scopes must be some of ${SCOPES.join(', ')}, with commas between`);
  return [...new Set(scopes)] as Scope[];
}

function readBudget(text: string): number | null {
  if (text === 'none') return null;
  const price = parsePrice(text);
  if (price === undefined || price % 1_000_000n !== 0n)
    throw new Error('--budget must be none or a decimal number, such as 25 or 0.50, with at most 6 decimals');
  return costOf(price);
}

function limit(field: keyof KeyChanges, text: string | undefined, option: string, max: number): KeyChanges {
  if (text === undefined) return {};
  if (text === 'usual') return { [field]: null };
  const value = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > max) throw new Error(`--${option} must be usual or a whole number from 1 to ${max}`);
  return { [field]: value };
}

interface Work {
  store: Store;
  id: string;
  given: ReturnType<typeof readValues>;
  /** milliseconds since 1970 */
  now: number;
}

const LIMITS = ['name', 'scopes', 'budget', 'max-open', 'submissions', 'requests'];

/** What each does; it returns what is to be shown. */
const COMMANDS: Record<string, { options: string[]; run(work: Work): Promise<string> }> = {
  create: {
    options: LIMITS,
    async run({ store, given: { changes }, now }) {
      if (changes.name === undefined) throw new Error('--name is needed: whose key is it?');
      const isFirst = !(await store.hasKeys());
      const { id, text, hash } = newText();
      const webhook_secret = newWebhookSecret();
      const key = { ...NEW_KEY, name: changes.name, scopes: ['submit', 'read'] as Scope[], ...changes };
      await store.addKey({ ...key, id, hash, webhook_secret, created_at: now });
      const note = isFirst ? '\nThis is the first key: from now on every request needs one.\n' : '';
      return `${line('id', id)}${line('key', text)}${line('webhook secret', webhook_secret)}\nThey are shown this once.\n${note}`;
    },
  },

  list: {
    options: [],
    run: async ({ store, now }) => table((await store.keys()).map((key) => rowOf(key, now))),
  },

  set: {
    options: LIMITS,
    async run({ store, id, given: { changes } }) {
      if (Object.keys(changes).length === 0) throw new Error(`what? ${LIMITS.map((name) => `--${name}`).join(', ')}`);
      if (id === LOCAL && changes.scopes) throw new Error(`the key ${LOCAL} has all scopes`);
      return done(id, 'changed', await store.changeKey(id, changes));
    },
  },

  rotate: {
    options: ['webhook', 'hours'],
    async run({ store, id, given: { webhook, grace }, now }) {
      const key = await store.key(id);
      if (!key) throw unknown(id);
      if (webhook) {
        const webhook_secret = newWebhookSecret();
        const old = { old_webhook_secret: key.webhook_secret, old_webhook_until: now + grace };
        await store.changeKey(id, { webhook_secret, ...old });
        return line('webhook secret', webhook_secret);
      }
      if (id === LOCAL) throw new Error(`the key ${LOCAL} has no text; --webhook gives its webhooks a new secret`);
      if (key.revoked_at !== null) throw new Error(`the key ${id} is revoked: create another`);
      const { text, hash } = newText(id);
      await store.changeKey(id, { hash, old_hash: key.hash, old_until: now + grace });
      return line('key', text);
    },
  },

  revoke: {
    options: [],
    async run({ store, id, now }) {
      if (id === LOCAL)
        throw new Error(`the key ${LOCAL} is no key that could be revoked; with any other key it opens nothing`);
      const key = await store.key(id);
      return done(id, 'revoked', key && (await store.changeKey(id, { revoked_at: key.revoked_at ?? now })));
    },
  },
};

const unknown = (id: string) => new Error(`there is no key ${id}; list shows them`);

function done(id: string, what: string, key: Key | undefined): string {
  if (!key) throw unknown(id);
  return `${key.name} (${id}): ${what}\n`;
}

const line = (name: string, value: string) => `${name.padEnd(15)} ${value}\n`;

function rowOf(key: Key, now: number): Record<string, string> {
  const units = (micro: number) => (micro / 1e6).toFixed(2);
  const usual = (limit: number | null) => String(limit ?? 'usual');
  return {
    id: key.id,
    name: key.name,
    scopes: key.scopes.join(','),
    budget: key.budget === null ? 'none' : units(key.budget),
    spent: units(key.month === monthOf(now) ? key.spent : 0),
    reserved: units(key.reserved),
    open: String(key.open),
    'max open': usual(key.max_open),
    submissions: usual(key.submissions_per_minute),
    requests: usual(key.requests_per_minute),
    created: new Date(key.created_at).toISOString().slice(0, 10),
    revoked: key.revoked_at === null ? '' : new Date(key.revoked_at).toISOString().slice(0, 10),
  };
}

function table(rows: Record<string, string>[]): string {
  const names = Object.keys(rows[0]!);
  const widths = names.map((name) => Math.max(name.length, ...rows.map((row) => row[name]!.length)));
  const print = (cells: string[]) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd();
  return `${[print(names), ...rows.map((row) => print(names.map((name) => row[name]!)))].join('\n')}\n`;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  process.exitCode = await main(process.argv.slice(2), { env: process.env, out: process.stdout, err: process.stderr });
