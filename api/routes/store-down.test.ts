/** What each route answers while the database can't be used. */
import { createClient } from '@libsql/client';
import { describe, expect, test } from 'vitest';
import { hasPostgres, skipped, startPostgres } from '../../infra/simulators/postgres-server.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

const ID = '019a2f3a-11c2-7d09-8e55-6a1b40c2d7f3';
const REQUESTS: [method: string, path: string][] = [
  ['POST', '/img2vid'],
  ['GET', '/status'],
  ['GET', '/status?limit=10'],
  ['GET', `/status?id=${ID}`],
  ['HEAD', '/status'],
  ['POST', `/cancel?id=${ID}`],
  ['POST', `/delete?id=${ID}`],
  ['GET', '/usage'],
  ['GET', '/webhooks/deliveries'],
  ['GET', `/webhooks/deliveries?id=${ID}`],
  ['POST', `/webhooks/replay?id=${ID}`],
  ['POST', '/webhooks/test?webhook_url=https://example.com/hook'],
  ['POST', '/runpod/callback/token'],
];

/** Sends all requests while the database is down, within the time for which the API key is in memory. */
async function answers(service: TestService, stopDatabase: () => Promise<unknown>): Promise<Record<string, unknown>> {
  const send = (method: string, path: string, more = {}) =>
    fetch(service.url + path, {
      method,
      headers: { 'content-type': 'application/json', ...more },
      ...(path === '/img2vid' && { body: '{"prompt":"x"}' }),
    });
  await send('GET', '/usage');
  service.clock.ahead = -3_600_000; // the key's second lasts an hour
  await stopDatabase();
  const found: Record<string, unknown> = {};
  const add = async (name: string, response: Response) => {
    found[name] = [response.status, response.headers.get('retry-after')];
  };
  for (const [method, path] of REQUESTS) await add(`${method} ${path}`, await send(method, path));
  await add('a repeated request', await send('POST', '/img2vid', { 'idempotency-key': 'a' }));
  await add('events', await send('GET', `/status?id=${ID}`, { accept: 'text/event-stream' }));
  return found;
}

const expectUnavailable = (found: Record<string, unknown>) =>
  expect(found).toEqual(Object.fromEntries(Object.keys(found).map((name) => [name, [503, '5']])));

describe('every request that needs the database is 503 with Retry-After', () => {
  test('while libSQL can’t execute statements', async () => {
    const service = await testService();
    const removeTables = async () => {
      const client = createClient({ url: `file:${service.folder}/tasks.db` });
      for (const name of ['tasks', 'keys', 'ledger', 'deliveries', 'disabled_webhooks'])
        await client.execute(`alter table ${name} rename to without_${name}`);
      client.close();
    };
    expectUnavailable(await answers(service, removeTables));
    expect(JSON.stringify(service.logged)).not.toContain('request failed');
    await service.close();
  });

  test.skipIf(!hasPostgres)(
    `while PostgreSQL is down${skipped}`,
    async () => {
      const postgres = await startPostgres();
      const service = await testService({ DATABASE_URL: (await postgres.database()).url });
      expectUnavailable(await answers(service, postgres.stop));
      expect(JSON.stringify(service.logged)).not.toContain('request failed');
      await service.close();
    },
    60_000,
  );
});
