import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { openSvd } from '../../handler/models/svd.ts';
import { SMALL_SVD } from '../../handler/models/testdata/reference.ts';
import { cacheName, findWeights, REPOSITORIES, UNETS } from '../../handler/models/weights.ts';
import { type HubOptions, type LocalHub, startHub, TAG, TOKENS } from '../simulators/hub-server.ts';
import { type ModelsIo, main } from './models.ts';

const REPOSITORY = REPOSITORIES.svd_xt;
const NAME = cacheName(REPOSITORY);
const CLIP = 'image_encoder/model.fp16.safetensors';
const VAE = 'vae/diffusion_pytorch_model.fp16.safetensors';
const UNET = 'unet/diffusion_pytorch_model.fp16.safetensors';
const MORE = {
  'README.md': '# A model\n',
  'LICENSE.md': 'What one may do with it.\n',
  '.gitattributes': '*.safetensors filter=lfs\n',
  'svd_xt.safetensors': 'the same weights once more, for other software',
  'unet/diffusion_pytorch_model.safetensors': 'in single precision',
};
const PIECE = 100_000; // bytes

let home: string;
let cleanUps: (() => unknown)[];
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'models-'));
  cleanUps = [() => rmSync(home, { recursive: true, force: true })];
});
afterEach(async () => {
  vi.unstubAllEnvs();
  for (const cleanUp of cleanUps.reverse()) await cleanUp();
});

const bytes = (count: number) => Uint8Array.from({ length: count }, (_, i) => (i >> 8) ^ (i * 7));
/** Small files instead of real weights. */
const WEIGHTS = { [CLIP]: bytes(50_000), [VAE]: bytes(480_000), [UNET]: bytes(1_200_000) };

async function hubWith(options: Partial<HubOptions> = {}): Promise<LocalHub> {
  const hub = await startHub({
    repository: REPOSITORY,
    folder: SMALL_SVD,
    extraFiles: { ...MORE, ...WEIGHTS },
    ...options,
  });
  cleanUps.push(hub.close);
  return hub;
}

const environment = (hub: { url: string }, more: NodeJS.ProcessEnv = {}) => ({
  HOME: home,
  HF_HOME: join(home, 'hf'),
  HF_ENDPOINT: hub.url,
  ...more,
});

interface Run extends Partial<Omit<ModelsIo, 'env'>> {
  env?: NodeJS.ProcessEnv;
}

/** Runs the command in this process. */
async function models(hub: { url: string }, args: string[] = ['svd_xt'], { env = {}, ...more }: Run = {}) {
  let [out, err] = ['', ''];
  const status = await main(args, {
    env: environment(hub, env),
    out: { write: (text) => (out += text) },
    err: { write: (text) => (err += text) },
    delays: [1, 1],
    ...more,
  });
  return { status, out, err };
}

/** Runs the command in a process of its own. */
function start(hub: LocalHub): { child: ChildProcess; output: () => string } {
  let output = '';
  const script = fileURLToPath(new URL('models.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, 'svd_xt'], {
    env: { PATH: process.env.PATH, ...environment(hub) },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (text) => (output += text));
  cleanUps.push(() => child.kill('SIGKILL'));
  return { child, output: () => output };
}

const repository = (...path: string[]) => join(home, 'hf/hub', NAME, ...path);
const blob = (hub: LocalHub, path: string) => repository('blobs', hub.files.get(path)!.etag);
const part = (hub: LocalHub, path: string) => `${blob(hub, path)}.incomplete`;
const putPart = (hub: LocalHub, path: string, bytes: Uint8Array) => {
  mkdirSync(repository('blobs'), { recursive: true });
  writeFileSync(part(hub, path), bytes);
};
/** The ranges of the requests for a large file. */
const ranges = (hub: LocalHub, path: string) =>
  hub.requests.filter((one) => one.path.startsWith(`/${hub.files.get(path)!.etag}?`)).map(({ range }) => range);
const reached = (path: string, size: number) =>
  vi.waitFor(() => expect(statSync(path).size).toBe(size), { interval: 5 });

function expectWhole(hub: LocalHub) {
  const { folder } = findWeights('svd_xt', environment(hub));
  for (const path of [VAE, UNET])
    expect(readFileSync(join(folder, path)).equals(hub.files.get(path)!.bytes)).toBe(true);
  expect(readdirSync(repository('blobs')).filter((name) => name.endsWith('.incomplete'))).toEqual([]);
}

function expectNoModel(hub: LocalHub) {
  expect(existsSync(repository('snapshots'))).toBe(false);
  expect(existsSync(repository('refs'))).toBe(false);
  expect(() => findWeights('svd_xt', environment(hub))).toThrow('npm run models');
}

describe('a download', () => {
  test('has all that the worker needs, in the layout of Python’s cache', async () => {
    const hub = await hubWith({ extraFiles: MORE });
    const { status, out, err } = await models(hub);
    expect({ status, err }).toEqual({ status: 0, err: '' });

    const snapshot = repository('snapshots', hub.commit);
    const expected = [
      'LICENSE.md',
      'README.md',
      'feature_extractor/preprocessor_config.json',
      'image_encoder/config.json',
      CLIP,
      'model_index.json',
      'scheduler/scheduler_config.json',
      'unet/config.json',
      UNET,
      'vae/config.json',
      VAE,
    ];
    const links = (readdirSync(snapshot, { recursive: true }) as string[]).filter(
      (path) => !lstatSync(join(snapshot, path)).isDirectory(),
    );
    expect(links.sort()).toEqual(expected);
    for (const path of expected) {
      const { etag, bytes } = hub.files.get(path)!;
      expect(readlinkSync(join(snapshot, path))).toBe(`${path.includes('/') ? '../../../' : '../../'}blobs/${etag}`);
      expect(readFileSync(join(snapshot, path)).equals(bytes)).toBe(true);
    }
    expect(readdirSync(repository('blobs')).sort()).toEqual(expected.map((path) => hub.files.get(path)!.etag).sort());
    expect(readFileSync(repository('refs/main'), 'utf8')).toBe(hub.commit);
    expect(readdirSync(home)).toEqual(['hf']);

    const lines = out.trimEnd().split('\n');
    expect(lines.slice(0, -1).sort()).toEqual(expected.map((path) => expect.stringMatching(`^${path}  [\\d.]+ \\w+$`)));
    expect(lines.at(-1)).toBe(`svd_xt is in ${snapshot}; MODEL=svd_xt npm start finds it there`);
    expect(findWeights('svd_xt', environment(hub))).toEqual({ folder: snapshot, source: 'Hugging Face cache' });
    await openSvd(snapshot).close();
  });

  test('requests no file that is already there', async () => {
    const hub = await hubWith();
    await models(hub);
    hub.requests.length = 0;
    expect((await models(hub)).status).toBe(0);
    expect(hub.requests.filter(({ path }) => path.includes('/resolve/'))).toEqual([]);
    expectWhole(hub);
  });

  test('uses a blob that Python has downloaded, but not one that is too short', async () => {
    const hub = await hubWith();
    mkdirSync(repository('blobs'), { recursive: true });
    for (const path of [VAE, UNET]) writeFileSync(blob(hub, path), hub.files.get(path)!.bytes);
    truncateSync(blob(hub, VAE), 1000);
    expect((await models(hub)).status).toBe(0);
    expect([ranges(hub, UNET), ranges(hub, VAE)]).toEqual([[], [undefined]]);
    expectWhole(hub);
  });

  test('replaces a broken link', async () => {
    const hub = await hubWith();
    await models(hub);
    rmSync(blob(hub, VAE));
    expect((await models(hub)).status).toBe(0);
    expectWhole(hub);
  });

  test('can name a tag or a commit', async () => {
    const hub = await hubWith();
    expect((await models(hub, ['svd_xt', '--revision', hub.commit])).status).toBe(0);
    expect(existsSync(repository('refs'))).toBe(false);
    expect((await models(hub, ['svd_xt', '--revision', TAG])).status).toBe(0);
    expect(readFileSync(repository('refs', TAG), 'utf8')).toBe(hub.commit);
    expectWhole(hub);
    const { status, err } = await models(hub, ['svd_xt', '--revision', 'v2']);
    expect(status).toBe(1);
    expect(err).toMatch(/^127\.0\.0\.1:\d+ answers with status 404 for stabilityai\/\S+: Invalid rev id: v2\n$/);
  });

  test('in single precision has the other weights', async () => {
    const more = Object.fromEntries(
      ['image_encoder/model', 'vae/diffusion_pytorch_model', 'unet/diffusion_pytorch_model'].map((stem) => [
        `${stem}.safetensors`,
        `${stem} in single precision`,
      ]),
    );
    const hub = await hubWith({ extraFiles: more });
    expect((await models(hub, ['svd_xt', '--precision', 'fp32'])).status).toBe(0);
    const { folder } = findWeights('svd_xt', environment(hub));
    expect(readdirSync(join(folder, 'unet'))).toEqual(['config.json', 'diffusion_pytorch_model.safetensors']);
  });

  test('into another cache names the MODEL_DIR for the worker', async () => {
    const hub = await hubWith();
    const cache = join(home, 'my models #1');
    const { status, out } = await models(hub, ['svd_xt', '--cache', cache]);
    expect(status).toBe(0);
    const snapshot = join(cache, NAME, 'snapshots', hub.commit);
    expect(out).toContain(`; MODEL=svd_xt MODEL_DIR=${snapshot} npm start uses it from there\n`);
    expect(findWeights('svd_xt', { MODEL_DIR: snapshot }).folder).toBe(snapshot);
    expect(readdirSync(home)).toEqual(['my models #1']);
  });

  test('shows a bar on a terminal', async () => {
    const hub = await hubWith();
    let written = '';
    const out = { isTTY: true, write: (text: string) => (written += text) };
    hub.faults.stopAfter = PIECE;
    const download = models(hub, ['svd_xt'], { out });
    await reached(part(hub, VAE), PIECE);
    hub.closeStalled();
    expect((await download).status).toBe(0);
    const lines = written.split('\r\x1b[K');
    expect(lines).toContainEqual(
      expect.stringMatching(/^█+░+ {2}31 % {2}unet {2}533\.3 kB of 1\.7 MB {2}.+\/s {2}about \d+ s left$/),
    );
    expect(lines).toContainEqual(expect.stringMatching(/^█{28} 100 % {2}checking unet {2}1\.7 MB of 1\.7 MB/));
    expect(lines).toContainEqual(expect.stringMatching(/broke at 100.0 kB of 480.0 kB; next attempt in 0.001 s\n$/));
    expect(lines.at(-1)).toMatch(/^svd_xt is in /);
  });

  test('goes through a proxy', async () => {
    const hub = await hubWith();
    const tunnels: (string | undefined)[] = [];
    const proxy = createServer();
    proxy.on('connect', ({ url }, client: Socket) => {
      tunnels.push(url);
      const [host, port] = url!.split(':');
      const server = connect(Number(port), host, () => {
        client.write('HTTP/1.1 200 OK\r\n\r\n');
        client.pipe(server).pipe(client);
      });
      for (const socket of [client, server]) socket.on('error', () => undefined);
      cleanUps.push(() => server.destroy());
    });
    const { url } = await listen(proxy);
    vi.stubEnv('http_proxy', url);
    expect((await models(hub)).status).toBe(0);
    expect(new Set(tunnels)).toEqual(new Set([hub.url, hub.cdnUrl].map((address) => new URL(address).host)));
    tunnels.length = 0;
    vi.stubEnv('http_proxy', undefined);
    vi.stubEnv('HTTP_PROXY', url);
    vi.stubEnv('NO_PROXY', '127.0.0.1');
    expect((await models(hub)).status).toBe(0);
    expect(tunnels).toEqual([]);
  });
});

describe('a broken connection', () => {
  test('is reopened, and only the rest is requested', async () => {
    const hub = await hubWith();
    hub.faults.stopAfter = 2 * PIECE;
    const download = models(hub);
    await reached(part(hub, VAE), 2 * PIECE);
    hub.faults.stopAfter = PIECE;
    hub.closeStalled();
    await reached(part(hub, VAE), 3 * PIECE);
    hub.closeStalled();
    const { status, out } = await download;
    expect(status).toBe(0);
    expect(ranges(hub, VAE)).toEqual([undefined, 'bytes=200000-', 'bytes=300000-']);
    expect(ranges(hub, UNET)).toEqual([undefined]);
    expect(out).toContain(`${VAE}: the connection broke at 300.0 kB of 480.0 kB; next attempt in 0.001 s\n`);
    expectWhole(hub);
  });

  test('is noticed when the server only falls silent', async () => {
    const hub = await hubWith();
    hub.faults.stopAfter = 2 * PIECE;
    expect((await models(hub, ['svd_xt'], { idleTimeout: 50 })).status).toBe(0);
    expect(ranges(hub, VAE)).toEqual([undefined, 'bytes=200000-']);
    expectWhole(hub);
  });

  test('leaves the partial file for the next run, and no model', async () => {
    const hub = await hubWith();
    hub.faults.stopAfter = 5 * PIECE; // within the last file
    const download = models(hub, ['svd_xt'], { delays: [] });
    await reached(part(hub, UNET), 5 * PIECE);
    hub.closeStalled();
    expect(await download).toMatchObject({
      status: 1,
      err: `${UNET}: the connection broke at 500.0 kB of 1.2 MB; run this again to continue\n`,
    });
    expectNoModel(hub);

    const { status, out } = await models(hub);
    expect(status).toBe(0);
    expect(ranges(hub, UNET)).toEqual([undefined, 'bytes=500000-']);
    expect(ranges(hub, VAE)).toEqual([undefined]);
    expect(out).toContain(`${UNET}  1.2 MB, of which 500.0 kB are here already\n`);
    expectWhole(hub);
  });

  test.each(['SIGKILL', 'SIGINT'] as const)('by %s leaves the partial file for the next run', async (signal) => {
    const hub = await hubWith();
    hub.faults.stopAfter = 5 * PIECE;
    const { child, output } = start(hub);
    await reached(part(hub, UNET), 5 * PIECE);
    child.kill(signal);
    const [status] = await once(child, 'close');
    expect(status).toBe(signal === 'SIGINT' ? 130 : null);
    if (signal === 'SIGINT') expect(output()).toContain('the received part is kept for the next run');
    expectNoModel(hub);
    expect((await models(hub)).status).toBe(0);
    expect(ranges(hub, UNET)).toEqual([undefined, 'bytes=500000-']);
    expectWhole(hub);
  });

  test('to a server without ranges makes the file start over', async () => {
    const hub = await hubWith();
    hub.faults.ranges = ['ignore'];
    hub.faults.stopAfter = 2 * PIECE;
    const download = models(hub);
    await reached(part(hub, VAE), 2 * PIECE);
    hub.closeStalled();
    expect((await download).status).toBe(0);
    expect(ranges(hub, VAE)).toEqual([undefined, 'bytes=200000-']);
    expectWhole(hub);
  });

  test.each([
    ['refuse', 416],
    ['mistake', 206],
  ] as const)('to a server that would %s the range makes the file start over', async (fault, answer) => {
    const hub = await hubWith();
    hub.faults.ranges = [fault];
    putPart(hub, VAE, hub.files.get(VAE)!.bytes.subarray(0, PIECE));
    const { status, out } = await models(hub);
    expect(status).toBe(0);
    expect(out).toContain(`${VAE}: the server does not send the requested range (status ${answer}); next attempt`);
    expect(ranges(hub, VAE)).toEqual(['bytes=100000-', undefined]);
    expectWhole(hub);
  });
});

describe('a busy server', () => {
  test('is asked again, the CDN with a new link', async () => {
    const hub = await hubWith();
    hub.faults.status.hub = [503, 429];
    hub.faults.status.cdn = [500, 403]; // a link that has run out
    const { status, out } = await models(hub);
    expect(status).toBe(0);
    expect(out.match(/\S+ answers with status \d+; next attempt in 0.001 s/g)).toEqual(
      [hub.url, hub.url, hub.cdnUrl, hub.cdnUrl].map(
        (url, i) => `${new URL(url).host} answers with status ${[503, 429, 500, 403][i]}; next attempt in 0.001 s`,
      ),
    );
    expect(hub.requests.filter(({ path }) => path.endsWith(CLIP))).toHaveLength(3);
    expectWhole(hub);
  });

  test('fails the run when consecutive attempts receive nothing', async () => {
    const hub = await hubWith();
    hub.faults.status.hub = [503, 503, 503];
    const { status, err } = await models(hub);
    expect(status).toBe(1);
    expect(err).toBe(`${new URL(hub.url).host} answers with status 503; run this again to continue\n`);
    expect(hub.requests).toHaveLength(3);
  });

  test('is retried without end while something arrives between the failures', async () => {
    const hub = await hubWith();
    const delays = [1];
    hub.faults.stopAfter = PIECE;
    const download = models(hub, ['svd_xt'], { delays });
    for (const size of [PIECE, 2 * PIECE, 3 * PIECE]) {
      await reached(part(hub, VAE), size);
      hub.faults.stopAfter = PIECE;
      hub.closeStalled();
    }
    await reached(part(hub, VAE), 4 * PIECE);
    hub.closeStalled();
    expect((await download).status).toBe(0);
    expectWhole(hub);
  });
});

describe('a file with another hash or size', () => {
  test('is deleted, and the message says so', async () => {
    const hub = await hubWith();
    hub.faults.corrupt = 1; // the first of them, CLIP
    const { status, err } = await models(hub);
    expect(status).toBe(1);
    expect(err).toMatch(
      new RegExp(
        `^${CLIP}: the received file is not what the hub lists \\(its hash is [0-9a-f]{64}\\); it was deleted\n$`,
      ),
    );
    expect([existsSync(part(hub, CLIP)), existsSync(blob(hub, CLIP))]).toEqual([false, false]);
    expectNoModel(hub);
    expect((await models(hub)).status).toBe(0);
    expectWhole(hub);
  });

  test.each([
    ['a part of something else', PIECE, ['bytes=100000-', undefined]],
    ['a part of the right length', 480_000, [undefined]],
    ['a part that is too long', 5 * PIECE, [undefined]],
  ])('is deleted and downloaded again: %s', async (_, size, asked) => {
    const hub = await hubWith();
    putPart(hub, VAE, new Uint8Array(size));
    expect((await models(hub)).status).toBe(0);
    expect(ranges(hub, VAE)).toEqual(asked);
    expectWhole(hub);
  });

  test.each([10, -10])('is rejected when its size differs from the list’s: %i', async (more) => {
    const hub = await hubWith();
    hub.faults.list = (entry) =>
      entry.path === VAE ? { ...entry, lfs: { ...entry.lfs!, size: entry.size + more } } : entry;
    expect(await models(hub)).toMatchObject({ status: 1, err: expect.stringMatching(`^${VAE}: `) });
    expect(existsSync(blob(hub, VAE))).toBe(false);
    expectNoModel(hub);
  });

  test('is rejected also if it is small, by git’s id', async () => {
    const hub = await hubWith();
    hub.files.get('unet/config.json')!.bytes[0]! ^= 1;
    const { status, err } = await models(hub);
    expect(status).toBe(1);
    expect(err).toMatch(
      /^unet\/config\.json: the received file is not what the hub lists \(its hash is [0-9a-f]{40}\)/,
    );
  });
});

test('of two runs at the same time the second waits and finds everything', async () => {
  const hub = await hubWith();
  hub.faults.stopAfter = 5 * PIECE;
  const { child } = start(hub);
  await reached(part(hub, UNET), 5 * PIECE);
  let said: () => void;
  const waiting = new Promise<void>((resolve) => {
    said = resolve;
  });
  const second = models(hub, ['svd_xt'], {
    out: { write: (text) => text.startsWith('another npm run models') && said() },
  });
  await waiting;
  hub.closeStalled();
  expect((await second).status).toBe(0);
  if (child.exitCode === null) await once(child, 'exit');
  expect(child.exitCode).toBe(0);
  expect([ranges(hub, VAE), ranges(hub, UNET)]).toEqual([[undefined], [undefined, 'bytes=500000-']]);
  expectWhole(hub);
}, 30_000);

test('a disk without locks is used without them', async () => {
  const hub = await hubWith();
  mkdirSync(join(home, 'hf/hub/.locks', NAME, 'npm-run-models.db'), { recursive: true });
  const { status, out } = await models(hub);
  expect(status).toBe(0);
  expect(out).toMatch(/npm-run-models\.db can’t be locked \(.+\): do not run the command twice at the same time\n/);
  expectWhole(hub);
});

describe('a gated repository', () => {
  const page = `https://huggingface.co/${REPOSITORY}`;

  test.each([
    [
      'no token',
      {},
      `${REPOSITORY} requires its licence to be accepted: accept it at ${page}, then set HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens)\n`,
    ],
    [
      'a token that is refused',
      { HF_TOKEN: 'hf_unknown' },
      `HOST refuses the token from HF_TOKEN: set HF_TOKEN to a valid one (https://huggingface.co/settings/tokens) of an account that has accepted the licence at ${page}\n`,
    ],
    [
      'a token that is not for such repositories',
      { HF_TOKEN: TOKENS.narrow },
      `HOST answers with status 403 for ${REPOSITORY}: Please enable access to public gated repositories in your fine-grained token settings\n`,
    ],
    [
      'a licence that is not accepted',
      { HF_TOKEN: TOKENS.notAccepted },
      `the token from HF_TOKEN is valid, but its account has not accepted the licence at ${page}\n`,
    ],
  ])('refuses %s', async (_, env, message) => {
    const hub = await hubWith({ gated: true });
    const { status, out, err } = await models(hub, ['svd_xt'], { env });
    expect(out).not.toContain('next attempt');
    expect({ status, err }).toEqual({ status: 1, err: message.replace('HOST', new URL(hub.url).host) });
    expectNoModel(hub);
  });

  test('accepts the token in HF_TOKEN, which the CDN never sees', async () => {
    const hub = await hubWith({ gated: true });
    expect((await models(hub, ['svd_xt'], { env: { HF_TOKEN: `${TOKENS.accepted}\n` } })).status).toBe(0);
    const tokens = (origin: string) =>
      new Set(hub.requests.filter((one) => one.origin === origin).map(({ authorization }) => authorization));
    expect(tokens('hub')).toEqual(new Set([`Bearer ${TOKENS.accepted}`]));
    expect(tokens('cdn')).toEqual(new Set([undefined]));
    expectWhole(hub);
  });

  test('shows the token to no other server, even if the list links to one', async () => {
    const hub = await hubWith();
    const asked: (string | undefined)[] = [];
    const { url } = await listen(
      createServer(({ headers }, response) => {
        asked.push(headers.authorization);
        response.end('[]');
      }),
    );
    hub.faults.nextPages = url;
    expect((await models(hub, ['svd_xt'], { env: { HF_TOKEN: TOKENS.accepted } })).err).toMatch(/ has no .+\n$/);
    expect(asked).toEqual([undefined]);
  });

  test('accepts the token that `hf auth login` has saved', async () => {
    const hub = await hubWith({ gated: true });
    mkdirSync(join(home, 'hf'));
    writeFileSync(join(home, 'hf/token'), `${TOKENS.accepted}\n`);
    expect((await models(hub)).status).toBe(0);
  });

  test('answers with its own reason if it does not exist or is hidden', async () => {
    const hub = await hubWith({ repository: 'stabilityai/another' });
    const host = new URL(hub.url).host;
    expect(await models(hub)).toMatchObject({
      status: 1,
      err: `${host} answers with status 401 for ${REPOSITORY}: Invalid username or password.\n`,
    });
    expect(await models(hub, ['svd_xt'], { env: { HF_TOKEN: TOKENS.accepted } })).toMatchObject({
      status: 1,
      err: `${host} answers with status 404 for ${REPOSITORY}: Repository not found\n`,
    });
  });
});

describe('ends with one line where', () => {
  test.each([
    ['no model is named', [], 'npm run models: needs svd|svd_xt|svd_xt_1_1'],
    ['the model is unknown', ['svd_xxl'], 'svd_xxl: must be one of svd, svd_xt, svd_xt_1_1'],
    ['two models are named', ['svd', 'svd_xt'], 'npm run models: takes only svd|svd_xt|svd_xt_1_1'],
    ['an option is unknown', ['svd', '--fast'], "Unknown option '--fast'; allowed are --precision, "],
    ['a value is missing', ['svd', '--cache'], "Option '--cache <value>' argument missing; "],
    ['a precision is unknown', ['svd', '--precision', 'int8'], '--precision must be fp16 or fp32\n'],
    ['a revision is a path', ['svd', '--revision', '../../x'], '--revision must be a git revision\n'],
  ])('%s, and with status 2', async (_, args, message) => {
    const { status, out, err } = await models({ url: 'http://127.0.0.1:9' }, args);
    expect([status, out, err.slice(0, message.length)]).toEqual([2, '', message]);
    expect(err).toMatch(/^[^\n]+\n$/);
  });

  test('the hub is unreachable', async () => {
    const { server, url } = await listen(createServer());
    server.close();
    const { status, out, err } = await models({ url });
    const host = new URL(url).host;
    expect(status).toBe(1);
    expect(err).toBe(`${host} can’t be reached (ECONNREFUSED); run this again to continue\n`);
    expect(out).toBe(`${host} can’t be reached (ECONNREFUSED); next attempt in 0.001 s\n`.repeat(2));
  });

  test.each([
    ['HTML', '<html>Log in to the hotel’s network</html>'],
    ['other JSON', '{"ok":true}'],
  ])('%s answers', async (_, body) => {
    const { url } = await listen(createServer(((_, response) => response.end(body)) satisfies RequestListener));
    expect(await models({ url })).toMatchObject({
      status: 1,
      err: `${url} does not answer as the Hugging Face hub does\n`,
    });
  });

  test('HF_ENDPOINT is no URL', async () => {
    expect(await models({ url: 'hub' })).toMatchObject({
      status: 1,
      err: 'HF_ENDPOINT must be an http or https URL\n',
    });
  });

  test('the repository lacks a file', async () => {
    const hub = await hubWith();
    hub.faults.list = (entry) => (entry.path === 'vae/config.json' ? undefined : entry);
    expect(await models(hub)).toMatchObject({ status: 1, err: `${REPOSITORY} at main has no vae/config.json\n` });
    expect(existsSync(join(home, 'hf'))).toBe(false);
  });

  test('the disk is too small', async () => {
    const hub = await hubWith();
    hub.faults.list = (entry) => (entry.lfs ? { ...entry, lfs: { ...entry.lfs, size: 1e15 } } : entry);
    putPart(hub, VAE, new Uint8Array());
    truncateSync(part(hub, VAE), 1e12); // takes no room
    const { status, err } = await models(hub);
    expect(status).toBe(1);
    expect(err).toMatch(/^\S+\/hf\/hub has [\d.]+ GB free, but 2999000\.00 GB are needed\n$/);
    expect(hub.requests.some(({ path }) => path.includes('/resolve/'))).toBe(false);
  });

  test('the cache can’t be written', async () => {
    const hub = await hubWith();
    writeFileSync(join(home, 'file'), '');
    const { status, err } = await models(hub, ['svd_xt', '--cache', join(home, 'file/hub')]);
    expect(status).toBe(1);
    expect(err).toMatch(/^ENOTDIR: .*\n$/);
  });
});

test('--help prints the usage', async () => {
  const { status, out } = await models({ url: 'http://127.0.0.1:9' }, ['--help']);
  expect(status).toBe(0);
  expect(out).toMatch(/^Usage: npm run models -- .*\n\n {2}svd\|svd_xt\|svd_xt_1_1\|animatelcm_svd_xt /);
});

async function listen(server: ReturnType<typeof createServer>) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  cleanUps.push(() => {
    server.close();
    server.closeAllConnections();
  });
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

describe('a model that has only a UNet of its own', () => {
  const name = 'animatelcm_svd_xt';
  const { repository, file } = UNETS[name]!;
  const second = { repository, files: { [file]: bytes(700_000), 'README.md': '# AnimateLCM\n', 'demo.gif': 'GIF' } };

  test('gets this UNet, and all other files from svd_xt', async () => {
    const hub = await hubWith({ second });
    const { status, out, err } = await models(hub, [name]);
    expect([status, err]).toEqual([0, '']);
    expect(out).toMatch(/MODEL=animatelcm_svd_xt npm start finds it there\n$/);
    const { folder, unet } = findWeights(name, environment(hub));
    expect(readFileSync(unet!).equals(second.files[file] as Uint8Array)).toBe(true);
    expect(readdirSync(dirname(unet!)).sort()).toEqual([file, 'README.md'].sort());
    expect(existsSync(join(folder, VAE))).toBe(true);
    expect(existsSync(join(folder, UNET))).toBe(false);
    const count = hub.requests.filter(({ origin }) => origin === 'cdn').length;
    expect((await models(hub, [name])).status).toBe(0);
    expect(hub.requests.filter(({ origin }) => origin === 'cdn')).toHaveLength(count);
  });

  test('is refused if the received UNet is not what the hub lists', async () => {
    const hub = await hubWith({ second });
    expect((await models(hub, ['svd_xt'])).status).toBe(0);
    hub.faults.corrupt = 2;
    const { status, err } = await models(hub, [name]);
    expect([status, err]).toEqual([1, expect.stringContaining(`${file}: the received file is not what the hub lists`)]);
    expect(() => findWeights(name, environment(hub))).toThrow('npm run models');
  });

  test('is refused if its repository has no such file, or there is no such revision of it', async () => {
    const hub = await hubWith({ second: { repository, files: { 'README.md': 'moved' } } });
    expect((await models(hub, [name])).err).toBe(`${repository} at main has no ${file}\n`);
    expect((await models(hub, [name, '--revision', 'v9'])).err).toContain('Invalid rev id: v9');
  });
});
