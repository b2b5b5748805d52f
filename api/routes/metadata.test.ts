/** Texts that a client attaches to a task. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createClient } from '../../client/index.ts';
import { sample } from '../../test/support/malicious-pictures.ts';
import { type TestService, testService } from '../../test/support/test-api.ts';

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

const list = async (query: string) => {
  const response = await fetch(`${service.url}/tasks?${query}`);
  return { status: response.status, body: await response.json(), link: response.headers.get('link') };
};
const idsOf = async (query: string) => (await list(query)).body.map(({ id }: { id: string }) => id);

test('metadata is shown in the answer, the task and the list, is not in the job, and stays after a deletion', async () => {
  const metadata = { order: '42', 'customer name': 'größer 👁' };
  const { id, metadata: shown, input } = await (await service.post({ prompt: 'x', metadata })).json();
  expect(shown).toEqual(metadata);
  expect(input).not.toHaveProperty('metadata');
  expect((await service.take(id)).input).not.toHaveProperty('metadata');
  expect((await service.status(id)).metadata).toEqual(metadata);
  await fetch(`${service.url}/cancel?id=${id}`, { method: 'POST' });
  await service.until(id, ({ status }) => status === 'canceled');
  await fetch(`${service.url}/tasks/${id}`, { method: 'DELETE' });
  expect(await service.status(id)).toMatchObject({ expired_at: expect.any(String), metadata });
  expect(await idsOf('metadata[order]=42')).toEqual([id]);
  expect((await (await service.post({ prompt: 'x' })).json()).metadata).toBeUndefined();
});

test('forms and the client send it too, and the list is filtered by all pairs, page by page', async () => {
  const client = createClient({ url: service.url });
  const image = await sample().jpeg().toBuffer();
  const metadata = { run: 'a', 'x-y.z': '1 & 2' };
  const tasks = [await client.img2vid({ image, metadata }), await client.img2vid({ prompt: 'x', metadata })];
  const form = new URLSearchParams({ prompt: 'x', 'metadata[run]': 'a', 'metadata[other]': 'b' });
  const posted = await (await fetch(`${service.url}/tasks`, { method: 'POST', body: form })).json();
  expect(posted.metadata).toEqual({ other: 'b', run: 'a' });
  const ids = [posted.id, tasks[1]!.id, tasks[0]!.id];
  expect(await idsOf('metadata[run]=a')).toEqual(ids);
  expect(await idsOf('metadata%5Brun%5D=a&metadata%5Bother%5D=b')).toEqual([posted.id]);
  expect(await idsOf('metadata[run]=A')).toEqual([]);
  expect(await idsOf('metadata[run]=a&status=succeeded')).toEqual([]);
  const { link } = await list('metadata[run]=a&limit=2');
  const [, next] = /<([^>]+)>/.exec(link!)!;
  expect(await (await fetch(next!)).json()).toMatchObject([{ id: ids[2] }]);
  const seen: string[] = [];
  for await (const { id } of client.list({ metadata: { run: 'a' }, pageSize: 1 })) seen.push(id);
  expect(seen).toEqual(ids);
});

test('the order of keys does not make another request', async () => {
  const send = async (metadata: object) => {
    const headers = { 'content-type': 'application/json', 'idempotency-key': 'one' };
    return (await service.post({ prompt: 'x', metadata }, { headers })).status;
  };
  expect(await send({ a: '1', b: '2' })).toBe(202);
  expect(await send({ b: '2', a: '1' })).toBe(202);
  expect(await send({ b: '2', a: '3' })).toBe(409);
});

test('other metadata is 422 with what is allowed, in a request and in the list', async () => {
  const pairs = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, i) => [`k${i}`, 'x']));
  const accepted = [pairs(16), { ['k'.repeat(64)]: '👁'.repeat(512) }, {}, { a: '' }];
  for (const metadata of accepted) expect((await service.post({ prompt: 'x', metadata })).status).toBe(202);
  const refused = [
    ...[pairs(17), { ['k'.repeat(65)]: 'x' }, { a: 'x'.repeat(513) }, { '': 'x' }, { 'a"b': 'x' }, { 'a[b]': 'x' }],
    ...[{ a: 1 }, { a: null }, { a: { b: 'x' } }, { a: '\0' }, { a: '\ud800' }, ['x'], 'x', 5, null],
  ];
  const message = expect.stringMatching(/^must be an object of at most 16 texts/);
  for (const metadata of refused) {
    const response = await service.post({ prompt: 'x', metadata });
    const { errors } = await response.json();
    expect([response.status, errors], JSON.stringify(metadata)).toEqual([422, [{ field: 'metadata', message }]]);
  }
  for (const query of ['metadata=x', 'metadata[]=x', 'metadata[a"b]=x', 'metadata[a]=x&metadata=x'])
    expect((await list(query)).body.errors, query).toEqual([{ field: 'metadata', message }]);
  expect((await list('metadata[a]=1&metadata[a]=2')).body.errors).toEqual([
    { field: 'metadata[a]', message: 'given more than once' },
  ]);
});
