/**
 * The peer of `npm run bench -- api`, which only keeps tasks: Hono, JSON, and the same store. No checks, no links, no jobs, no headers.
 */
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { stream } from 'hono/streaming';
import { openStore } from '../api/store/store.ts';
import { insertTask, newTask } from '../test/support/test-store.ts';

const PAGE = 100;
const store = await openStore(process.env.DATABASE_URL!);
const app = new Hono();

app.post('/img2vid', async (c) => {
  const task = newTask({ id: crypto.randomUUID(), input: await c.req.json() });
  await insertTask(store, task);
  return c.json(task, 202);
});

app.get('/status', async (c) => {
  const id = c.req.query('id');
  if (id !== undefined) return c.json(await store.get(id));
  c.header('content-type', 'application/json');
  return stream(c, async (out) => {
    for (let before: string | undefined, opening = '['; ; opening = ',') {
      const tasks = await store.list({ owner: 'local', before, limit: PAGE });
      before = tasks.at(-1)?.id;
      const text = opening + tasks.map((task) => JSON.stringify(task)).join(',');
      if (tasks.length < PAGE) return void (await out.write(`${text}]`));
      await out.write(text);
    }
  });
});

serve({ fetch: app.fetch, hostname: '127.0.0.1', port: Number(process.env.PORT) }, () =>
  process.send!({ event: 'listening' }),
);
process.once('SIGTERM', () => process.exit(0));
