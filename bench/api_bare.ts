/**
 * For `npm run bench -- api`: what the API would be if it did nothing but keep tasks: Hono, JSON, and the same store. No checks, no links,
 * no jobs, no headers.
 */
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
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
  const encoder = new TextEncoder();
  let before: string | undefined;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const tasks = await store.list({ owner: 'local', before, limit: PAGE });
      const opening = before === undefined ? '[' : ',';
      before = tasks.at(-1)?.id;
      const text = tasks.map((task) => JSON.stringify(task)).join(',');
      controller.enqueue(encoder.encode(tasks.length === PAGE ? opening + text : `${opening}${text}]`));
      if (tasks.length < PAGE) controller.close();
    },
  });
  return c.body(body, 200, { 'content-type': 'application/json' });
});

serve({ fetch: app.fetch, hostname: '127.0.0.1', port: Number(process.env.PORT) }, () =>
  process.send!({ event: 'listening' }),
);
process.once('SIGTERM', () => process.exit(0));
