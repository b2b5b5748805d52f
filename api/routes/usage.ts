import { Hono } from 'hono';
import * as v from 'valibot';
import { readQuery } from '../http/read-query.ts';
import { limitsOf } from '../keys/access.ts';
import { presentAccount } from '../keys/account.ts';
import type { Services } from '../services.ts';
import { dayOf, monthOf } from '../store/key.ts';

const aDay = v.optional(
  v.pipe(
    v.string(),
    v.check((text) => /^\d{4}-\d\d-\d\d$/.test(text) && isDay(text), 'must be a day, such as 2026-01-31'),
  ),
);
const QUERY = v.object({ since: aDay, until: aDay });
const isDay = (text: string) => !Number.isNaN(Date.parse(text)) && dayOf(Date.parse(text)) === text;

/** GET /usage: what the key has spent, by day (UTC) on which tasks ended; this month's unless `since` or `until` say otherwise. */
export function usage({ config, store, now }: Services) {
  return new Hono().get('/usage', async (c) => {
    const { since, until } = readQuery(c, QUERY);
    const owner = c.get('key').id;
    const from = since ?? `${until?.slice(0, 7) ?? monthOf(now())}-01`;
    const [key, rows] = await Promise.all([
      store.getKey(owner).then((key) => key!),
      store.getUsage(owner, from, until ?? '9999-12-31'),
    ]);
    return c.json(presentAccount(key, rows, limitsOf(key, config), config.prices.currency, now()));
  });
}
