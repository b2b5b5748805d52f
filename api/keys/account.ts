import { ENDED_STATUSES, type Usage, type UsageDay } from '../../core/responses.ts';
import { type DailyUsage, type Key, monthOf } from '../store/key.ts';

/** The most of each that a key may have; Infinity: any number. */
interface Limits {
  maxActive: number;
  submissions: { perMinute: number };
  requests: { perMinute: number };
}

/**
 * A key's account as callers see it. Amounts are in millionths of the currency.
 * @param rows what its tasks have used, by day and by how they ended
 * @param now milliseconds since 1970
 */
export function presentAccount(key: Key, rows: DailyUsage[], limits: Limits, currency: string, now: number): Usage {
  const month = monthOf(now);
  const finite = (limit: number) => (limit === Infinity ? null : limit);
  const spent = key.month === month ? key.spent : 0;
  return {
    currency,
    month,
    budget: key.budget,
    spent,
    reserved: key.reserved,
    left: key.budget === null ? null : Math.max(0, key.budget - spent - key.reserved),
    open_tasks: key.active_tasks,
    limits: {
      open_tasks: finite(limits.maxActive),
      submissions_per_minute: finite(limits.submissions.perMinute),
      requests_per_minute: finite(limits.requests.perMinute),
    },
    days: [...new Set(rows.map(({ day }) => day))].map((day) =>
      sumOf(
        day,
        rows.filter((row) => row.day === day),
      ),
    ),
  };
}

function sumOf(day: string, rows: DailyUsage[]): UsageDay {
  const sum = (name: 'tasks' | 'amount' | 'gpu_time' | 'stills') => rows.reduce((total, row) => total + row[name], 0);
  const byStatus = ENDED_STATUSES.map((status) => [status, rows.find((row) => row.status === status)?.tasks ?? 0]);
  return {
    day,
    tasks: sum('tasks'),
    ...(Object.fromEntries(byStatus) as Record<(typeof ENDED_STATUSES)[number], number>),
    gpu_seconds: sum('gpu_time') / 1000,
    stills: sum('stills'),
    amount: sum('amount'),
  };
}
