import { Hono } from 'hono';
import * as v from 'valibot';
import { limitsOf } from '../keys/access.ts';
import { readQuery } from '../read-query.ts';
import type { Services } from '../services.ts';
import { type DayOfUse, dayOf, monthOf } from '../store/key.ts';
import { ENDED } from '../store/task.ts';

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
    const month = monthOf(now());
    const [key, rows] = await Promise.all([
      store.key(owner).then((key) => key!),
      store.usage(owner, since ?? `${until?.slice(0, 7) ?? month}-01`, until ?? '9999-12-31'),
    ]);
    const { maxOpen, submissions, requests } = limitsOf(key, config);
    const finite = (limit: number) => (limit === Infinity ? null : limit);
    const spent = key.month === month ? key.spent : 0;
    return c.json({
      currency: config.prices.currency,
      month,
      budget: key.budget,
      spent,
      reserved: key.reserved,
      left: key.budget === null ? null : Math.max(0, key.budget - spent - key.reserved),
      open_tasks: key.open,
      limits: {
        open_tasks: finite(maxOpen),
        submissions_per_minute: finite(submissions.perMinute),
        requests_per_minute: finite(requests.perMinute),
      },
      days: [...new Set(rows.map(({ day }) => day))].map((day) =>
        sumOf(
          day,
          rows.filter((row) => row.day === day),
        ),
      ),
    });
  });
}

function sumOf(day: string, rows: DayOfUse[]) {
  const sum = (name: 'tasks' | 'amount' | 'gpu_time' | 'stills') => rows.reduce((total, row) => total + row[name], 0);
  const byStatus = ENDED.map((status) => [status, rows.find((row) => row.status === status)?.tasks ?? 0]);
  return {
    day,
    tasks: sum('tasks'),
    ...(Object.fromEntries(byStatus) as Record<(typeof ENDED)[number], number>),
    gpu_seconds: sum('gpu_time') / 1000,
    stills: sum('stills'),
    amount: sum('amount'),
  };
}
