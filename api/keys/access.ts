/** Authentication and authorization: each request has an API key, or, as long as no key was ever created, comes from this machine. */
import type { HttpBindings } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import { formatCount } from '../../core/format.ts';
import { MINUTE, SECOND } from '../../core/time.ts';
import type { Config } from '../config.ts';
import { isLoopback } from '../http/host.ts';
import { loopbackOnly } from '../http/loopback-only.ts';
import { Problem, unavailable } from '../http/problem.ts';
import type { Services } from '../services.ts';
import { type Key, LOCAL, type Scope } from '../store/key.ts';
import { parseKeyId, verifyKey } from './key-value.ts';
import { rateHeaders, secondsUntilNext, takeToken } from './rate.ts';

/** A revocation takes effect after this. */
export const KEY_CACHE_TTL = SECOND;
/** Invalid keys per address and minute; beyond it, unknown keys from there don't reach the store. */
const MAX_FAILED_ATTEMPTS = 60;
/** Keys and addresses in memory. */
const MAX_CACHED = 10_000;

const DEFAULT_LIMITS = { maxActive: 100, uploadsMB: 1000, submissions: 60, requests: 1200 };

declare module 'hono' {
  interface ContextVariableMap {
    /** the key of the request */
    key: Key;
    /** Whether the request's key would still be admitted: it may be revoked meanwhile. Set with its scope. @throws Problem 503 */
    isAdmitted: () => Promise<boolean>;
    /** Requires a scope of the request's key. @throws Problem 403 */
    requireScope: (scope: Scope) => void;
  }
}

/** The key's own limits, else those of the environment, else the defaults; none for the key of this machine. */
export function limitsOf(key: Key, { keyLimits }: Pick<Config, 'keyLimits'>) {
  const byDefault = (name: keyof typeof DEFAULT_LIMITS) =>
    keyLimits[name] ?? (key.id === LOCAL ? Infinity : DEFAULT_LIMITS[name]);
  return {
    maxActive: key.max_active ?? byDefault('maxActive'),
    uploadsMB: byDefault('uploadsMB'),
    submissions: key.submissions_per_minute ?? byDefault('submissions'),
    requests: key.requests_per_minute ?? byDefault('requests'),
  };
}

export function createAccess({ config, store, now, uptime }: Pick<Services, 'config' | 'store' | 'now' | 'uptime'>) {
  const cachedKeys = new Map<string, { key: Key; until: number }>();
  const arrivals = new Map<string, number>(); // by key: see rate.ts
  const failedAttempts = new Map<string, { count: number; until: number }>(); // by address
  let keysExist = false; // never false again
  let keysExistUntil = 0;

  /** Whether requests need a key: if other machines can connect, or if a key was ever created. */
  async function isKeyRequired(): Promise<boolean> {
    if (!isLoopback(config.host) || keysExist) return true;
    if (uptime() >= keysExistUntil) {
      keysExist = await orUnavailable(store.hasKeys());
      keysExistUntil = uptime() + KEY_CACHE_TTL;
    }
    return keysExist;
  }

  async function getKey(id: string): Promise<Key | undefined> {
    const cached = cachedKeys.get(id);
    if (cached && uptime() < cached.until) return cached.key;
    const key = await orUnavailable(store.getKey(id));
    if (key) cache(cachedKeys, id, { key, until: uptime() + KEY_CACHE_TTL });
    else cachedKeys.delete(id);
    return key;
  }

  async function authenticate(c: Context): Promise<Key> {
    if (!(await isKeyRequired())) return (await getKey(LOCAL))!;
    if (c.req.header('authorization') === undefined) throw unauthorized('send an API key: Authorization: Bearer i2v_…');
    const value = keyValueOf(c);
    const id = parseKeyId(value);
    const attempts = attemptsFrom(clientAddress(c, config.trustProxy));
    const isBlocked = attempts.count >= MAX_FAILED_ATTEMPTS;
    const key = id === undefined || (isBlocked && !cachedKeys.has(id)) ? undefined : await getKey(id);
    if (verifyKey(value, key, now())) return key!;
    if (isBlocked)
      throw new Problem('too_many_guesses', 'too many invalid API keys from this address; try again in a minute', {
        headers: { 'retry-after': '60' },
      });
    attempts.count++;
    throw unauthorized('this API key is not valid', ', error="invalid_token"');
  }

  async function isAdmitted(c: Context, id: string, scope: Scope): Promise<boolean> {
    const key = await getKey(id);
    const isOpen = id === LOCAL && !(await isKeyRequired());
    return (isOpen || verifyKey(keyValueOf(c), key, now())) && hasScope(key!, scope);
  }

  function attemptsFrom(address: string) {
    const known = failedAttempts.get(address);
    if (known && uptime() < known.until) return known;
    const attempts = { count: 0, until: uptime() + MINUTE };
    cache(failedAttempts, address, attempts);
    return attempts;
  }

  /** Counts a request in this process; only submissions are counted in the store. @returns headers. @throws Problem 429 */
  function countRequest(key: Key): Record<string, string> {
    const { requests } = limitsOf(key, config);
    if (requests === Infinity) return {};
    const tat = arrivals.get(key.id) ?? uptime();
    const next = takeToken(tat, uptime(), requests);
    const headers = rateHeaders('requests', next ?? tat, uptime(), requests);
    if (next === undefined)
      throw new Problem(
        'too_many_requests',
        `this API key may send at most ${formatCount(requests, 'request')} a minute`,
        {
          headers: { ...headers, 'retry-after': String(secondsUntilNext(tat, uptime(), requests)) },
        },
      );
    cache(arrivals, key.id, next);
    return headers;
  }

  const guardLoopback = loopbackOnly(config.corsOrigins);

  return {
    isKeyRequired,

    /** As long as no key is required, admits only programs on this machine and our own page. */
    guard: (async (c, next) => ((await isKeyRequired()) ? next() : guardLoopback(c, next))) satisfies MiddlewareHandler,

    /** Admits requests whose key has this scope or `admin`, within its rate limit. With `any`, a later `requireScope` checks the scope. */
    requireScope:
      (scope: Scope | 'any'): MiddlewareHandler =>
      async (c, next) => {
        const key = await authenticate(c);
        c.set('key', key);
        c.set('requireScope', (scope) => {
          if (!hasScope(key, scope)) throw lacksScope(scope);
          c.set('isAdmitted', () => isAdmitted(c, key.id, scope));
        });
        if (scope !== 'any') c.get('requireScope')(scope);
        for (const [name, value] of Object.entries(countRequest(key))) c.header(name, value);
        await next();
      },
  };
}

const keyValueOf = (c: Context) => /^Bearer +(\S+) *$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? '';

const lacksScope = (scope: Scope) =>
  new Problem('insufficient_scope', `this API key lacks the scope ${scope}`, {
    headers: { 'www-authenticate': `Bearer realm="img2vid", error="insufficient_scope", scope="${scope}"` },
  });
const hasScope = ({ scopes }: Key, scope: Scope) => scopes.includes(scope) || scopes.includes('admin');

/** Adds an entry at the end of the map. Only the oldest one gives way: clearing the map would unblock every address that guesses. */
function cache<V>(map: Map<string, V>, name: string, value: V): void {
  map.delete(name);
  if (map.size >= MAX_CACHED) map.delete(map.keys().next().value!);
  map.set(name, value);
}

/** @throws Problem 503 the store can't be reached, so nobody can be admitted */
const orUnavailable = <T>(query: Promise<T>): Promise<T> =>
  query.catch((cause) => {
    throw unavailable('API keys can’t be looked up now; try again', cause);
  });

/** The key was revoked while its request was answered. */
export const noLongerValid = () => unauthorized('this API key is no longer valid', ', error="invalid_token"');
const unauthorized = (detail: string, error = '') =>
  new Problem('unauthorized', detail, { headers: { 'www-authenticate': `Bearer realm="img2vid"${error}` } });

/** The address of the connection, or the one that the first of our `proxies` saw. */
function clientAddress(c: Context, proxies: number): string {
  const remote = (c.env as Partial<HttpBindings> | undefined)?.incoming?.socket.remoteAddress ?? '';
  if (proxies === 0) return remote;
  const hops = (c.req.header('x-forwarded-for') ?? '').split(',').map((hop) => hop.trim());
  return hops.at(-proxies) || remote;
}
