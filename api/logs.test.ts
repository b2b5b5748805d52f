/** What the log must not contain: everything that gives access, and what callers wrote. */
import { Hono } from 'hono';
import { expect, test, vi } from 'vitest';
import { StorageError } from '../core/bucket/bucket.ts';
import { SECOND } from '../core/time.ts';
import { listen, RUNPOD_KEY, testService, WEBHOOK_SECRET } from '../test/support/test-api.ts';

const soon = { interval: 5 };
const PROMPT = 'a lighthouse that nobody may know of';
const KEY = 'i2v_of-a-caller';
const QUERY = 'of-a-receiver';
const PICTURE = {
  type: 'image/png',
  data: 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==',
};

test('no line of the log contains a token, a link’s signature, a secret, a key or a prompt, also after failures', async () => {
  const service = await testService({ ALLOW_PRIVATE_URLS: '1' });
  let answer = 500;
  const receiver = await listen(new Hono().post('/hook', (c) => c.body(null, answer as 200)));
  const webhook_url = `${receiver.url}/hook?token=${QUERY}`;
  const headers = { authorization: `Bearer ${KEY}` };
  const post = { headers: { ...headers, 'content-type': 'application/json' } };
  const ask = async (path: string, init: RequestInit = {}) =>
    (await fetch(`${service.url}${path}`, { headers, ...init })).text();
  const read = async (id: string) => (await service.store.get(id))!;
  const waitForLine = (msg: string, since = 0) =>
    vi.waitFor(() => expect(service.logged.slice(since)).toContainEqual(expect.objectContaining({ msg })), soon);
  const create = async () => (await (await service.post({ prompt: PROMPT, webhook_url }, post)).json()).id as string;
  const secrets = [RUNPOD_KEY, WEBHOOK_SECRET.replace('whsec_', ''), KEY, PROMPT, QUERY];

  // RunPod fails in every way, and repeats what the API sent it.
  const id = await create();
  const job = await service.take(id);
  const unwanted = await create();
  await service.take(unwanted);
  const { callback_token, share_secret } = await read(id);
  secrets.push(callback_token, share_secret!);
  const echo = `${PROMPT} ${callback_token} ${RUNPOD_KEY}`;
  for (const fault of [
    () => Response.json({ error: echo }, { status: 401 }),
    () => Response.json({ error: echo }, { status: 500 }),
    () => Response.json({ status: echo, jobs: echo }),
    () => Response.json(echo),
    () => new Response(echo),
  ]) {
    service.faults.runpod = fault;
    const before = service.logged.length;
    service.clock.ahead += 61 * SECOND;
    await ask('/readyz');
    await ask(`/status?id=${id}`);
    await waitForLine('readiness check failed', before);
    await waitForLine('task could not be advanced; will be retried', before);
  }
  await create();
  await waitForLine('RunPod did not answer a submission');
  await ask(`/cancel?id=${unwanted}`, { method: 'POST' });
  await waitForLine('superseded job could not be cancelled; will be retried');
  delete service.faults.runpod;

  // A task ends, its links are read, and its webhook is refused, then delivered, then unreachable.
  service.report(job.id, { output: await service.finish(id, job.id) });
  await ask(`/runpod/callback/${callback_token}`, { method: 'POST', body: JSON.stringify({ id: job.id }) });
  const task = await service.until(id, ({ status }) => status === 'succeeded');
  await waitForLine('webhook not delivered');
  const list = await ask('/status?limit=1000');
  const links = [task.still!.link, task.videos![0]!.link, ...(list.match(/http[^"]*signature=[^"]*/g) ?? [])];
  expect(links.length).toBeGreaterThan(3);
  for (const link of links) {
    secrets.push(new URL(link).searchParams.get('signature')!);
    await (await fetch(link, { headers })).bytes();
    await fetch(`${link}x`);
  }
  const deliver = async (attempts: number) => {
    await vi.waitFor(async () => {
      const [delivery] = await service.store.listDeliveries({ owner: 'local', task: id, limit: 1 });
      expect(delivery!.attempts).toBe(attempts);
    }, soon);
    service.clock.ahead += 40 * 60 * SECOND;
    service.webhooks.wake();
  };
  answer = 302;
  await deliver(1);
  answer = 200;
  await deliver(2);
  await waitForLine('webhook delivered');
  await receiver.close();
  const other = await create();
  await ask(`/cancel?id=${other}`, { method: 'POST' });
  await vi.waitFor(
    () => expect(service.logged).toContainEqual(expect.objectContaining({ reason: 'ECONNREFUSED' })),
    soon,
  );

  // The bucket and the store fail.
  const link = new URL(task.videos![0]!.link);
  const away = new StorageError('the bucket is away', 'ECONNREFUSED', 1);
  vi.spyOn(service.disk, 'file').mockRejectedValueOnce(away);
  await ask(link.pathname + link.search);
  await waitForLine('bucket unavailable');
  service.faults.bucket = away;
  const form = new FormData();
  form.set('image', new Blob([Buffer.from(PICTURE.data, 'base64')], { type: PICTURE.type }), `${PROMPT}.png`);
  await ask('/img2vid', { method: 'POST', body: form });
  await waitForLine('the task could not be stored; try again');
  delete service.faults.bucket;
  service.clock.ahead -= 60 * SECOND; // the key of this machine stays known
  await service.store.close();
  for (const path of [`/status?id=${id}`, link.pathname + link.search, '/status']) await ask(path);
  await ask(`/runpod/callback/${callback_token}`, { method: 'POST' });
  await service.post({ prompt: PROMPT, webhook_url }, { headers: { ...post.headers, 'idempotency-key': QUERY } });
  await waitForLine('store unavailable');
  await service.close().catch(() => undefined);

  const log = service.logged.map((line) => JSON.stringify(line));
  expect(log.length).toBeGreaterThan(50);
  for (const secret of secrets) expect(log.filter((line) => line.includes(secret))).toEqual([]);
});
