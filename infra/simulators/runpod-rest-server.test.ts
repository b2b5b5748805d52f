import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RestServer, startRestServer } from './runpod-rest-server.ts';

let rest: RestServer;
beforeAll(async () => {
  rest = await startRestServer('key', { quota: 100 });
});
afterAll(() => rest.close());

async function ask(method: string, path: string, body?: unknown, key = 'key') {
  const response = await fetch(`${rest.url}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
}

const ENDPOINT = {
  ...{ name: 'a', type: 'QUEUE', image: 'you/it:1', gpu: { pools: ['ADA_24'] } },
  scaling: { type: 'QUEUE_DELAY', queueDelay: 4 },
};
const CPU = [{ id: 'cpu5c', vcpuCount: 4 }];
const BY_COUNT = { type: 'REQUEST_COUNT', requestCount: 1 };

test.each<[string, object, number]>([
  ['all required fields', {}, 201],
  ['neither gpu nor cpu', { gpu: undefined }, 400],
  ['both', { cpu: CPU }, 400],
  ['cpu', { gpu: undefined, cpu: CPU }, 201],
  [
    'a minimum CUDA version and a list',
    { gpu: { pools: ['ADA_24'], minCudaVersion: '13.0', allowedCudaVersions: ['12.8'] } },
    400,
  ],
  [
    'a minimum CUDA version and an empty list',
    { gpu: { pools: ['ADA_24'], minCudaVersion: '13.0', allowedCudaVersions: [] } },
    201,
  ],
  ['a malformed minimum CUDA version', { gpu: { pools: ['ADA_24'], minCudaVersion: '13' } }, 422],
  ['an unknown pool', { gpu: { pools: ['NVIDIA L4'] } }, 400],
  ['no pools', { gpu: { pools: [] } }, 422],
  ['an exclusion from other pools', { gpu: { pools: ['ADA_24'], excludedTypes: ['NVIDIA L4'] } }, 400],
  ['everything excluded', { gpu: { pools: ['ADA_24'], excludedTypes: [' NVIDIA GeForce RTX 4090'] } }, 400],
  ['no image', { image: undefined }, 422],
  ['no scaling', { scaling: undefined }, 422],
  ['an unknown field', { gpus: 1 }, 422],
  ['an unknown nested field', { workers: { maximum: 3 } }, 422],
  ['a variable that is not a string', { env: { A: 1 } }, 422],
  ['an idle timeout while scaling by request count', { scaling: BY_COUNT, workers: { idleTimeout: 5 } }, 400],
  ['a load balancer that scales by delay', { type: 'LOAD_BALANCER' }, 422],
  ['an unknown template', { templateId: 'nosuch' }, 404],
  ['an unknown volume', { networkVolumes: ['nosuch'] }, 400],
])('an endpoint with %s', async (_, change, status) => {
  expect(await ask('POST', '/serverless', { ...ENDPOINT, ...change })).toMatchObject({ status });
});

test('defaults are those of RunPod’s API, not of its console', async () => {
  const { body } = await ask('POST', '/serverless', ENDPOINT);
  expect(body).toMatchObject({ workers: { min: 0, max: 3, idleTimeout: 10 }, timeout: 300_000, flashboot: 'OFF' });
  const template = await ask('POST', '/templates', { name: 't', image: 'you/it:1' });
  expect(template.body).toMatchObject({ serverless: false, startSsh: true, startJupyter: true, category: 'NVIDIA' });
  expect(await ask('POST', '/serverless', { ...ENDPOINT, templateId: template.body.id })).toMatchObject({
    status: 422,
  });
});

test('a template applies when it is named: variables are merged, CUDA versions copied unless there is a minimum', async () => {
  const wanted = {
    name: 's',
    image: 'you/it:2',
    serverless: true,
    env: { A: '1', B: '1' },
    allowedCudaVersions: ['12.8'],
  };
  const { id } = (await ask('POST', '/templates', wanted)).body;
  const { image, ...bare } = ENDPOINT;
  const made = (await ask('POST', '/serverless', { ...bare, templateId: id, env: { B: '2' } })).body;
  expect(made).toMatchObject({ image: 'you/it:2', env: { A: '1', B: '2' }, gpu: { allowedCudaVersions: ['12.8'] } });
  const bound = { ...bare, templateId: id, gpu: { pools: ['ADA_24'], minCudaVersion: '13.0' } };
  expect((await ask('POST', '/serverless', bound)).body.gpu).toMatchObject({
    allowedCudaVersions: [],
    minCudaVersion: '13.0',
  });

  await ask('PATCH', `/templates/${id}`, { image: 'you/it:3', env: { C: '3' } });
  expect((await ask('GET', `/serverless/${made.id}`)).body).toMatchObject({
    image: 'you/it:2',
    env: { A: '1', B: '2' },
  });
  const applied = await ask('PATCH', `/serverless/${made.id}`, { templateId: id, env: { D: '4' } });
  expect(applied.body).toMatchObject({ image: 'you/it:3', env: { C: '3', D: '4' } });
  expect(applied.body.env).not.toHaveProperty('A');
});

test('a PATCH leaves fields that it does not name, except exclusions, which belong to their pools', async () => {
  const gpu = { pools: ['AMPERE_48'], excludedTypes: ['NVIDIA A40'], minCudaVersion: '12.1' };
  const { id } = (await ask('POST', '/serverless', { ...ENDPOINT, gpu, env: { A: '1' } })).body;
  const change = async (body: object) => (await ask('PATCH', `/serverless/${id}`, body)).body;
  expect((await change({ gpu: { minCudaVersion: '13.0' } })).gpu).toMatchObject({ ...gpu, minCudaVersion: '13.0' });
  expect((await change({ gpu: { pools: ['AMPERE_48'] } })).gpu).not.toHaveProperty('excludedTypes');
  expect((await change({ gpu: { minCudaVersion: '' } })).gpu.minCudaVersion).toBeNull();
  expect(await change({ env: { B: '2' } })).toMatchObject({ env: { B: '2' }, image: 'you/it:1' });
  expect((await ask('GET', `/serverless/${id}/releases`)).body.releases).toMatchObject([
    { version: 2, diff: [{ field: 'template.env', old: { A: '1' }, new: { B: '2' } }] },
    { version: 1, diff: [] },
  ]);
  expect((await ask('PATCH', `/serverless/${id}`, { gpu: { excludedTypes: ['NVIDIA A40'] } })).status).toBe(422);
  expect((await ask('PATCH', `/serverless/${id}`, { cpu: CPU })).status).toBe(400);
  expect((await ask('PATCH', `/serverless/${id}`, { type: 'QUEUE' })).status).toBe(422);
});

test('a volume’s size can only increase', async () => {
  const wanted = { name: 'v', size: 20, dataCenter: 'EU-RO-1' };
  const { id } = (await ask('POST', '/network-volumes', wanted)).body;
  const change = (body: object) => ask('PATCH', `/network-volumes/${id}`, body);
  expect((await change({ size: 30 })).body).toMatchObject({ size: 30 });
  expect([(await change({ size: 20 })).status, (await change({})).status]).toEqual([400, 422]);
  expect((await ask('POST', '/network-volumes', { ...wanted, size: 5 })).status).toBe(422);
  expect((await ask('DELETE', `/network-volumes/${id}`)).status).toBe(204);
  expect((await ask('DELETE', `/network-volumes/${id}`)).status).toBe(404);
});

test('a wrong key and invalid filters are refused', async () => {
  const problem = { title: expect.any(String), status: 401, detail: expect.any(String) };
  expect(await ask('GET', '/serverless', undefined, 'other')).toEqual({ status: 401, body: problem });
  expect((await ask('GET', '/catalog/gpus?minCudaVersion=13.0')).status).toBe(400);
  expect((await ask('GET', '/catalog/gpus?include=AVAILABILITY')).status).toBe(400);
  const all = await ask('GET', '/catalog/gpus?include=AVAILABILITY&product=SERVERLESS&minCudaVersion=13.0');
  expect(all.body.gpus[0]).toMatchObject({ pool: 'AMPERE_24', dataCenters: [{ id: 'EU-RO-1' }, { id: 'US-KS-2' }] });
});
