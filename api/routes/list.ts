/** The list of an owner's tasks: all of them as a stream, or one page. */
import { setImmediate } from 'node:timers/promises';
import type { Context } from 'hono';
import * as v from 'valibot';
import { metadataSchema } from '../../core/metadata.ts';
import { choice } from '../../core/parameter-types.ts';
import { STATUSES } from '../../core/task-status.ts';
import { destroyConnectionOnError } from '../http/destroy-on-error.ts';
import { noLongerValid } from '../keys/access.ts';
import { responseHeader } from '../openapi/parts.ts';
import type { Services } from '../services.ts';
import { firstIdAt, TASK_ID } from '../tasks/id.ts';

/** Tasks read from the store at a time, and the default page size. */
const PAGE = 100;
const LARGEST_PAGE = 1000;
/** Tasks that are presented before other requests have their turn. S3 signs up to 44 links of one, each in 0.15 ms of CPU time. */
const PRESENTED_AT_ONCE = 4;

export const pageSize = (largest: number, usual: number) =>
  v.optional(
    v.pipe(
      v.string(),
      v.metadata({ type: 'integer', minimum: 1, maximum: largest, description: `Page size, default ${usual}` }),
      v.check(
        (text) => /^\d+$/.test(text) && Number(text) >= 1 && Number(text) <= largest,
        `must be a whole number from 1 to ${largest}`,
      ),
      v.transform(Number),
    ),
  );
export const limit = pageSize(LARGEST_PAGE, PAGE);
export const cursor = v.optional(
  v.pipe(
    v.string(),
    v.regex(TASK_ID, 'must be the cursor from the Link header of the previous page'),
    v.description('Position of a page, from the Link header of the previous page'),
  ),
);
const timestamp = (description: string) =>
  v.optional(
    v.pipe(
      v.string(),
      v.metadata({ format: 'date-time', description }),
      v.transform(parseTime),
      v.check((ms) => !Number.isNaN(ms), 'must be an ISO 8601 time with its zone, such as 2026-01-31T18:00:00Z'),
    ),
  );
/** Query parameters of the list; times become milliseconds since 1970. */
export const LIST_QUERY = {
  limit,
  cursor,
  status: v.optional(choice(STATUSES, 'Only tasks with this status')),
  since: timestamp('Only tasks created at this time or later'),
  until: timestamp('Only tasks created before this time'),
  metadata: v.optional(metadataSchema('Only tasks whose metadata has these texts: metadata[KEY]=TEXT')),
};
type ListQuery = v.InferOutput<v.ObjectSchema<typeof LIST_QUERY, undefined>>;

/** Responds with all matching tasks, newest first, or with `limit` or `cursor` with one page of them. */
export async function respondWithList(
  c: Context,
  services: Services,
  owner: string,
  { limit, cursor, ...filter }: ListQuery,
): Promise<Response> {
  const { store, presentTask, takeTurn } = services;
  const selection = selectTasks(owner, cursor, filter);
  if (limit !== undefined || cursor !== undefined)
    return respondWithPage(c, services, limit, (limit) => store.list({ ...selection, limit }), presentTask);
  const readNext = (before: string | undefined) =>
    takeTurn(owner, async (): Promise<ListPage> => {
      const tasks = await store.list({ ...selection, before, limit: PAGE });
      const texts = (await presentAll(tasks, presentTask)).map((task) => JSON.stringify(task));
      return { text: texts.join(','), next: tasks.length === PAGE ? tasks.at(-1)!.id : undefined };
    });
  const first = await readNext(selection.before); // an unreachable store is an error before the response has begun
  const chunks = writeList(first, readNext, c.get('isAdmitted'));
  return c.body(destroyConnectionOnError(c, chunks), 200, { 'content-type': 'application/json' });
}

/** The selection of an owner's tasks for the store. @param cursor id that the tasks are older than */
export function selectTasks(
  owner: string,
  cursor: string | undefined,
  { status, since, until, metadata }: Omit<ListQuery, 'limit' | 'cursor'>,
) {
  const idAt = (ms: number | undefined) => (ms === undefined ? undefined : firstIdAt(ms));
  const [before] = [cursor, idAt(until)].filter((id) => id !== undefined).sort();
  return { owner, status, metadata, from: idAt(since), before };
}

interface ListPage {
  /** JSON, with commas between the tasks */
  text: string;
  /** the last id, if there may be more tasks */
  next: string | undefined;
}

/** One page in memory at a time, each below the last id of the one before: no cursor stays open for a slow reader. */
async function* writeList(
  first: ListPage,
  readNext: (before: string) => Promise<ListPage>,
  isAdmitted: () => Promise<boolean>,
) {
  const encoder = new TextEncoder();
  yield encoder.encode(`[${first.text}`);
  for (let { next } = first; next !== undefined; ) {
    if (!(await isAdmitted())) throw noLongerValid();
    const page = await readNext(next);
    if (page.text !== '') yield encoder.encode(`,${page.text}`);
    ({ next } = page);
  }
  yield encoder.encode(']');
}

export const PAGE_HEADERS = { Link: responseHeader('URL of the next page, if there is one, with rel="next"') };

/**
 * Responds with one page and, if there is more, the header `Link` with the URL of the next one. Its cursor is the last id of this page;
 * it exposes nothing, because every query names the owner.
 * @param read reads the first items, at most `limit`
 */
export async function respondWithPage<T extends { id: string }>(
  c: Context,
  services: Pick<Services, 'config' | 'takeTurn'>,
  limit = PAGE,
  read: (limit: number) => Promise<T[]>,
  present: (item: T) => object | Promise<object>,
): Promise<Response> {
  const { presented, next } = await readPage(c, services, limit, read, present);
  if (next !== undefined) {
    const { searchParams } = new URL(c.req.url); // the filters stay
    searchParams.set('cursor', next);
    c.header('link', `<${services.config.publicUrl}${c.req.path}?${searchParams}>; rel="next"`);
  }
  return c.json(presented);
}

/** Reads one page when it is its owner's turn. @returns its items and, if there is more, the cursor of the next page */
export async function readPage<T extends { id: string }, P extends object>(
  c: Context,
  { takeTurn }: Pick<Services, 'takeTurn'>,
  limit: number,
  read: (limit: number) => Promise<T[]>,
  present: (item: T) => P | Promise<P>,
): Promise<{ presented: P[]; next: string | undefined }> {
  return takeTurn(c.get('key').id, async () => {
    const items = await read(limit + 1);
    const presented = await presentAll(items.slice(0, limit), present);
    return { presented, next: items.length > limit ? items[limit - 1]!.id : undefined };
  });
}

/** Other requests run between every few items. */
async function presentAll<T, P extends object>(items: T[], present: (item: T) => P | Promise<P>): Promise<P[]> {
  const presented: P[] = [];
  for (const item of items) {
    if (presented.length % PRESENTED_AT_ONCE === 0) await setImmediate();
    presented.push(await present(item));
  }
  return presented;
}

/** Milliseconds since 1970, rounded up; NaN if the text is no ISO 8601 time with a zone. */
function parseTime(text: string): number {
  const form = /^(\d{4}-\d\d-\d\d)T(\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)\.(\d+))?(Z|[+ -]\d\d:?\d\d)$/i;
  const [, day = '', clock, fraction = '', zone = ''] = form.exec(text) ?? [];
  const midnight = Date.parse(`${day}T00:00Z`);
  if (Number.isNaN(midnight) || !new Date(midnight).toISOString().startsWith(day)) return Number.NaN; // such as February 30
  const part = Number(fraction.slice(0, 3).padEnd(3, '0')) + (/[1-9]/.test(fraction.slice(3)) ? 1 : 0);
  const signed = zone.toUpperCase().replace(' ', '+'); // an unescaped + in a query is decoded as a space
  return Date.parse(`${day}T${clock}${signed}`) + part;
}
