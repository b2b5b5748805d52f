/** What a client may have meant by a path that does not exist. */
import { findSimilar } from '../../core/unknown-names.ts';
import type { Scope } from '../store/key.ts';

export interface Call {
  method: string;
  /** Hono's pattern */
  path: string;
  scope: Scope | 'any' | undefined;
  /** whether the documentation names it */
  isPublished: boolean;
}

/** Characters of a path that are compared: the comparison takes quadratic time. */
const MAX_PATH = 200;
/** What other services put before their paths. */
const PREFIX = /^(\/(api|v\d+))+(?=\/)/i;

/** @returns advice: a call of a similar path, with the request's method if there is one, else the documentation */
export function suggestCall({ method, path }: { method: string; path: string }, calls: Call[]): string {
  const [, name, id] = /^\/(status|cancel|delete)\/([^/]+)$/.exec(path) ?? [];
  if (name) return `the id belongs in the query: /${name}?id=${id}`;
  const [, deleted] = /^\/tasks\/([^/]+)\/delete$/.exec(path) ?? [];
  if (deleted) return `did you mean DELETE /tasks/${deleted}?`;
  const asked = path.slice(0, MAX_PATH).replace(/\/+$/, '');
  return suggestFor(asked, method, calls) ?? suggestFor(asked.replace(PREFIX, ''), method, calls) ?? 'see /docs';
}

function suggestFor(asked: string, method: string, calls: Call[]): string | undefined {
  const segments = asked.split('/');
  const candidates = calls
    .filter((call) => call.isPublished && !call.path.includes('*') && hasSimilarNames(call.path))
    .map((call) => ({ ...call, path: call.path.replace(/:\w+/g, (_, at: number) => segmentAt(call.path, at)) }));
  const similar = findSimilar(asked, [...new Set(candidates.map((call) => call.path))]);
  if (similar === undefined) return undefined;
  const there = candidates.filter((call) => call.path === similar);
  const meant = there.find((call) => call.method === method) ?? there[0]!;
  return `did you mean ${meant.method} ${similar}?`;

  /** Whether the paths are similar without the parameters: next to a long id, which is in both, any names would be. */
  function hasSimilarNames(pattern: string): boolean {
    const names = pattern.split('/');
    const isName = (_: string, at: number) => !names[at]?.startsWith(':');
    const [given, own] = [segments.slice(0, names.length), names].map((all) => all.filter(isName).join('/'));
    return findSimilar(given!, [own!]) !== undefined;
  }

  /** The request's segment in the place of a parameter of the pattern. */
  function segmentAt(pattern: string, at: number): string {
    return segments[pattern.slice(0, at).split('/').length - 1] || 'ID';
  }
}
