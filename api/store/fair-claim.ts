/**
 * Which due rows are claimed next, where places are scarce. The owner with the fewest rows under way comes first. An owner may take its
 * n-th place only while n is at most `share` times the number of free places. So a lone owner leaves one place in `share` + 1 free, several
 * leave fewer, and an owner with none under way finds a place unless there are as many owners as places.
 */
import { type RawBuilder, sql } from 'kysely';
import type { Claim, Dialect, Tables } from './dialect.ts';

/** Owners that share one claim: SQLite has a limit on the parts of a compound select. */
const MAX_OWNERS = 100;

/** A table with an index on (owner, due) under the condition. */
export interface Queue {
  table: 'tasks' | 'deliveries';
  condition: RawBuilder<boolean>;
  /** column with the time from which a row may be claimed */
  due: keyof Tables['tasks'] | keyof Tables['deliveries'];
}

export interface FairClaim extends Claim {
  /** free places, at least `limit` */
  free: number;
  share: number;
  /** most places of one owner */
  maxPerOwner?: number;
}

export interface QueueOwner {
  owner: string;
  /** its rows under way, which have a place */
  count: number;
}

/**
 * The owners of due rows; a random part of them if there are very many. Skips from owner to owner in the index.
 * @param count of the rows under way, of the row `owners`
 * @param within also rows that are due in so many milliseconds
 */
export async function dueOwners(
  { db, fromNow }: Dialect,
  { table, condition, due }: Queue,
  count: RawBuilder<number> = sql`0`,
  within = 0,
): Promise<QueueOwner[]> {
  const [from, at] = [sql.table(table), sql.ref(due)];
  const { rows } = await sql<QueueOwner>`
    with recursive owners(owner) as (
      select min(owner) from ${from} where ${condition}
      union all
      select (select min(owner) from ${from} where ${condition} and owner > owners.owner) from owners where owner is not null
    )
    select owner, ${count} as count from owners
    where owner is not null
    and exists (select 1 from ${from} where ${condition} and owner = owners.owner and ${at} <= ${fromNow(within)})`.execute(
    db,
  );
  const first = Math.max(0, Math.floor(Math.random() * (rows.length - MAX_OWNERS + 1)));
  return rows.slice(first, first + MAX_OWNERS);
}

/**
 * A subquery: the due rows of these owners, with their `position` in the order of claims, from 1, and their `place` among the owner's own.
 * @param limit rows of each owner
 * @param within also rows that are due in so many milliseconds
 */
export function inTurn(
  { fromNow }: Dialect,
  { table, condition, due }: Queue,
  owners: QueueOwner[],
  limit: number,
  within = 0,
): RawBuilder<unknown> {
  const [from, at] = [sql.table(table), sql.ref(due)];
  const queues = owners.map(
    ({ owner, count }) => sql`select * from (
      select id, owner, ${at} as due, cast(${count} as bigint) as count from ${from}
      where ${condition} and owner = ${owner} and ${at} <= ${fromNow(within)} order by ${at} limit ${limit}) as queue`,
  );
  return sql`(
    select id, place, row_number() over (order by place, due) as position from (
      select id, due, count + row_number() over (partition by owner order by due) as place
      from (${sql.join(queues, sql` union all `)}) as queues
    ) as placed)`;
}

/** A subquery: the ids of the due rows of these owners that are next. */
export function fairest(
  dialect: Dialect,
  queue: Queue,
  owners: QueueOwner[],
  { limit, free, share, maxPerOwner = Number.MAX_SAFE_INTEGER }: FairClaim,
): RawBuilder<string> {
  return sql`(
    select id from ${inTurn(dialect, queue, owners, limit)} as positioned
    where position <= ${limit}
    and place <= cast(${maxPerOwner} as bigint)
    and place <= cast(${share} as bigint) * (cast(${free} as bigint) + 1 - position))`;
}
