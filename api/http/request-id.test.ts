import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type TestService, testService } from '../../test/support/test-api.ts';
import { insertTask, newTask } from '../../test/support/test-store.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const PINO = { debug: 20, info: 30, error: 50 };
/** What the log has of a request, once it has ended. */
const lines = async (request: string) => {
  await vi.waitFor(() =>
    expect(service.logged).toContainEqual(expect.objectContaining({ request, ms: expect.any(Number) })),
  );
  return service.logged.filter((line) => line.request === request);
};

test('a request keeps a valid X-Request-Id of the client, and else gets a new one', async () => {
  const named = async (id: string) => {
    const response = await fetch(`${service.url}/nothing`, { headers: { 'x-request-id': id } });
    return response.headers.get('x-request-id');
  };
  for (const id of ['a', 'A-b_c.9', 'x'.repeat(64)]) expect(await named(id)).toBe(id);
  for (const id of ['', 'x'.repeat(65), 'a b', 'a,b', '<a>', 'ä', 'a"b', 'a/b']) expect(await named(id)).toMatch(UUID);
  expect(await named('')).not.toBe(await named(''));
});

test('the log has the request of each task and the route of each request, never its URL', async () => {
  const { status, headers } = await service.post(
    { prompt: 'x' },
    {
      headers: { 'content-type': 'application/json', 'x-request-id': 'mine' },
    },
  );
  expect([status, headers.get('x-request-id')]).toEqual([202, 'mine']);
  const id = headers.get('location')!.split('=')[1];
  expect(await lines('mine')).toEqual([
    expect.objectContaining({ level: PINO.info, task: id, msg: 'task created' }),
    expect.objectContaining({
      level: PINO.debug,
      method: 'POST',
      route: '/img2vid',
      status: 202,
      msg: 'request finished',
    }),
  ]);
  const call = (path: string, request: string) =>
    fetch(`${service.url}${path}`, { method: 'POST', headers: { 'x-request-id': request } });
  await call('/runpod/callback/secret-token', 'callback');
  await call('/files/tasks/x?signature=secret-token', 'link');
  await call('/secret-token', 'nowhere');
  expect(await lines('callback')).toMatchObject([{ route: '/runpod/callback/:token', status: 404 }]);
  expect(await lines('link')).toMatchObject([{ route: '/files/*', status: 405 }]);
  expect(await lines('nowhere')).toMatchObject([{ status: 404 }]);
  expect(JSON.stringify(service.logged)).not.toContain('secret-token');
});

test('an error is found in the log by the id in its response', async () => {
  vi.spyOn(service.store, 'getPublic').mockRejectedValueOnce(new Error('inside'));
  const response = await fetch(`${service.url}/status?id=x`);
  expect(response.status).toBe(500);
  expect(await response.text()).not.toContain('inside');
  expect(await lines(response.headers.get('x-request-id')!)).toMatchObject([
    { level: PINO.error, path: '/status', msg: 'request failed' },
    { level: PINO.debug, status: 500 },
  ]);
});

test('a response that fails halfway breaks the connection; only the log has the reason', async () => {
  await Promise.all(Array.from({ length: 101 }, () => insertTask(service.store, newTask({ status: 'canceled' }))));
  const { list } = service.store;
  vi.spyOn(service.store, 'list').mockImplementationOnce(list).mockRejectedValueOnce(new Error('inside'));
  const response = await fetch(`${service.url}/status`, { headers: { 'x-request-id': 'half' } });
  expect(response.status).toBe(200);
  let text = '';
  const reading = (async () => {
    for await (const bytes of response.body!) text += Buffer.from(bytes);
  })();
  await expect(reading).rejects.toThrow();
  expect(text).not.toContain('inside');
  expect(await lines('half')).toMatchObject([
    { level: PINO.error, route: '/status', msg: 'response failed before its end' },
  ]);
});
