import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService({ PUBLIC_URL: 'https://video.example.com' });
});
afterAll(() => service.close());

const ask = (path: string, init: RequestInit = {}, { url } = service) => fetch(url + path, init);
const post = { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"prompt":"a lighthouse"}' };

test('a task lives at /tasks/ID: created, read, listed, canceled and deleted there', async () => {
  const created = await ask('/tasks', post);
  expect(created.status).toBe(202);
  const task = await created.json();
  expect(created.headers.get('location')).toBe(`/status?id=${task.id}`);
  const self = `https://video.example.com/tasks/${task.id}`;
  expect(task.urls).toEqual({
    self,
    events: `${self}/events`,
    cancel: `${self}/cancel`,
    delete: self,
    web: `https://video.example.com/#${task.id}`,
  });
  const path = new URL(task.urls.self).pathname;

  expect(await (await ask(path)).json()).toEqual(await service.status(task.id));
  expect((await (await ask(path.toUpperCase().replace('TASKS', 'tasks'))).json()).id).toBe(task.id);
  expect(await (await ask('/tasks?limit=1')).json()).toEqual([await service.status(task.id)]);
  expect((await ask(path, { method: 'DELETE' })).status).toBe(409); // it is active
  const canceled = await ask(new URL(task.urls.cancel).pathname, { method: 'POST' });
  expect([canceled.status, (await canceled.json()).status]).toEqual([202, 'canceled']);
  const deleted = await ask(path, { method: 'DELETE' });
  expect([deleted.status, (await deleted.json()).expired_at]).toEqual([200, expect.stringMatching(/Z$/)]);
});

test('events come from /tasks/ID/events with any Accept, and from /tasks/ID on request', async () => {
  const { id } = await (await ask('/tasks', post)).json();
  await ask(`/tasks/${id}/cancel`, { method: 'POST' });
  const events = await ask(`/tasks/${id}/events`);
  expect(events.headers.get('content-type')).toBe('text/event-stream');
  const text = await events.text();
  expect(text).toContain('"status":"canceled"');
  expect(await (await ask(`/tasks/${id}`, { headers: { accept: 'text/event-stream' } })).text()).toBe(text);
  const [, last] = /^id: (\d+)$/m.exec(text)!;
  expect((await ask(`/tasks/${id}/events`, { headers: { 'last-event-id': last! } })).status).toBe(204);
});

test('pages of /tasks link to /tasks; unknown ids, names and other keys are refused as at the other paths', async () => {
  await ask('/tasks', post);
  const link = (await ask('/tasks?limit=1')).headers.get('link');
  expect(link).toMatch(/^<https:\/\/video\.example\.com\/tasks\?limit=1&cursor=/);
  for (const [method, path] of [
    ['GET', '/tasks/x'],
    ['GET', '/tasks/x/events'],
    ['POST', '/tasks/x/cancel'],
    ['DELETE', '/tasks/x'],
  ] as const)
    expect((await ask(path, { method })).status, path).toBe(404);
  expect(await (await ask('/tasks?limt=1')).json()).toMatchObject({ errors: [{ field: 'limt' }] });
  expect((await ask('/tasks/x?limit=1')).status).toBe(422);

  const keyed = await testService();
  const { headers } = await keyed.key({ scopes: ['read'] });
  const { headers: writer } = await keyed.key();
  const made = await ask('/tasks', { ...post, headers: { ...post.headers, ...writer } }, keyed);
  const path = `/tasks/${(await made.json()).id}`;
  for (const method of ['GET', 'DELETE', 'PUT']) expect((await ask(path, { method }, keyed)).status, method).toBe(401);
  expect((await ask(path, { headers }, keyed)).status).toBe(404);
  expect((await ask(path, { headers, method: 'DELETE' }, keyed)).status).toBe(403);
  expect((await ask('/tasks', { ...post, headers: { ...post.headers, ...headers } }, keyed)).status).toBe(403);
  await keyed.close();
});

test('without keys no other web page may delete a task', async () => {
  const { id } = await (await ask('/tasks', post)).json();
  const foreign = { method: 'DELETE', headers: { origin: 'https://evil.example' } };
  expect((await ask(`/tasks/${id}`, foreign)).status).toBe(403);
});
