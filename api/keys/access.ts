/** Who may do what: each request has an API key, or, as long as no key was ever made, comes from this machine. */
import type { HttpBindings } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import { MINUTE, SECOND } from '../../core/time.ts';
import type { Config } from '../config.ts';
import { isLoopback } from '../http/host.ts';
import { loopbackOnly } from '../http/loopback-only.ts';
import { Problem } from '../http/problem.ts';
import type { Services } from '../services.ts';
import { type Key, LOCAL, type Scope } from '../store/key.ts';
import { parseKeyId, verifyKey } from './key-value.ts';
import { rateHeaders, secondsUntilNext, takeToken } from './rate.ts';

/** How long a key that was read counts as known: a revocation is heeded after this. */
const KEY_CACHE_TTL = SECOND;
/** Keys that open nothing, from one address in a minute; then the store is not asked about its further ones. */
const MAX_FAILED_ATTEMPTS = 60;
/** Keys and addresses remembered; of more all are forgotten. */
const MAX_CACHED = 10_000;

/** What a key without limits of its own may do. */
const DEFAULT_LIMITS = { maxActive: 100, submissions: 60, requests: 1200 };

declare module 'hono' {
  interface ContextVariableMap {
    /** whose request it is */
    key: Key;
  }
}

/** How many tasks a key may have open, and how often it may submit and ask. The key of this machine may do all, unless said otherwise. */
export function limitsOf(key: Key, { keyLimits }: Pick<Config, 'keyLimits'>) {
  const usual = (name: keyof typeof DEFAULT_LIMITS) =>
    keyLimits[name] ?? (key.id === LOCAL ? Infinity : DEFAULT_LIMITS[name]);
  return {
    maxActive: key.max_active ?? usual('maxActive'),
    submissions: { perMinute: key.submissions_per_minute ?? usual('submissions') },
    requests: { perMinute: key.requests_per_minute ?? usual('requests') },
  };
}

export function createAccess({ config, store, now }: Pick<Services, 'config' | 'store' | 'now'>) {
  const known = new Map<string, { key: Key; until: number }>();
  const asked = new Map<string, number>(); // by key: see rate.ts
  const failedAttempts = new Map<string, { count: number; until: number }>(); // by address
  let keysExist = false; // once there are, there are for ever
  let keysExistUntil = 0;

  /** Whether requests need a key: where others than this machine may come, and where one was ever made. */
  async function isKeyRequired(): Promise<boolean> {
    if (!isLoopback(config.host) || keysExist) return true;
    if (now() >= keysExistUntil) {
      keysExist = await orUnavailable(store.hasKeys());
      keysExistUntil = now() + KEY_CACHE_TTL;
    }
    return keysExist;
  }

  async function find(id: string): Promise<Key | undefined> {
    const kept = known.get(id);
    if (kept && now() < kept.until) return kept.key;
    const key = await orUnavailable(store.getKey(id));
    if (known.size >= MAX_CACHED) known.clear();
    if (key) known.set(id, { key, until: now() + KEY_CACHE_TTL });
    else known.delete(id);
    return key;
  }

  async function keyOf(c: Context): Promise<Key> {
    if (!(await isKeyRequired())) return (await find(LOCAL))!;
    const given = c.req.header('authorization');
    if (given === undefined) throw unauthorized('send an API key: Authorization: Bearer i2v_…');
    const [, text = ''] = /^Bearer +(\S+) *$/i.exec(given) ?? [];
    const id = parseKeyId(text);
    const address = addressOf(c, config.trustProxy);
    const isTooMany = failures(address) >= MAX_FAILED_ATTEMPTS;
    const key = id === undefined || (isTooMany && !known.has(id)) ? undefined : await find(id);
    if (key && verifyKey(text, key, now())) return key;
    if (!key) verifyKey(text, undefined, now()); // takes as long as for a key that exists
    if (isTooMany)
      throw new Problem(429, 'too_many_guesses', 'too many API keys from here were wrong; try again in a minute', {
        headers: { 'retry-after': '60' },
      });
    failedAttempts.get(address)!.count++;
    throw unauthorized('this API key is not valid', ', error="invalid_token"');
  }

  function failures(address: string): number {
    const entry = failedAttempts.get(address);
    if (entry && now() < entry.until) return entry.count;
    if (failedAttempts.size >= MAX_CACHED) failedAttempts.clear();
    failedAttempts.set(address, { count: 0, until: now() + MINUTE });
    return 0;
  }

  /** Counts a request. Each process counts for itself; what costs money is counted in the store. */
  function count(key: Key): Record<string, string> {
    const { requests } = limitsOf(key, config);
    if (requests.perMinute === Infinity) return {};
    const at = asked.get(key.id) ?? 0;
    const next = takeToken(at, now(), requests);
    const headers = rateHeaders('requests', next ?? at, now(), requests);
    if (next === undefined)
      throw new Problem(429, 'too_many_requests', `this key has ${requests.perMinute} requests a minute`, {
        headers: { ...headers, 'retry-after': String(secondsUntilNext(at, now(), requests)) },
      });
    if (asked.size >= MAX_CACHED) asked.clear();
    asked.set(key.id, next);
    return headers;
  }

  const fromHere = loopbackOnly(config.corsOrigins);

  return {
    isKeyRequired,

    /** Without keys: only programs on this machine and our own page. */
    guard: (async (c, next) => ((await isKeyRequired()) ? next() : fromHere(c, next))) satisfies MiddlewareHandler,

    /** Lets those pass whose key has this scope; an admin's has all. */
    requireScope:
      (scope: Scope): MiddlewareHandler =>
      async (c, next) => {
        const key = await keyOf(c);
        if (!key.scopes.includes(scope) && !key.scopes.includes('admin'))
          throw new Problem(403, 'insufficient_scope', `this API key has not the scope ${scope}`, {
            headers: { 'www-authenticate': `Bearer realm="img2vid", error="insufficient_scope", scope="${scope}"` },
          });
        c.set('key', key);
        for (const [name, value] of Object.entries(count(key))) c.header(name, value);
        await next();
      },
  };
}

/** @throws Problem 503 where the store can't be asked: nobody can be let in */
function orUnavailable<T>(question: Promise<T>): Promise<T> {
  return question.catch((cause) => {
    const headers = { 'retry-after': '5' };
    throw new Problem(503, 'unavailable', 'API keys can’t be looked up now; try again', { headers, cause });
  });
}

const unauthorized = (detail: string, error = '') =>
  new Problem(401, 'unauthorized', detail, { headers: { 'www-authenticate': `Bearer realm="img2vid"${error}` } });

/** The caller's address: of the connection, or what the last of so many proxies that are ours says. */
function addressOf(c: Context, proxies: number): string {
  const remote = (c.env as Partial<HttpBindings> | undefined)?.incoming?.socket.remoteAddress ?? '';
  if (proxies === 0) return remote;
  const hops = (c.req.header('x-forwarded-for') ?? '').split(',').map((hop) => hop.trim());
  return hops.at(-proxies) || remote;
}
