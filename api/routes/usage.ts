import * as v from 'valibot';
import { endpoint } from '../http/endpoint.ts';
import { invalidInput } from '../http/problem.ts';
import { presentAccount } from '../keys/account.ts';
import { jsonResponse } from '../openapi/parts.ts';
import { dayOf, monthOf } from '../store/key.ts';

const invalidDay = 'must be a day, such as 2026-01-31';
const isDay = (text: string) => !Number.isNaN(Date.parse(text)) && dayOf(Date.parse(text)) === text;
const dayParameter = (description: string) =>
  v.optional(v.pipe(v.string(), v.isoDate(invalidDay), v.check(isDay, invalidDay), v.description(description)));

const withBudget = {
  ...{ currency: 'USD', month: '2025-11', budget: 25_000_000, spent: 8_840, reserved: 12_000, left: 24_979_160 },
  open_tasks: 1,
  limits: { open_tasks: 100, submissions_per_minute: 60, requests_per_minute: 1200 },
  days: [
    { day: '2025-11-29', tasks: 3, succeeded: 1, failed: 1, canceled: 1, stills: 0, gpu_seconds: 26, amount: 8_840 },
  ],
};
const unlimited = {
  ...{ ...withBudget, budget: null, left: null },
  limits: { open_tasks: null, submissions_per_minute: null, requests_per_minute: null },
};

export const usage = endpoint({
  method: 'GET',
  path: '/usage',
  scope: 'read',
  query: v.object({ since: dayParameter('First day'), until: dayParameter('Last day') }),
  describe: () => ({
    operationId: 'usage',
    tags: ['account'],
    summary: 'What the API key has spent, and may still spend',
    description:
      'A task counts on the day (UTC) on which it ended. `days` has the days of this month, or from `since` to `until`, both included. Amounts are in millionths of the currency.',
    responses: {
      200: jsonResponse('The account', 'Usage', { 'with a budget': withBudget, 'without any limit': unlimited }),
    },
    errors: [invalidInput([{ field: 'since', message: invalidDay }])],
  }),
  handle:
    ({ config, store, now }) =>
    async (c, { since, until }) => {
      const owner = c.get('key').id;
      const from = since ?? `${until?.slice(0, 7) ?? monthOf(now())}-01`;
      const [key, rows] = await Promise.all([store.getKey(owner), store.getUsage(owner, from, until ?? '9999-12-31')]);
      return c.json(presentAccount(key!, rows, config, now()));
    },
});
