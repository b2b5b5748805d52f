import type { Usage, UsageDay } from '../../core/responses.ts';
import { ENDED_STATUSES } from '../../core/task-status.ts';
import type { Config } from '../config.ts';
import { type DailyUsage, type Key, leftOf, monthOf, spentOf } from '../store/key.ts';
import { limitsOf } from './access.ts';

/**
 * A key's account as clients see it. Amounts are micro-units.
 * @param usage of its tasks, by day and status, sorted by day
 * @param now milliseconds since 1970
 */
export function presentAccount(key: Key, usage: DailyUsage[], config: Config, now: number): Usage {
  const limits = limitsOf(key, config);
  const finite = (limit: number) => (limit === Infinity ? null : limit);
  return {
    currency: config.prices.currency,
    month: monthOf(now),
    budget: key.budget,
    spent: spentOf(key, now),
    reserved: key.reserved,
    left: leftOf(key, now),
    open_tasks: key.active_tasks,
    limits: {
      open_tasks: finite(limits.maxActive),
      submissions_per_minute: finite(limits.submissions),
      requests_per_minute: finite(limits.requests),
    },
    days: [...new Set(usage.map(({ day }) => day))].map((day) => totalOf(day, usage)),
  };
}

function totalOf(day: string, usage: DailyUsage[]): UsageDay {
  const rows = usage.filter((row) => row.day === day);
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
