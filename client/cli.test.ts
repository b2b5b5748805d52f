import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { lstat, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type TestService, testService } from '../test/support/test-api.ts';
import { EXIT, main } from './cli.ts';

const TEXT = 'not really a video';
const SHA256 = createHash('sha256').update(TEXT).digest('hex');
let service: TestService;
let folder: string;
beforeAll(async () => {
  service = await testService({ PRICE_PER_GPU_SECOND: '0.001', PRICE_PER_STILL: '0.05' });
  folder = await mkdtemp(join(tmpdir(), 'cli-'));
});
afterAll(async () => {
  await service.close();
  await rm(folder, { recursive: true });
});
const at = (name: string) => join(folder, name);

interface Options {
  env?: Record<string, string>;
  stdin?: Readable;
  isTTY?: boolean;
  /** the width of the terminal */
  columns?: number;
  signal?: AbortSignal;
  /** gets all that was written to standard error so far */
  onErr?: (text: string) => void;
}

async function img2vid(args: string[], options: Options = {}) {
  const { env = { IMG2VID_URL: service.url }, stdin = Readable.from([]), isTTY = false, onErr = () => {} } = options;
  const { columns } = options;
  let [out, err] = ['', ''];
  const code = await main(args, {
    env,
    stdin,
    out: { write: (text) => (out += text) },
    err: {
      isTTY,
      ...(columns !== undefined && { columns }),
      write(text: string | Uint8Array) {
        err += text;
        onErr(err);
        return true;
      },
    },
    signal: options.signal ?? new AbortController().signal,
  });
  return { code, out, err };
}

/** Completes the newest task as a worker would, with this number of videos. */
async function work({ videos = 1, sha256 = SHA256 } = {}) {
  const id = await newest();
  const job = await service.take(id);
  service.report(job.id, { status: 'IN_PROGRESS', output: { stage: 'sampling', progress: 0.5, step: 6, steps: 12 } });
  await service.until(id, ({ progress }) => progress === 0.5);
  const output = await service.finish(id, job.id);
  const one = { ...output.videos[0]!, sha256 };
  const { seed: _, poster: __, preview: ___, ...grid } = one;
  const all = { videos: Array(videos).fill(one), ...(videos > 1 && { grid }) };
  service.report(job.id, { output: { ...output, ...all } });
  return id;
}
async function newest(): Promise<string> {
  for (;;) {
    const [task] = await (await fetch(`${service.url}/status?limit=1&status=queued`)).json();
    if (task) return task.id;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
async function create(body: object = { prompt: 'x' }): Promise<string> {
  return (await (await service.post(body)).json()).id;
}
async function fail(message: string) {
  const job = await service.take(await newest());
  service.report(job.id, { error: JSON.stringify({ code: 'banned_prompt', message, retryable: false }) });
}

test('a prompt becomes a file; standard output has text for people, or JSON and nothing else', async () => {
  const [{ code, out, err }, id] = await Promise.all([
    img2vid(['--prompt', 'a lighthouse', '--T=3', '--motion-bucket-id', '300', '--out', at('clip.mp4')]),
    work(),
  ]);
  expect(code).toBe(EXIT.ok);
  expect(await readFile(at('clip.mp4'), 'utf8')).toBe(TEXT);
  expect(out).toMatch(
    new RegExp(`^${id} succeeded\nhttp://.*video-1.mp4\\?.*\n {2}512×288, 14 frames at 6 fps, \\d+ bytes\n`),
  );
  expect(err).toBe(`motion_bucket_id: the model was trained with values up to 255\nsaved ${at('clip.mp4')}\n`);
  expect((await service.status(id)).input).toMatchObject({ prompt: 'a lighthouse', T: 3, motion_bucket_id: 300 });

  const [asJson] = await Promise.all([img2vid(['--prompt', 'x', '--json', '--quiet', '--fps', '60']), work()]);
  expect(JSON.parse(asJson.out)).toMatchObject({ status: 'succeeded', input: { fps: 60 } });
  expect(asJson.err).toBe('');
  const [quiet] = await Promise.all([img2vid(['--prompt', 'x', '--quiet']), work()]);
  expect([quiet.out, quiet.err]).toEqual([expect.stringMatching(/^http:\S+\n$/), '']);
});

test('a terminal shows a bar with stage, step and remaining time', async () => {
  const [{ err }] = await Promise.all([img2vid(['--prompt', 'x'], { isTTY: true }), work()]);
  expect(err).toMatch(/█{14}░{14} {2}50 % {2}sampling 6\/12 {2}about \d+ s left/);
  expect(err.split('\r\x1b[K').at(-1)).toMatch(/^succeeded after \d+\.\d s\n$/);
  const [narrow] = await Promise.all([img2vid(['--prompt', 'x'], { isTTY: true, columns: 45 }), work()]);
  const lines = narrow.err.split('\r\x1b[K');
  expect(lines).toContainEqual(expect.stringMatching(/^█{14}░{14} {2}50 % {2}sampling$/)); // a wrapped line would stay
});

test('--image takes a file, standard input and a URL', async () => {
  const png = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
  await writeFile(at('a.png'), png);
  for (const [image, stdin] of [
    [at('a.png'), Readable.from([])],
    ['-', Readable.from([png.subarray(0, 50), png.subarray(50)])],
  ] as const) {
    const { code, out } = await img2vid(['--image', image, '--no-wait', '--json'], { stdin });
    expect(code).toBe(EXIT.ok);
    const { id } = JSON.parse(out);
    const stored = await service.bucket.get(`tasks/${id}/upload`);
    expect(Buffer.from(stored!).equals(png)).toBe(true);
    await fetch(`${service.url}/cancel?id=${id}`, { method: 'POST' });
  }
  const { out } = await img2vid(['quote', '--image', 'https://example.com/a.png', '--json']);
  expect(JSON.parse(out).input).toMatchObject({ image_url: 'https://example.com/a.png' });
  const missing = await img2vid(['--image', at('none.png')]);
  expect([missing.code, missing.err]).toEqual([EXIT.file, `--image ${at('none.png')}: there is no such file\n`]);
  const broken = await img2vid(['--image', '-'], { stdin: Readable.from([Buffer.from('no picture')]) });
  expect([broken.code, broken.err]).toEqual([EXIT.usage, expect.stringMatching(/^--image: not a complete picture/)]);
});

test('quote prints the price and makes nothing', async () => {
  const { code, out, err } = await img2vid(['quote', '--prompt', 'x', '--fps', '60']);
  expect([code, out]).toEqual([EXIT.ok, 'at most 0.052027 USD, for 2.027 s of GPU\n']);
  expect(err).toMatch(/^fps: .* values from 5 to 30/);
});

test('a wrong command line fails before any request, and unknown names come with the nearest known one', async () => {
  const env = { IMG2VID_URL: 'http://127.0.0.1:9' };
  const wrong = async (...args: string[]) => {
    const { code, err } = await img2vid(args, { env });
    expect(code, args.join(' ')).toBe(EXIT.usage);
    return err.split('\n')[0];
  };
  expect(await wrong('--prompt', 'x', '--step', '5')).toBe('--step: unknown; did you mean --steps?');
  expect(await wrong('--prompt', 'x', '--imge', 'a')).toBe('--imge: unknown; did you mean --image?');
  expect(await wrong('--prompt')).toBe('--prompt needs a value');
  expect(await wrong('--prompt', 'x', '--json=yes')).toBe('--json takes no value');
  expect(await wrong('--prompt', 'x', '--seed', '1', '--seed', '2')).toBe('--seed: given more than once');
  expect(await wrong('--prompt', 'x', '--constructor', 'x')).toBe('--constructor: unknown');
  expect(await wrong()).toMatch(/^img2vid --prompt TEXT/);
  expect(await wrong('stats')).toMatch(/^stats: unknown command; use one of quote, status, /);
  expect(await wrong('watch')).toBe('watch needs the id of a task');
  expect(await wrong('status', 'a', 'b')).toBe('b: unexpected argument');
  expect(await wrong('list', '--seed', '5')).toBe('--seed can’t be used with list');
  expect(await wrong('list', '--force')).toBe('--force can’t be used with list');
  expect(await wrong('list', '--limit', 'x')).toMatch(/^--limit: must be/);
  expect(await wrong('--prompt', 'x', '--out', 'a', '--no-wait')).toBe('--out can’t be used with --no-wait');
  expect(await wrong('download', 'a', '--video', '0')).toMatch(/^--video: must be/);
  expect(await wrong('--prompt', 'x', '--video', '1')).toBe('--video and --force need --out');
  expect(await wrong('watch', 'a', '--force')).toBe('--video and --force need --out');
  const unmade = ['--prompt', 'x', '--num-cols', '2', '--video', '3', '--out', at('unmade.mp4')];
  expect(await wrong(...unmade)).toBe('--video: must be at most --num-cols, which is 2');
  for (const flag of ['out', 'image', 'video', 'url'])
    expect(await wrong('--prompt', 'x', `--${flag}=`)).toBe(`--${flag} needs a value`);
  expect(await wrong('usage', '--url', 'ftp://x')).toBe(
    '--url: must be an http or https URL without password or query',
  );
  expect(await wrong('usage', '--url', 'http://me:secret@x')).not.toContain('secret');
  expect(await wrong('usage', '--key', 'se\ncret')).toMatch(/^--key: must be visible ASCII/);
});

test('refusals name flags, and exit statuses distinguish the outcomes', async () => {
  const refused = await img2vid(['--prompt', 'x', '--T', 'many', '--H', '100']);
  expect([refused.code, refused.out]).toEqual([EXIT.usage, '']);
  expect(refused.err).toContain(
    '--H: must be a multiple of 64 from 64 to 2048; nearest: 64 and 128\n--T: must be a whole',
  );
  const none = await img2vid(['status', 'none']);
  expect(none).toEqual({ code: EXIT.failed, out: '', err: 'there is no such task\n' });
  const [failed] = await Promise.all([img2vid(['--prompt', 'x', '--quiet']), fail('not that')]);
  expect([failed.code, failed.out]).toEqual([EXIT.failed, 'not that (banned_prompt)\n']);
  const id = await create();
  expect(await img2vid(['cancel', id])).toMatchObject({ code: EXIT.ok, out: `${id} canceled\n` });
  expect((await img2vid(['watch', id])).code).toBe(EXIT.failed);
  expect((await img2vid(['delete', id])).code).toBe(EXIT.ok);
});

test('a file is saved only when complete, and replaces another one only with --force', async () => {
  const id = await create();
  await work({ videos: 2 });
  await service.until(id, ({ status }) => status === 'succeeded');
  await writeFile(at('mine.mp4'), 'mine');
  const refused = await img2vid(['download', id, '--out', at('mine.mp4')]);
  expect([refused.code, refused.err]).toEqual([EXIT.file, expect.stringContaining('--force overwrites it')]);
  expect((await img2vid(['--prompt', 'x', '--out', at('mine.mp4')])).code).toBe(EXIT.file); // and nothing is made
  for (const out of ['no-such-folder/a.mp4', 'mine.mp4/a.mp4']) {
    const { code, err } = await img2vid(['--prompt', 'x', '--out', at(out)]);
    expect([code, err]).toEqual([EXIT.file, expect.stringContaining('there is no folder')]);
  }
  const impossible = [at('a'.repeat(300)), '/dev/null'].map((out) =>
    img2vid(['--prompt', 'x', '--out', out, '--force']),
  );
  for (const { code, err } of await Promise.all(impossible))
    expect([code, err]).toEqual([EXIT.file, expect.stringMatching(/ENAMETOOLONG|is no regular file/)]);
  expect((await img2vid(['--image', '-', '--no-wait'])).err).toBe('--image -: is empty\n');
  expect(await (await fetch(`${service.url}/status?status=queued`)).json()).toEqual([]);
  expect(await readFile(at('mine.mp4'), 'utf8')).toBe('mine');
  expect((await img2vid(['download', id, '--out', at('mine.mp4'), '--force'])).out).toBe(`${at('mine.mp4')}\n`);
  expect(await readFile(at('mine.mp4'), 'utf8')).toBe(TEXT);

  await writeFile(at('linked.mp4'), 'mine');
  await symlink('linked.mp4', at('link.mp4'));
  await symlink('missing.mp4', at('broken.mp4'));
  expect((await img2vid(['download', id, '--out', at('link.mp4')])).code).toBe(EXIT.file);
  expect((await img2vid(['download', id, '--out', at('link.mp4'), '--force'])).out).toBe(`${at('linked.mp4')}\n`);
  expect((await lstat(at('link.mp4'))).isSymbolicLink()).toBe(true);
  const broken = await img2vid(['download', id, '--out', at('broken.mp4'), '--force']);
  expect(broken).toMatchObject({ code: EXIT.file, err: `${at('broken.mp4')}: is a link to a missing file\n` });

  const inFolder = await img2vid(['download', id, '--out', folder, '--video', '2', '--json']);
  expect(JSON.parse(inFolder.out)).toMatchObject({ path: at('x-1.mp4'), seed: 1 });
  const isThere = await img2vid(['download', id, '--out', folder, '--video', '1']);
  expect([isThere.code, isThere.err]).toEqual([EXIT.file, expect.stringContaining('--force overwrites it')]);
  const env = { IMG2VID_URL: service.url, INIT_CWD: folder, npm_package_json: join(process.cwd(), 'package.json') };
  expect((await img2vid(['download', id], { env })).out).toBe(`${at('x-1-grid.mp4')}\n`); // the current folder
  const third = await img2vid(['download', id, '--out', at('three.mp4'), '--video', '3']);
  expect([third.code, third.err]).toEqual([EXIT.usage, expect.stringContaining(`img2vid download ${id} saves it`)]);
  const longest = at(`${'a'.repeat(251)}.mp4`);
  expect((await img2vid(['download', id, '--out', longest])).out).toBe(`${longest}\n`);
  expect((await img2vid(['download', id, '--out', at('no/such/folder.mp4')])).code).toBe(EXIT.file);

  const other = await create();
  await work({ sha256: 'another' });
  const wrong = await img2vid(['watch', other, '--out', at('wrong.mp4')]);
  expect([wrong.code, wrong.err]).toEqual([EXIT.file, expect.stringContaining('the downloaded file is damaged')]);
  expect(wrong.err).toContain(`The clip is finished. Get it with img2vid download ${other}, or from http`);
  expect((await readdir(folder)).filter((name) => /wrong|part/.test(name))).toEqual([]);
  expect((await img2vid(['delete', other])).out).toContain('the files were deleted');
  expect((await img2vid(['list'])).out).toMatch(new RegExp(`^${other} .* deleted$`, 'm'));
  for (const command of ['download', 'watch'])
    expect(await img2vid([command, other, '--out', at('gone.mp4')])).toMatchObject({
      code: EXIT.failed,
      out: expect.stringContaining('the files were deleted'),
      err: '',
    });
});

test('status, list and usage print the newest task, the tasks and the account', async () => {
  const ids = [await create({ prompt: 'first' }), await create({ prompt: 'second,\nof two lines' })];
  expect((await img2vid(['status'])).out).toMatch(new RegExp(`^${ids[1]} queued(: number [12] in the queue)?\n$`));
  const lines = (await img2vid(['list', '--limit', '2'])).out.trimEnd().split('\n');
  expect(lines.map((text) => text.replace(/\d{4}-\S+Z/, 'T'))).toEqual([
    `${ids[1]}  queued     T  second, of two lines`,
    `${ids[0]}  queued     T  first`,
  ]);
  const all = JSON.parse((await img2vid(['list', '--limit', '0', '--json'])).out);
  expect(all.length).toBeGreaterThan(2);
  expect(JSON.parse((await img2vid(['list', '--json', '--status', 'queued'])).out).length).toBe(2);
  expect(JSON.parse((await img2vid(['list', '--json', '--until', '2020-01-01T00:00:00Z'])).out)).toEqual([]);
  const refused = await img2vid(['list', '--status', 'done', '--json']);
  expect(refused).toMatchObject({ code: EXIT.usage, out: '', err: expect.stringMatching(/^--status: must be one of/) });
  expect((await img2vid(['usage'])).out).toMatch(
    /^\d{4}-\d\d: [\d.]+ USD spent, 0.104054 USD reserved for active tasks \(2\); no budget\n/,
  );
  expect(JSON.parse((await img2vid(['usage', '--json', '--since', '2026-01-01'])).out).reserved).toBe(104_054);
  for (const id of ids) await img2vid(['cancel', id]);
  const tagged = ['--prompt', 'x', '--metadata', 'order=4=2', '--metadata', 'to=me', '--no-wait', '--json'];
  const { metadata, id: own } = JSON.parse((await img2vid(tagged)).out);
  expect(metadata).toEqual({ order: '4=2', to: 'me' });
  expect((await img2vid(['list', '--metadata', 'order=4=2', '--quiet'])).out).toMatch(new RegExp(`^${own} .*\\n$`));
  expect((await img2vid(['list', '--metadata', 'order'])).err).toMatch(/^--metadata: must be KEY=VALUE/);
});

test('Ctrl-C ends only the watching, and prints how to continue', async () => {
  const stop = new AbortController();
  const { code, err } = await img2vid(['--prompt', 'left alone'], {
    isTTY: true,
    signal: stop.signal,
    onErr: (text) => text.includes('queued') && stop.abort(),
  });
  expect(code).toBe(EXIT.interrupted);
  const id = /img2vid watch (\S+)/.exec(err)![1]!;
  expect(err).toContain(`img2vid cancel ${id}`);
  const [watched] = await Promise.all([img2vid(['watch', id]), work()]);
  expect([watched.code, watched.out]).toEqual([EXIT.ok, expect.stringContaining(`${id} succeeded`)]);

  const stopSaving = new AbortController();
  const saving = await img2vid(['watch', id, '--out', at('interrupted.mp4')], {
    isTTY: true,
    signal: stopSaving.signal,
    onErr: (text) => text.includes('succeeded after') && stopSaving.abort(),
  });
  expect(saving.code).toBe(EXIT.interrupted);
  expect(saving.err).toContain(`The clip is finished. Get it with img2vid download ${id}\n`);
});

test('Ctrl-C ends every command, also while the service or standard input is silent', async () => {
  const requests = new EventEmitter();
  const silent = createServer(() => requests.emit('request'));
  await once(silent.listen(0, '127.0.0.1'), 'listening');
  const env = { IMG2VID_URL: `http://127.0.0.1:${(silent.address() as AddressInfo).port}` };
  for (const command of [['cancel', 'a'], ['delete', 'a'], ['status', 'a'], ['list'], ['usage'], ['--prompt', 'x']]) {
    const stop = new AbortController();
    requests.once('request', () => stop.abort());
    expect((await img2vid(command, { env, signal: stop.signal })).code).toBe(EXIT.interrupted);
  }
  const stop = new AbortController();
  setImmediate(() => stop.abort());
  const reading = await img2vid(['--image', '-'], { env, stdin: new PassThrough(), signal: stop.signal });
  expect(reading.code).toBe(EXIT.interrupted);
  silent.closeAllConnections();
  silent.close();
});

test('the API key comes from the environment or the command line', async () => {
  const own = await testService();
  const { value: text } = await own.key();
  const without = await img2vid(['list'], { env: { IMG2VID_URL: own.url } });
  expect([without.code, without.err]).toEqual([EXIT.failed, expect.stringContaining('--key, or IMG2VID_API_KEY')]);
  const env = { IMG2VID_URL: own.url, IMG2VID_API_KEY: text };
  expect((await img2vid(['list', '--json'], { env })).code).toBe(EXIT.ok);
  expect((await img2vid(['list', '--json', '--url', own.url, '--key', text], { env: {} })).code).toBe(EXIT.ok);
  await own.close();
});

test('--help lists every parameter and exit status', async () => {
  const { code, out } = await img2vid(['--help']);
  expect(code).toBe(EXIT.ok);
  const { components } = await (await fetch(`${service.url}/openapi.json`)).json();
  for (const name of Object.keys(components.schemas.Request.properties)) expect(out).toContain(`\n  --${name} `);
  for (const status of Object.values(EXIT)) expect(out).toMatch(new RegExp(`\\b${status}\\b`));
  expect(out.split('\n').filter((text) => text.length > 110)).toEqual([]);
  expect((await img2vid([])).code).toBe(EXIT.usage);
});

test('the linked command runs from another folder and passes its exit status on', async () => {
  const link = at('img2vid');
  await symlink(fileURLToPath(new URL('cli.mjs', import.meta.url)), link);
  const child = spawn(link, ['--image', '-', '--T', '0'], {
    cwd: folder,
    env: { PATH: process.env.PATH, IMG2VID_URL: service.url },
  });
  const png = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
  child.stdin.end(png);
  let err = '';
  child.stderr.on('data', (text) => (err += text));
  const [code] = await once(child, 'close');
  expect([code, err]).toEqual([EXIT.usage, '--T: must be a whole number from 1 to 100\n']);
});

test('files are those of the folder in which npm run was called', async () => {
  const png = await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .png()
    .toBuffer();
  await writeFile(at('here.png'), png);
  const env = {
    IMG2VID_URL: service.url,
    INIT_CWD: folder,
    npm_package_json: join(process.cwd(), 'package.json'),
  };
  const quote = ['quote', '--image', 'here.png'];
  expect((await img2vid(quote, { env })).code).toBe(EXIT.ok);
  const otherPackage = { ...env, npm_package_json: '/elsewhere/package.json' };
  expect((await img2vid(quote, { env: otherPackage })).code).toBe(EXIT.file);
});

test('an unreachable service has its own exit status', async () => {
  const gone = await testService();
  await gone.close();
  const { code, err } = await img2vid(['status'], { env: { IMG2VID_URL: gone.url } });
  expect([code, err]).toEqual([
    EXIT.unreachable,
    expect.stringMatching(/can’t be reached: ECONNREFUSED; check that the service runs/),
  ]);
});
