import { Hono } from 'hono';
import * as v from 'valibot';
import { parameters } from '../../core/parameters.ts';
import { urlErrors } from '../http/check-urls.ts';
import { Problem } from '../http/problem.ts';
import { invalid } from '../http/read-body.ts';
import { readQuery } from '../http/read-query.ts';
import type { Services } from '../services.ts';
import { DELIVERY_STATUSES, type Delivery } from '../store/delivery.ts';
import { isTaskId } from '../tasks/id.ts';
import { LIST_QUERY, nextLink, PAGE } from './list.ts';

const anId = 'must be the id of a delivery';
const id = v.pipe(v.string(anId), v.check(isTaskId, anId));
const LIST = v.object({
  id: v.optional(id),
  task: v.optional(v.pipe(v.string(), v.check(isTaskId, 'must be the id of a task'))),
  status: v.optional(v.picklist(DELIVERY_STATUSES, `must be one of ${DELIVERY_STATUSES.join(', ')}`)),
  limit: LIST_QUERY.limit,
  cursor: LIST_QUERY.cursor,
});
const ONE = v.object({ id });

/** GET /webhooks/deliveries, POST /webhooks/replay?id= and POST /webhooks/test?webhook_url=: what a key's receivers were told. */
export function webhooks(services: Services) {
  const { config, store, webhooks } = services;
  const TEST = v.object({ webhook_url: parameters(config.limits, config.model).webhook_url });

  return new Hono()
    .get('/webhooks/deliveries', async (c) => {
      const owner = c.get('key').id;
      const { id, task, status, limit = PAGE, cursor } = readQuery(c, LIST);
      if (id !== undefined) return c.json([await own(owner, id)].map(shown));
      const found = await store.listDeliveries({ owner, task, status, before: cursor, limit: limit + 1 });
      const page = found.slice(0, limit);
      if (found.length > limit) c.header('link', nextLink(c, config, page.at(-1)!.id));
      return c.json(page.map(shown));
    })
    .post('/webhooks/replay', async (c) => {
      const delivery = await own(c.get('key').id, readQuery(c, ONE).id);
      return c.json(shown(await webhooks.replay(delivery)), 202);
    })
    .post('/webhooks/test', async (c) => {
      const { webhook_url } = readQuery(c, TEST);
      const errors = urlErrors({ webhook_url }, config);
      if (errors.length > 0) invalid(errors);
      return c.json(shown(await webhooks.test(c.get('key').id, webhook_url)), 202);
    });

  async function own(owner: string, id: string): Promise<Delivery> {
    const delivery = await store.getDelivery(owner, id);
    if (!delivery) throw new Problem(404, 'not_found', 'there is no such delivery');
    return delivery;
  }
}

/** A delivery as callers see it. */
function shown(delivery: Delivery) {
  const { id, type, task_id, url, status, created_at, attempts, attempted_at, status_code, error } = delivery;
  const { delivered_at, next_attempt_at } = delivery;
  return {
    ...{ id, type, ...(task_id !== null && { task_id }), url, status, created_at: time(created_at), attempts },
    ...(attempted_at !== null && { attempted_at: time(attempted_at) }),
    ...(status === 'pending' && next_attempt_at !== null && { next_attempt_at: time(next_attempt_at) }),
    ...(status_code !== null && { status_code }),
    ...(error !== null && { error }),
    ...(delivered_at !== null && { delivered_at: time(delivered_at) }),
  };
}

const time = (ms: number) => new Date(ms).toISOString();
