import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { listen } from '../../test/support/test-api.ts';
import { freePort } from '../run/free-port.ts';
import { queueServer } from '../simulators/runpod-queue-server.ts';
import { type Fault, type RestServer, startRestServer } from '../simulators/runpod-rest-server.ts';
import { main } from './deploy.ts';
import { repeatsSecret } from './runpod-rest.ts';

const KEY = 'rpa_4VERYSECRETKEYOFRUNPODS';
const SECRETS = {
  BUCKET_ACCESS_KEY_ID: 'AKIAEXAMPLEEXAMPLE',
  BUCKET_SECRET_ACCESS_KEY: 's3cret/"quoted"&more\\+0123456789',
  MIDJOURNEY_API_KEY: 'mj-0123456789abcdef',
  HF_TOKEN: 'hf_abcdefghijklmnop',
};
const SHIPPED = fileURLToPath(new URL('endpoint.json', import.meta.url));
const endpointJson = () => JSON.parse(readFileSync(SHIPPED, 'utf8'));

let rest: RestServer;
let queue: ReturnType<typeof queueServer>;
let jobs: Awaited<ReturnType<typeof listen>>;
let folder: string;
let env: NodeJS.ProcessEnv;
/** the output of all runs */
let written: string;
let waits: number[];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'deploy-'));
  rest = await startRestServer(KEY);
  queue = queueServer({ apiKey: KEY });
  jobs = await listen(queue.app);
  written = '';
  waits = [];
  env = {
    ...{
      RUNPOD_API_KEY: KEY,
      RUNPOD_REST_URL: rest.url,
      RUNPOD_BASE_URL: jobs.url,
      IMAGE: 'docker.io/you/img2vid:0.1.0',
    },
    ...{ BUCKET_NAME: 'films', MIDJOURNEY_BRIDGE: 'legnext', UNRELATED: 'not for workers' },
    ...SECRETS,
  };
});
afterEach(async () => {
  await rest.close();
  queue.close();
  await jobs.close();
  rmSync(folder, { recursive: true });
  for (const secret of [KEY, ...Object.values(SECRETS)]) expect(repeatsSecret(written, secret)).toBe(false);
});

async function run(args: string[] = [], { typed = '' } = {}) {
  let [out, err] = ['', ''];
  const status = await main(args, {
    env,
    out: { write: (text) => (out += text) },
    err: { write: (text) => (err += text) },
    ask: async (question) => {
      out += question;
      return typed;
    },
    sleep: async (milliseconds) => void waits.push(milliseconds),
  });
  written += out + err;
  return { status, out, err };
}

/** Writes a changed endpoint.json. */
function file(change: (json: ReturnType<typeof endpointJson>) => unknown, name = 'endpoint.json') {
  const json = endpointJson();
  const changed = change(json);
  const path = join(folder, name);
  writeFileSync(path, typeof changed === 'string' ? changed : JSON.stringify(json));
  return ['--file', path];
}

const asked = () =>
  rest.requests.filter(({ method }) => method !== 'GET').map(({ method, path }) => `${method} ${path}`);
const only = <T>(things: Map<string, T>): T => {
  expect(things.size).toBe(1);
  return [...things.values()][0]!;
};

/** Faults the next request of this kind. */
function faultOnce(method: string, path: string, fault: Fault) {
  rest.fault = (...request) => {
    if (request[0] !== method || request[1] !== path) return undefined;
    rest.fault = undefined;
    return fault;
  };
}
const faultAlways = (method: string, path: string, fault: Fault) => {
  rest.fault = (...request) => (request[0] === method && request[1] === path ? fault : undefined);
};

describe('deploy', () => {
  test('a first run creates volume, template and endpoint, and a second one changes nothing', async () => {
    const { status, out, err } = await run();
    expect([status, err]).toEqual([0, '']);
    expect(asked()).toEqual(['POST /v2/network-volumes', 'POST /v2/templates', 'POST /v2/serverless']);
    const [volume, template, endpoint] = [only(rest.volumes), only(rest.templates), only(rest.endpoints)];
    expect(volume).toMatchObject({ name: 'img2vid-models', size: 20, dataCenter: 'EU-RO-1' });
    expect(template).toMatchObject({
      ...{ name: 'img2vid', image: env.IMAGE, args: 'worker', disk: 20, env: {}, serverless: true, public: false },
      ...{ startSsh: false, startJupyter: false, allowedCudaVersions: [] },
    });
    expect(endpoint).toMatchObject({
      ...{ name: 'img2vid', type: 'QUEUE', image: env.IMAGE, args: 'worker', disk: 20, registry: null },
      gpu: { pools: ['ADA_24', 'AMPERE_48'], count: 1, minCudaVersion: '13.0', allowedCudaVersions: [] },
      workers: { min: 0, max: 3, idleTimeout: 30 },
      ...{ scaling: { type: 'QUEUE_DELAY', queueDelay: 4 }, timeout: 1_800_000, flashboot: 'FLASHBOOT' },
      ...{ dataCenterIds: ['EU-RO-1'], networkVolumes: [volume.id] },
    });
    expect(template.env).toEqual({});
    expect(
      rest.requests.find(({ path, method }) => path === '/v2/serverless' && method === 'POST')!.body,
    ).toMatchObject({
      templateId: template.id,
    });
    expect(endpoint.env).toEqual({
      ...SECRETS,
      ...{ BUCKET_NAME: 'films', MIDJOURNEY_BRIDGE: 'legnext', MODEL: 'svd_xt', DEVICE: 'cuda' },
    });
    expect(out).toContain(
      'ADA_24: RTX 4090, 24 GB, 1.1 USD/h (0.000306 a second); free with CUDA 13.0 in EU-RO-1: medium',
    );
    expect(out).toContain('RTX A6000, 48 GB, 1.22 USD/h (0.000339 a second); free with CUDA 13.0 in EU-RO-1: none');
    expect(out).toContain(`\n    RUNPOD_ENDPOINT_ID=${endpoint.id} npm start\n`);

    const again = await run();
    expect(again.status).toBe(0);
    expect(again.out).toMatch(
      /^network volume img2vid-models: up to date\ntemplate img2vid: up to date\nendpoint img2vid: up to date\n/,
    );
    expect(again.out).toContain(`RUNPOD_ENDPOINT_ID=${endpoint.id} npm start`);
    expect(await run(['--dry-run'])).toMatchObject({ status: 0, out: expect.stringContaining('nothing to change') });
    expect(asked()).toHaveLength(3);
  });

  test('a dry run prints what would be created, creates nothing and ends with 2', async () => {
    const { status, out, err } = await run(['--dry-run']);
    expect([status, err]).toEqual([2, '']);
    expect(out).toMatch(/^network volume img2vid-models: would be created$/m);
    expect(out).toMatch(/^ {2}env\.HF_TOKEN +set$/m);
    expect(out).toMatch(/^ {2}networkVolumes +\(the new one\)$/m);
    expect(out).toContain('Nothing was changed: this was a dry run.');
    expect(out).not.toContain('npm start');
    expect(asked()).toEqual([]);
  });

  test('only what differs is changed, at template and endpoint, and variables are printed by name only', async () => {
    await run();
    rest.requests.length = 0;
    const args = file((json) => {
      json.workers.max = 4;
      json.gpu.pools = ['ADA_24'];
    });
    Object.assign(env, { IMAGE: 'docker.io/you/img2vid:0.2.0', HF_TOKEN: '', STILL_TIMEOUT: '300' });
    env.BUCKET_SECRET_ACCESS_KEY = 'another-0123456789';
    const dry = await run(['--dry-run', ...args]);
    expect(dry.status).toBe(2);
    expect(asked()).toEqual([]);
    const { status, out } = await run(args);
    expect(status).toBe(0);
    expect(dry.out.replaceAll('would be changed', 'changed')).toContain(out.slice(0, out.indexOf('\n\n')));
    expect(out).toMatch(/^ {2}image +docker.io\/you\/img2vid:0\.1\.0 → docker.io\/you\/img2vid:0\.2\.0$/m);
    expect(out).toMatch(/^ {2}env\.BUCKET_SECRET_ACCESS_KEY +changed$/m);
    expect(out).toMatch(/^ {2}env\.STILL_TIMEOUT +set$/m);
    expect(out).toMatch(/^ {2}env\.HF_TOKEN +removed$/m);
    expect(out).toMatch(/^ {2}gpu\.pools +ADA_24, AMPERE_48 → ADA_24$/m);
    expect(out).toMatch(/^ {2}workers\.max +3 → 4$/m);
    expect(out).not.toMatch(/flashboot|scaling|timeout|300|another/);
    expect(out).toContain('Idle workers are replaced at once');
    const endpoint = only(rest.endpoints);
    expect(rest.requests.filter(({ method }) => method === 'PATCH')).toEqual([
      {
        method: 'PATCH',
        path: `/v2/templates/${only(rest.templates).id}`,
        body: { image: env.IMAGE },
      },
      {
        method: 'PATCH',
        path: `/v2/serverless/${endpoint.id}`,
        body: {
          image: env.IMAGE,
          env: endpoint.env,
          gpu: { pools: ['ADA_24'], excludedTypes: [], count: 1, minCudaVersion: '13.0', allowedCudaVersions: [] },
          workers: { min: 0, max: 4, idleTimeout: 30 },
        },
      },
    ]);
    expect(endpoint.env).toMatchObject({ BUCKET_SECRET_ACCESS_KEY: 'another-0123456789', STILL_TIMEOUT: '300' });
    expect(endpoint.env).not.toHaveProperty('HF_TOKEN');
    written = written.replaceAll('another-0123456789', KEY); // were it there, afterEach would see it
  });

  test('manual changes of variables, CUDA bounds, workers and SSH are reverted', async () => {
    await run();
    const [template, endpoint] = [only(rest.templates), only(rest.endpoints)];
    Object.assign(template, { startSsh: true, env: { A: 'b' } });
    Object.assign(endpoint.env as object, { BY_HAND: 'seven' });
    Object.assign(endpoint.gpu as object, { minCudaVersion: null, allowedCudaVersions: ['12.8'] });
    Object.assign(endpoint, { workers: { min: 0, max: 0, idleTimeout: 30 }, dataCenterIds: ['US-KS-2', 'EU-RO-1'] });
    const { status, out } = await run();
    expect(status).toBe(0);
    for (const line of [
      /^ {2}startSsh +true → false$/m,
      /^ {2}env\.A +removed$/m,
      /^ {2}env\.BY_HAND +removed$/m,
      /^ {2}gpu\.minCudaVersion +none → 13\.0$/m,
      /^ {2}gpu\.allowedCudaVersions +12\.8 → none$/m,
      /^ {2}workers\.max +0 → 3$/m,
      /^ {2}dataCenterIds +EU-RO-1, US-KS-2 → EU-RO-1$/m,
    ])
      expect(out).toMatch(line);
    expect(out).not.toContain('seven');
    expect(only(rest.endpoints).gpu).toMatchObject({ minCudaVersion: '13.0', allowedCudaVersions: [] });
    expect(await run(['--dry-run'])).toMatchObject({ status: 0 });
  });

  test('a change that RunPod does not apply is reported', async () => {
    await run();
    Object.defineProperty(only(rest.endpoints), 'timeout', { get: () => 60_000, set() {}, enumerable: true });
    const { status, out } = await run();
    expect([status, out]).toEqual([
      0,
      expect.stringMatching(/timeout {2}60000 → 1800000\n {2}RunPod did not apply: timeout\n/),
    ]);
  });

  test('the order of lists does not matter', async () => {
    await run();
    (only(rest.endpoints).gpu as { pools: string[] }).pools.reverse();
    expect(await run(['--dry-run'])).toMatchObject({ status: 0 });
  });

  test('scaling can be switched, with and without an idle timeout', async () => {
    await run();
    const byCount = file((json) => {
      json.scaling = { type: 'REQUEST_COUNT', requestCount: 1 };
      delete json.workers.idleTimeout;
    });
    const { out } = await run(byCount);
    expect(out).not.toContain('Idle workers are replaced'); // these settings reach those that run
    expect(out).toMatch(/scaling\.requestCount +none → 1\n {2}scaling\.queueDelay +4 → none$/m);
    expect(out).toMatch(/workers\.idleTimeout +30 → none$/m);
    expect(await run(['--dry-run', ...byCount])).toMatchObject({ status: 0 });
    expect(await run()).toMatchObject({ status: 0 });
    expect(only(rest.endpoints)).toMatchObject({ workers: { idleTimeout: 30 }, scaling: { queueDelay: 4 } });
  });

  test('GPU types can be excluded and taken back', async () => {
    const without = file((json) => {
      json.gpu.excludedTypes = ['NVIDIA A40'];
    });
    const { out } = await run(without);
    expect(out).not.toContain('AMPERE_48: A40');
    await run(
      file((json) => {
        Object.assign(json.gpu, { excludedTypes: ['NVIDIA A40'], pools: ['AMPERE_48', 'ADA_24', 'AMPERE_24'] });
      }),
    );
    expect(only(rest.endpoints).gpu).toMatchObject({ excludedTypes: ['NVIDIA A40'] }); // and not cleared with the pools
    await run();
    expect(only(rest.endpoints).gpu).toMatchObject({ pools: ['ADA_24', 'AMPERE_48'], excludedTypes: [] });
  });

  test('a volume grows, never shrinks, and may be named by its id or omitted', async () => {
    await run();
    const { id } = only(rest.volumes);
    const sized = (size: number) =>
      file((json) => {
        json.networkVolume.size = size;
      });
    expect((await run(sized(40))).out).toMatch(/^network volume img2vid-models: changed\n {2}size +20 → 40$/m);
    const smaller = await run(sized(30));
    expect(smaller.out).toContain('network volume img2vid-models: stays at 40 GB');
    expect(smaller.status).toBe(0);
    expect(only(rest.volumes).size).toBe(40);

    const byId = file((json) => {
      json.networkVolume = { id };
    });
    expect((await run(byId)).out).not.toContain('network volume');
    expect(only(rest.endpoints)).toMatchObject({ networkVolumes: [id], dataCenterIds: ['EU-RO-1'] });
    const strange = file((json) => {
      json.networkVolume = { id: 'nosuch' };
    });
    expect((await run(strange)).err).toMatch(/^RunPod refuses to find the network volume nosuch \(status 404\)/);

    await run(
      file((json) => {
        delete json.networkVolume;
        json.dataCenterIds = ['US-KS-2'];
      }),
    );
    expect(only(rest.endpoints)).toMatchObject({ networkVolumes: [], dataCenterIds: ['US-KS-2'] });
    expect(rest.volumes.size).toBe(1);
  });

  test('a volume of the same name in another data center is another volume', async () => {
    rest.volumes.set('old', { id: 'old', name: 'img2vid-models', size: 20, dataCenter: 'US-KS-2', type: 'STANDARD' });
    faultOnce('POST', '/network-volumes', { applied: true, broken: true }); // the search finds the right one
    expect(await run()).toMatchObject({ status: 0 });
    const made = [...rest.volumes.values()].find(({ id }) => id !== 'old')!;
    expect(only(rest.endpoints).networkVolumes).toEqual([made.id]);
  });

  test('an endpoint is found although RunPod appended -fb to its name', async () => {
    await run();
    only(rest.endpoints).name = 'img2vid -fb';
    expect(await run()).toMatchObject({ status: 0 });
    only(rest.endpoints);
  });
});

describe('nothing is created twice', () => {
  test.each([
    ['network-volumes', 'volumes'],
    ['templates', 'templates'],
    ['serverless', 'endpoints'],
  ] as const)('when the answer to POST /%s is lost', async (path, kind) => {
    for (const fault of [{ broken: true }, { status: 502 }, { status: 504, detail: 'took too long' }] as const) {
      faultOnce('POST', `/${path}`, { applied: true, ...fault });
      const { status, out } = await run();
      expect([status, out]).toEqual([
        0,
        expect.stringMatching(/it is unknown whether RunPod did create the .*; searching for it\n/),
      ]);
      only(rest[kind]);
      rest[kind].clear();
      if (path !== 'serverless') rest.endpoints.clear();
    }
  });

  test('a failed creation is not repeated in the same run, but in the next', async () => {
    faultOnce('POST', '/serverless', { status: 500, detail: 'something went wrong' });
    const { status, err } = await run();
    expect(status).toBe(1);
    expect(err).toMatch(
      /^RunPod failed \(status 500: something went wrong\): it is unknown whether RunPod did create the endpoint img2vid, and RunPod does not list it yet\. Run this again in a minute: it searches before it creates\nDone so far: network volume img2vid-models \(\w+\), template img2vid \(\w+\)\. Running this again continues from there\.\n$/,
    );
    expect(asked().filter((call) => call === 'POST /v2/serverless')).toHaveLength(1);
    expect(await run()).toMatchObject({ status: 0 });
    for (const kind of ['volumes', 'templates', 'endpoints'] as const) only(rest[kind]);
  });

  test('a creation that appears late is found', async () => {
    const late: RestServer['templates'] = new Map();
    rest.fault = (method, path) => {
      if (method === 'POST' && path === '/templates') return { applied: true, broken: true };
      if (method === 'GET' && path === '/templates' && asked().includes('POST /v2/templates')) {
        const [from, to] = waits.length < 3 ? [rest.templates, late] : [late, rest.templates];
        for (const [id, template] of from) to.set(id, template);
        from.clear();
      }
      return undefined;
    };
    expect(await run()).toMatchObject({ status: 0 });
    expect(waits).toEqual([1000, 2000, 5000]);
    only(rest.templates);
  });

  test('two resources of one name are an error before anything is sent', async () => {
    await run();
    for (const [kind, noun] of [
      ['endpoints', 'endpoint'],
      ['templates', 'template'],
      ['volumes', 'network volume'],
    ] as const) {
      const first = only<{ id: string; name: string }>(rest[kind]);
      rest[kind].set('twin', { ...first, id: 'twin' });
      rest.requests.length = 0;
      const { status, err } = await run();
      expect(status).toBe(1);
      expect(err).toMatch(new RegExp(`^there are 2 ${noun}s named ${first.name} \\(${first.id}, twin\\)`));
      expect(asked()).toEqual([]);
      rest[kind].delete('twin');
    }
  });

  test('resources of another type with the same name are not touched', async () => {
    await run();
    const endpoint = only(rest.endpoints);
    const template = only(rest.templates);
    rest.requests.length = 0;
    template.serverless = false;
    expect((await run()).err).toMatch(/^the template img2vid \(\w+\) is one for pods/);
    template.serverless = true;
    endpoint.cpu = [{ id: 'cpu5c', vcpuCount: 4, memory: 16 }];
    endpoint.gpu = null;
    expect((await run()).err).toMatch(/^the endpoint img2vid \(\w+\) is one on processors/);
    expect(asked()).toEqual([]);
  });
});

describe('RunPod refuses', () => {
  const everywhere = (fault: Fault) => {
    rest.fault = () => fault;
  };

  test('a wrong key', async () => {
    env.RUNPOD_API_KEY = 'rpa_another_0123456789';
    const { status, err } = await run();
    expect([status, err]).toEqual([1, expect.stringMatching(/^RunPod refuses the key in RUNPOD_API_KEY; .*API Keys/)]);
    expect(err).not.toContain('0123456789');
    expect(err.split('\n')).toHaveLength(2);
    env.RUNPOD_API_KEY = `${KEY}\nX-Other: header`;
    expect((await run()).err).toBe('RUNPOD_API_KEY must be a key, as RunPod’s console shows it\n');
  });

  test.each<[Fault, RegExp]>([
    [
      { status: 403, detail: 'access denied' },
      /^the key in RUNPOD_API_KEY may not create the endpoint img2vid: .*: access denied$/m,
    ],
    [{ status: 402, detail: 'balance is 0' }, /^RunPod requires credit to create the endpoint img2vid: see Billing/],
    [{ status: 400, detail: 'not enough balance' }, /^RunPod refuses to create .*: not enough balance\nSee Billing/],
    [
      { status: 422, detail: 'Request validation failed.', errors: ["$: 'bogus' not allowed"] },
      /^RunPod refuses to create the endpoint img2vid \(status 422\): Request validation failed\.; \$: 'bogus' not allowed\n/,
    ],
  ])('%j', async (fault, message) => {
    faultAlways('POST', '/serverless', fault);
    const { status, err } = await run();
    expect([status, err]).toEqual([1, expect.stringMatching(message)]);
    expect(err).toContain('Done so far: network volume');
    expect(asked().filter((call) => call === 'POST /v2/serverless')).toHaveLength(1);
  });

  test('more workers than the account’s quota', async () => {
    const args = file((json) => {
      json.workers.max = 6;
    });
    const { status, err } = await run(args);
    expect(status).toBe(1);
    expect(err).toMatch(/^RunPod refuses to create .*quota \(5\)\nAn account’s number of workers grows/);
  });

  test('an unknown pool or GPU type, before anything is sent', async () => {
    const pools = (...names: string[]) =>
      file((json) => {
        json.gpu.pools = names;
      });
    const types = (...names: string[]) =>
      file((json) => {
        json.gpu.excludedTypes = names;
      });
    expect((await run(pools('ADA_42'))).err).toBe('gpu.pools: ADA_42 is unknown; did you mean ADA_24?\n');
    expect((await run(pools('NVIDIA'))).err).toBe(
      'gpu.pools: NVIDIA is unknown; RunPod has ADA_24, AMPERE_24, AMPERE_48\n',
    );
    expect((await run(types('NVIDIA L4'))).err).toMatch(
      /^gpu\.excludedTypes: NVIDIA L4 is not in these pools, which have /,
    );
    expect((await run(types('NVIDIA A40', 'NVIDIA RTX A6000', 'NVIDIA GeForce RTX 4090'))).err).toMatch(
      /leave at least/,
    );
    expect(asked()).toEqual([]);
  });

  test('too many requests: deploy waits as long as Retry-After says, at most a minute and a half', async () => {
    const fault = (seconds: string): Fault => ({ status: 429, headers: { 'retry-after': seconds } });
    faultOnce('POST', '/templates', fault('12'));
    const { status, out } = await run();
    expect([status, waits]).toEqual([0, [12_000]]);
    expect(out).toContain(
      'RunPod’s limit of requests is used up: request could not be processed; next attempt in 12 s\n',
    );
    only(rest.templates);

    waits = [];
    everywhere(fault('1812'));
    const hourly = await run();
    expect([hourly.status, hourly.err, waits]).toEqual([
      1,
      'RunPod’s limit of requests is used up: request could not be processed; run this again in 31 min\n',
      [],
    ]);
    everywhere(fault('soon'));
    expect(await run()).toMatchObject({ status: 1 });
    expect(waits).toEqual([10_000, 10_000, 10_000, 10_000]);
  });

  test('failures are retried where a repetition is harmless', async () => {
    await run();
    const { id } = only(rest.endpoints);
    for (const [method, path, fault] of [
      ['GET', '/catalog/gpus', { status: 500 }],
      ['GET', '/serverless', { broken: true }],
      ['PATCH', `/serverless/${id}`, { applied: true, broken: true }],
    ] as const) {
      faultOnce(method, path, fault);
      waits = [];
      env.IMAGE += '1';
      expect(await run()).toMatchObject({ status: 0 });
      expect(waits).toEqual([1000]);
    }
    expect(only(rest.endpoints).image).toBe(env.IMAGE);
    everywhere({ status: 503 });
    waits = [];
    expect(await run()).toMatchObject({
      status: 1,
      err: 'RunPod failed (status 503: request could not be processed)\n',
    });
    expect(waits).toEqual([1000, 2000, 5000, 10_000]);
  });

  test('an unreachable RunPod, or another server at its URL, is reported', async () => {
    const nobody = `127.0.0.1:${await freePort()}`;
    env.RUNPOD_REST_URL = `http://${nobody}/v2`;
    expect(await run()).toMatchObject({ status: 1, err: `the connection to ${nobody} failed (ECONNREFUSED)\n` });
    expect(waits).toHaveLength(4);
    env.RUNPOD_REST_URL = `${jobs.url}/v2`;
    expect((await run()).err).toMatch(/^RunPod refuses to list the GPUs \(status 404\)\n/);
    const portal = await listen({ fetch: () => new Response('<h1>Log in</h1>') });
    env.RUNPOD_REST_URL = portal.url;
    expect((await run()).err).toBe('RunPod’s answer to “list the GPUs” is not as documented: no JSON object\n');
    const elsewhere = await listen({ fetch: () => Response.redirect(rest.url) });
    env.RUNPOD_REST_URL = elsewhere.url;
    expect((await run()).err).toMatch(/status 302/);
    expect(rest.requests).toEqual([]); // the key does not follow
    await portal.close();
    await elsewhere.close();
  });

  test('an explanation that repeats a secret is hidden', async () => {
    const { BUCKET_SECRET_ACCESS_KEY: secret } = SECRETS;
    for (const detail of [
      `invalid env: ${JSON.stringify({ BUCKET_SECRET_ACCESS_KEY: secret })}`,
      `invalid env: ${JSON.stringify({ secret }).replace('&', '\\u0026').slice(0, -8)}`,
      `invalid env: ${encodeURIComponent(secret)}`,
      `invalid value hf_abcdefghijk…`,
      `invalid key ${KEY}`,
    ]) {
      const faults: Fault[] = [
        { status: 400, detail },
        { status: 500, errors: [detail] },
      ];
      for (const fault of faults) {
        faultAlways('POST', '/serverless', fault);
        const { status, err } = await run();
        expect([status, err]).toEqual([1, expect.stringContaining('(RunPod’s explanation is hidden')]);
        expect(err).not.toContain('invalid');
      }
    }
  });
});

describe('configuration errors are reported before anything is sent', () => {
  afterEach(() => expect(rest.requests).toEqual([]));

  test.each<[string, RegExp]>([
    ['RUNPOD_API_KEY', /^RUNPOD_API_KEY is needed\n$/],
    ['IMAGE', /^no image is named: docker build -t .* && docker push .*\n$/],
    [
      'BUCKET_NAME',
      /^the environment lacks BUCKET_NAME, required for the worker by env\.required of endpoint\.json\n$/,
    ],
    ['MIDJOURNEY_API_KEY', /^MIDJOURNEY_API_KEY is needed for MIDJOURNEY_BRIDGE legnext\n$/],
  ])('a missing %s', async (name, message) => {
    delete env[name];
    expect(await run()).toEqual({ status: 1, out: '', err: expect.stringMatching(message) });
    env[name] = '';
    expect((await run(['--dry-run'])).err).toMatch(message);
  });

  test('several missing variables, and no bucket at all', async () => {
    Object.assign(env, { BUCKET_ACCESS_KEY_ID: '', BUCKET_SECRET_ACCESS_KEY: '' });
    expect((await run()).err).toMatch(/lacks BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY,/);
    const none = file((json) => {
      json.env = {};
    });
    expect((await run(none)).err).toMatch(/^BUCKET_NAME is needed for the worker/);
    Object.assign(env, { RUNPOD_REST_URL: 'api.runpod.io' });
    expect((await run()).err).toBe('RUNPOD_REST_URL must be an http or https URL\n');
    env.RUNPOD_REST_URL = '';
    env.IMAGE = 'no image';
    expect((await run()).err).toMatch(/^IMAGE must be an image, such as /);
  });

  test.each<[(json: ReturnType<typeof endpointJson>) => unknown, string[]]>([
    [
      (json) => {
        json.worker = {};
        json.workers.maxx = 3;
        delete json.workers.max;
        json.gpu = { pools: [], minCudaVersion: 13, allowedCudaVersions: ['12.8'] };
      },
      [
        'worker: unknown; did you mean workers?',
        'workers.maxx: unknown; did you mean max?',
        'workers.max: is needed',
        'gpu.pools: must be a list of GPU pools, such as ADA_24, each once, at least 1',
        'gpu.minCudaVersion: must be a version of CUDA, such as 13.0',
        'gpu.allowedCudaVersions: unknown; known are pools, excludedTypes, minCudaVersion',
      ],
    ],
    [
      (json) => {
        Object.assign(json, { name: ' ', image: 'a b', model: 'svd_xl', disk: 0.5, flashboot: 'ON', timeout: 1 });
        json.registry = '';
      },
      [
        'name: must be text of 1 to 64 characters',
        'image: must be an image, such as docker.io/you/img2vid:0.1.0',
        'model: must be one of camera, svd, svd_xt, svd_xt_1_1, animatelcm_svd_xt',
        'disk: must be a whole number from 1 to 4096 GB',
        'flashboot: must be OFF, FLASHBOOT or PRIORITY_FLASHBOOT',
        'timeout: must be a whole number from 5000 to 604800000 ms',
        'registry: must be an id, as RunPod shows it',
      ],
    ],
    [
      (json) => {
        json.workers = { min: 4, max: 3 };
        json.scaling = { type: 'QUEUE_DELAY', requestCount: 1 };
        json.networkVolume = { id: 'x', name: 'y' };
      },
      [
        'workers: must have a min that is at most max',
        'scaling: must have queueDelay with QUEUE_DELAY, requestCount with REQUEST_COUNT',
        'networkVolume: must have id alone, or name, size and dataCenter',
      ],
    ],
    [
      (json) => {
        json.scaling = { type: 'REQUEST_COUNT', requestCount: 1 };
        json.dataCenterIds = ['EU-RO-1'];
        json.env = { required: ['BUCKET_NAME', 'MODEL'], optional: ['RUNPOD_API_KEY'] };
      },
      [
        'workers.idleTimeout: not allowed with scaling.type REQUEST_COUNT',
        'dataCenterIds: not allowed with networkVolume, whose data center is used',
        'env: MODEL is not passed on: it follows from model',
        'env: RUNPOD_API_KEY is not passed on: RunPod gives its workers their own',
      ],
    ],
    [
      (json) => {
        delete json.workers.idleTimeout;
      },
      ['workers.idleTimeout: is needed'],
    ],
    [
      (json) => {
        json.env = { HF_TOKEN: SECRETS.HF_TOKEN, required: [`HF_TOKEN=${SECRETS.HF_TOKEN}`], optional: 'HF_TOKEN' };
        json.workers = [];
        json.gpu = null;
      },
      [
        'env.HF_TOKEN: unknown; known are required, optional',
        'env.required.0: must be a list of names of variables, such as HF_TOKEN; their values come from the environment, each once',
        'env.optional: must be a list of',
        'workers.min: is needed',
        'gpu: must be an object',
      ],
    ],
  ])('endpoint.json %#', async (change, lines) => {
    const { status, err } = await run(file(change));
    expect(status).toBe(1);
    for (const line of lines) expect(err).toContain(`\n  ${line}`);
    expect(err.trimEnd().split('\n')).toHaveLength(
      lines.length + 1 + Number(err.includes('workers.max: is needed') && err.includes('workers.min: is needed')),
    );
  });

  test('an endpoint.json that is no JSON or does not exist', async () => {
    expect((await run(file(() => `{"HF_TOKEN": "${SECRETS.HF_TOKEN}" x`))).err).toMatch(
      /endpoint\.json is not JSON(: (position|line) [\w ]+)?\n$/,
    );
    expect((await run(['--file', join(folder, 'none.json')])).err).toMatch(/none\.json can’t be read \(ENOENT\)\n$/);
  });

  test.each([
    [['up'], 'up: unknown action; use one of status, destroy\n'],
    [['status', 'img2vid'], 'status: takes no arguments\n'],
    [['status', '--dry-run'], "Unknown option '--dry-run'; allowed are --file, --help\n"],
    [['--volume'], "Unknown option '--volume'; allowed are --dry-run, --file, --help\n"],
    [['--force'], "Unknown option '--force'; allowed are --dry-run, --file, --help\n"],
  ])('wrong usage, with status 2: %j', async (args, err) => {
    expect(await run(args)).toEqual({ status: 2, out: '', err });
  });

  test('--help prints the usage', async () => {
    env = {};
    expect(await run(['--help'])).toMatchObject({ status: 0, out: expect.stringContaining('exit status 2'), err: '' });
  });
});

test('valid settings that may not be intended cause a warning', async () => {
  Object.assign(env, { MIDJOURNEY_BRIDGE: '', IMAGE: 'localhost:5000/img2vid' });
  const paused = file((json) => {
    json.workers.max = 0;
    json.model = 'camera';
  });
  const { out } = await run(['--dry-run', ...paused]);
  expect(out).toMatch(/The image has no tag of its own.*\nWithout STILL_BRIDGE .*\nWith workers\.max 0 /);
  const started = await run(paused);
  expect(started.out).toMatch(/\n {4}MODEL=camera RUNPOD_ENDPOINT_ID=\w+ npm start\n/);
  env.MODEL = 'camera';
  expect((await run(paused)).out).toMatch(/\n {4}RUNPOD_ENDPOINT_ID=\w+ npm start\n/);
  expect(only(rest.endpoints).env).not.toHaveProperty('DEVICE');
  for (const IMAGE of ['img2vid', 'you/img2vid:latest']) {
    Object.assign(env, { IMAGE });
    expect((await run(['--dry-run'])).out).toContain('no tag of its own');
  }
  for (const IMAGE of ['img2vid:1', 'localhost:5000/img2vid:0.1', `you/img2vid@sha256:${'0'.repeat(64)}`]) {
    Object.assign(env, { IMAGE });
    expect((await run(['--dry-run'])).out).not.toContain('no tag of its own');
  }
});

describe('status', () => {
  test('prints endpoint, jobs, workers and rollout, but no value of a variable', async () => {
    await run();
    env.BUCKET_SECRET_ACCESS_KEY = 'rotated-0123456789';
    await run();
    const { id } = only(rest.endpoints);
    const worker = { gpuCount: 1, isStale: false, version: 2, gpuTypeId: 'NVIDIA L4', dataCenterId: 'EU-RO-1' };
    rest.workers.set(id, [
      { ...worker, id: 'w1', status: 'RUNNING', isStale: true, version: 1, uptimeSeconds: 90 },
      { ...worker, id: 'w2', status: 'THROTTLED', gpuTypeId: null, dataCenterId: null, version: null },
      { ...worker, id: 'w3', status: 'UNHEALTHY' },
    ]);
    for (let i = 0; i < 2; i++)
      await fetch(`${jobs.url}/${id}/run`, {
        method: 'POST',
        headers: { authorization: `Bearer ${KEY}` },
        body: '{"input":{}}',
      });
    for (const name of Object.keys(SECRETS)) delete env[name]; // it needs none of them
    const { status, out, err } = await run(['status']);
    expect([status, err]).toEqual([0, '']);
    expect(out).toContain(`endpoint  img2vid (${id}), since `);
    expect(out).toContain('image     docker.io/you/img2vid:0.1.0\n');
    expect(out).toContain('jobs      2 in the queue, 0 in progress; 0 completed, 0 failed, 0 retried\n');
    expect(out).toContain('workers   0 to 3, each ends after 30 s without work; 3 now\n');
    expect(out).toContain(
      '  w1 RUNNING, NVIDIA L4, EU-RO-1, up 90 s, still on release 1\n  w2 THROTTLED, not placed yet\n',
    );
    expect(out).toMatch(/^release {3}2 of .*, which changed template\.env$/m);
    expect(out).toContain('rollout   in progress: 2 of 3 workers have the latest release\n');
    expect(out).toMatch(/^note .*unhealthy.*\nnote .*throttled/m);
    expect(out).not.toMatch(/differs|rotated/);
  });

  test('prints what differs, and that RunPod has lowered workers.max', async () => {
    await run();
    const endpoint = only(rest.endpoints);
    Object.assign(endpoint, { workers: { min: 0, max: 2, idleTimeout: 30 }, timeout: 60_000 });
    const { out } = await run(['status']);
    expect(out).toContain('differs   workers.max is 2, should be 3\ndiffers   timeout is 60000, should be 1800000\n');
    expect(out).toMatch(/^note .*2 after three days without a request, and to 0 after seven; npm run deploy raises/m);
    Object.assign(endpoint, { workers: { min: 0, max: 0, idleTimeout: 30 } });
    expect((await run(['status'])).out).toContain('three days');
    Object.assign(endpoint, { workers: { min: 0, max: 1, idleTimeout: 30 } });
    expect((await run(['status'])).out).not.toContain('three days'); // RunPod never sets 1
  });

  test('prints the rest where jobs can’t be counted', async () => {
    await run();
    const nobody = `127.0.0.1:${await freePort()}`;
    env.RUNPOD_BASE_URL = `http://${nobody}`;
    const { status, out } = await run(['status']);
    expect(status).toBe(0);
    expect(out).toContain(`the connection to ${nobody} failed (ECONNREFUSED)\n`);
    expect(out).toContain('jobs      not counted\n');
  });

  test('fails if there is no endpoint', async () => {
    expect(await run(['status'])).toMatchObject({
      status: 1,
      err: 'there is no endpoint img2vid; npm run deploy creates it\n',
    });
  });
});

describe('destroy', () => {
  test('asks for the name, keeps the volume, and can run again', async () => {
    await run();
    rest.requests.length = 0;
    for (const typed of ['', 'yes', 'img2vi']) {
      const refused = await run(['destroy'], { typed });
      expect(refused).toMatchObject({ status: 1, err: 'nothing was deleted\n' });
      expect(refused.out).toMatch(
        /its jobs would be lost \(0 in the queue, 0 in progress\)\nType img2vid to delete it/,
      );
    }
    expect(asked()).toEqual([]);
    const { status, out } = await run(['destroy'], { typed: ' img2vid\n' });
    expect(status).toBe(0);
    expect(out).toMatch(
      /endpoint img2vid \(\w+\): deleted\ntemplate img2vid \(\w+\): deleted\nThe network volume .* stays and is billed/,
    );
    expect([rest.endpoints.size, rest.templates.size, rest.volumes.size]).toEqual([0, 0, 1]);
    expect(await run(['destroy'])).toMatchObject({
      status: 0,
      out: expect.stringMatching(/^there is no endpoint img2vid, and no template\nThe network volume .* stays/),
    });
  });

  test('does not ask with --yes, and deletes the volume with --volume', async () => {
    await run();
    const { status, out } = await run(['destroy', '--yes', '--volume']);
    expect(status).toBe(0);
    expect(out).toContain('its 20 GB would be lost');
    expect(out).not.toContain('Type');
    expect([rest.endpoints.size, rest.templates.size, rest.volumes.size]).toEqual([0, 0, 0]);
    expect(await run(['destroy', '--volume'])).toMatchObject({
      status: 0,
      out: 'there is no endpoint img2vid, and no template\n',
    });
  });

  test('never deletes a volume that is named by its id', async () => {
    const byId = file((json) => {
      json.networkVolume = { id: 'abc' };
    });
    expect((await run(['destroy', '--yes', '--volume', ...byId])).err).toMatch(/^--volume deletes only a volume/);
  });

  test('accepts that RunPod deletes the template with its endpoint', async () => {
    await rest.close();
    rest = await startRestServer(KEY, { bindsTemplates: true });
    env.RUNPOD_REST_URL = rest.url;
    await run();
    const { status, out } = await run(['destroy', '--yes']);
    expect([status, rest.templates.size]).toEqual([0, 0]);
    expect(out).toMatch(/template img2vid \(\w+\): was already deleted/);
  });

  test('continues an interrupted run, and after a lost answer', async () => {
    await run();
    const { id } = only(rest.templates);
    faultOnce('DELETE', `/templates/${id}`, { status: 400, detail: 'in use' });
    const { status, err } = await run(['destroy', '--yes']);
    expect([status, err]).toEqual([
      1,
      'RunPod refuses to delete the template img2vid (status 400): in use\nDone so far: endpoint img2vid deleted. Running this again continues from there.\n',
    ]);
    faultOnce('DELETE', `/templates/${id}`, { applied: true, broken: true });
    expect((await run(['destroy', '--yes'])).out).toMatch(/^template img2vid \(\w+\): was already deleted/m);
  });

  test('keeps a template for pods with the same name', async () => {
    await run();
    only(rest.templates).serverless = false;
    await run(['destroy', '--yes']);
    only(rest.templates);
  });
});

test('the command works as a process of its own', async () => {
  const command = (args: string[], stdin = '') =>
    new Promise<{ status: number; out: string; err: string }>((resolve) => {
      const child = execFile(
        process.execPath,
        ['--import', 'tsx', 'infra/deploy/deploy.ts', ...args],
        { cwd: fileURLToPath(new URL('../..', import.meta.url)), env: { ...env, PATH: process.env.PATH } },
        (error, out, err) => {
          written += out + err;
          resolve({ status: error ? Number(error.code) : 0, out, err });
        },
      );
      child.stdin!.end(stdin);
    });
  expect(await command(['--dry-run'])).toMatchObject({ status: 2, err: '' });
  expect(await command([])).toMatchObject({ status: 0, err: '' });
  only(rest.endpoints);
  expect(await command(['destroy'])).toMatchObject({ status: 1, err: 'nothing was deleted\n' });
  expect(await command(['destroy'], 'img2vid\n')).toMatchObject({ status: 0, err: '' });
  expect(rest.endpoints.size).toBe(0);
});
