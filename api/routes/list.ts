/** The list of a caller's tasks: whole, as a stream, or a page at a time. */
import { setImmediate } from 'node:timers/promises';
import type { Context } from 'hono';
import * as v from 'valibot';
import { STATUSES } from '../../core/responses.ts';
import type { Config } from '../config.ts';
import { destroyConnectionOnError } from '../http/destroy-on-error.ts';
import type { Services } from '../services.ts';

import type { ListedTask, TaskSelection } from '../store/task.ts';
import { firstIdAt, isTaskId } from '../tasks/id.ts';
import { presentTask } from '../tasks/present.ts';

/** Tasks read from the store at a time, and those of a page if no limit is given. */
export const PAGE = 100;
export const LARGEST_PAGE = 1000;

const aLimit = `must be a whole number from 1 to ${LARGEST_PAGE}`;
const aTime = v.optional(
  v.pipe(
    v.string(),
    v.transform(readTime),
    v.check((ms) => !Number.isNaN(ms), 'must be an ISO 8601 time with its zone, such as 2026-01-31T18:00:00Z'),
  ),
);
/** What the address may say. */
export const LIST_QUERY = {
  limit: v.optional(
    v.pipe(v.string(), v.digits(aLimit), v.transform(Number), v.minValue(1, aLimit), v.maxValue(LARGEST_PAGE, aLimit)),
  ),
  cursor: v.optional(v.pipe(v.string(), v.check(isTaskId, 'must be the cursor of a link to the next page'))),
  status: v.optional(v.picklist(STATUSES, `must be one of ${STATUSES.join(', ')}`)),
  /** created at or after it; milliseconds since 1970 */
  since: aTime,
  /** created before it */
  until: aTime,
};
type ListQuery = v.InferOutput<v.ObjectSchema<typeof LIST_QUERY, undefined>>;

export function listOf({ config, store, bucket, now }: Services) {
  /** The tasks as JSON, with commas between. */
  async function texts(tasks: ListedTask[]): Promise<string> {
    const options = { bucket, linkSeconds: config.linkSeconds, now };
    return (await Promise.all(tasks.map(async (task) => JSON.stringify(await presentTask(task, options))))).join(',');
  }

  /** The cursor is the last id of the page before. It lets nobody see more: every query names the owner. */
  async function onePage(c: Context, selection: TaskSelection, limit: number): Promise<Response> {
    const tasks = await store.list({ ...selection, limit: limit + 1 });
    const page = tasks.slice(0, limit);
    if (tasks.length > limit) {
      c.header('link', nextLink(c, config, page.at(-1)!.id));
    }
    return c.body(`[${await texts(page)}]`, 200, { 'content-type': 'application/json' });
  }

  async function all(c: Context, selection: TaskSelection): Promise<Response> {
    const first = await store.list({ ...selection, limit: PAGE }); // an unreachable store is an error before the response has begun
    return c.body(destroyConnectionOnError(c, chunks(selection, first)), 200, { 'content-type': 'application/json' });
  }

  /** One page in memory at a time, each below the last id of the one before: no cursor stays open for a slow reader. */
  async function* chunks(selection: TaskSelection, first: ListedTask[]): AsyncGenerator<Uint8Array> {
    const encoder = new TextEncoder();
    yield encoder.encode(`[${await texts(first)}`);
    for (let tasks = first; tasks.length === PAGE; ) {
      await setImmediate(); // lets other requests run between pages: neither the store nor a fast reader need the event loop
      tasks = await store.list({ ...selection, before: tasks.at(-1)!.id, limit: PAGE });
      if (tasks.length > 0) yield encoder.encode(`,${await texts(tasks)}`);
    }
    yield encoder.encode(']');
  }

  /** All that match, newest first; with `limit` or `cursor` a page of them, with the address of the next in `Link`. */
  return (c: Context, owner: string, { limit, cursor, status, since, until }: ListQuery): Promise<Response> => {
    const from = since === undefined ? undefined : firstIdAt(since);
    const [before] = [cursor, until === undefined ? undefined : firstIdAt(until)]
      .filter((id) => id !== undefined)
      .sort();
    const selection = { owner, status, from, before };
    if (limit === undefined && cursor === undefined) return all(c, selection);
    return onePage(c, selection, limit ?? PAGE);
  };
}

/** Where the page after this one is, as the header `Link` says it. */
export function nextLink(c: Context, { publicUrl }: Pick<Config, 'publicUrl'>, last: string): string {
  const { searchParams } = new URL(c.req.url); // the filters stay
  searchParams.set('cursor', last);
  return `<${publicUrl}${c.req.path}?${searchParams}>; rel="next"`;
}

/** Milliseconds since 1970, a part of one counting as a whole; NaN if it is no time. */
function readTime(text: string): number {
  const form = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)\.(\d+))?(Z|[+ -]\d\d:?\d\d)$/i;
  const [, day = '', clock, fraction = '', zone = ''] = form.exec(text) ?? [];
  const midnight = Date.parse(`${day}T00:00Z`);
  if (Number.isNaN(midnight) || !new Date(midnight).toISOString().startsWith(day)) return Number.NaN; // such as a 30th of February
  const part = Number(fraction.slice(0, 3).padEnd(3, '0')) + (/[1-9]/.test(fraction.slice(3)) ? 1 : 0);
  const signed = zone.toUpperCase().replace(' ', '+'); // a + that was not escaped in the address is read as a space
  return Date.parse(`${day}T${clock}${signed}`) + part;
}
