/** Makes a resource on RunPod what `endpoint.json` wants, and prints what differs. */
import type { Kind, Wanted } from './runpod-resources.ts';
import type { Rest } from './runpod-rest.ts';

type Values = Record<string, unknown>;

export interface Difference {
  /** The field of the request's body: `workers`. */
  field: string;
  /** The part of it that differs: `workers.max`. */
  path: string;
  /** Undefined for variables, whose values are never shown. */
  from?: string;
  to: string;
}

/** What differs in the fields of `wanted`. */
export function compare(actual: Values, wanted: Values): Difference[] {
  return Object.entries(wanted).flatMap(([field, value]) => {
    const [before, after] = [flatten(field, actual[field]), flatten(field, value)];
    const paths = [...new Set([...Object.keys(after), ...Object.keys(before)])];
    const changed = paths.filter((path) => before[path] !== after[path]);
    return changed.map((path): Difference => {
      const [from, to] = [before[path], after[path]];
      if (field !== 'env') return { field, path, from: from ?? 'none', to: to ?? 'none' };
      return { field, path, to: from === undefined ? 'set' : to === undefined ? 'removed' : 'changed' };
    });
  });
}

/** A field's values as text by path. Lists count as sets; what is empty is left out. */
function flatten(path: string, value: unknown): Record<string, string> {
  if (value === undefined || value === null || value === '') return {};
  if (Array.isArray(value)) return value.length > 0 ? { [path]: [...value].sort().join(', ') } : {};
  if (typeof value !== 'object') return { [path]: String(value) };
  return Object.assign({}, ...Object.entries(value).map(([part, inner]) => flatten(`${path}.${part}`, inner)));
}

export interface ReconcileOptions {
  rest: Rest;
  /** Only prints what would be done. */
  dryRun: boolean;
  log: (line: string) => void;
  /** Gets what was created or changed. */
  done: string[];
}

/**
 * @param found what exists
 * @param creation more fields of a creation's body
 * @returns the resource (undefined in a dry run that would create it), and the fields that did or would change
 */
export async function reconcile<T extends { id: string; name: string }>(
  { rest, dryRun, log, done }: ReconcileOptions,
  kind: Kind<T>,
  found: T | undefined,
  { name, ...wanted }: Wanted,
  creation: Values = {},
): Promise<{ resource: T | undefined; changed: string[] }> {
  const title = `${kind.noun} ${name}`;
  const differences = compare((found ?? {}) as Values, wanted);
  const changed = differences.map(({ field }) => field);
  if (found && changed.length === 0) {
    log(`${title}: up to date`);
    return { resource: found, changed };
  }
  let resource = found;
  if (!dryRun) {
    const changes = Object.fromEntries(Object.entries(wanted).filter(([field]) => changed.includes(field)));
    resource = found
      ? await rest.change(kind, found, changes)
      : await rest.create(kind, { name, ...creation, ...wanted });
    done.push(`${title} (${resource.id})`);
  }
  log(`${title}: ${dryRun ? 'would be ' : ''}${found ? 'changed' : 'created'}`);
  const width = Math.max(...differences.map(({ path }) => path.length));
  for (const { path, from, to } of differences)
    log(`  ${path.padEnd(width)}  ${found && from !== undefined ? `${from} → ${to}` : to}`);
  const ignored = dryRun ? [] : compare(resource as Values, wanted);
  if (ignored.length > 0) log(`  RunPod did not apply: ${ignored.map(({ path }) => path).join(', ')}`);
  return { resource, changed };
}
