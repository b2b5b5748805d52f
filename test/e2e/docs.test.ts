/** The documentation: every example in it runs against the service, and its pages are opened in Chromium. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import sharp from 'sharp';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { NAVIGATION, renderPages } from '../../api/docs/pages.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { hasProgram } from '../../infra/run/programs.ts';
import { hasBrowser, launchBrowser } from '../../infra/tools/browser.ts';
import { type TestService, testService, WEBHOOK_SECRET } from '../support/test-api.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
const SERVICE = 'http://127.0.0.1:5000';

let service: TestService;
let folder: string;
let working: Promise<void>;
const stop = new AbortController();

beforeAll(async () => {
  service = await testService();
  working = work();
  folder = await mkdtemp(join(tmpdir(), 'docs-'));
  await sharp({ create: { width: 96, height: 64, channels: 3, background: '#369' } })
    .jpeg()
    .toFile(join(folder, 'photo.jpg'));
  await mkdir(join(folder, 'node_modules/@img2vid'), { recursive: true });
  await symlink(ROOT, join(folder, 'node_modules/@img2vid/text-to-video-api')); // as npm installs a folder
  await mkdir(join(folder, 'bin'));
  await symlink(join(ROOT, 'client/cli.mjs'), join(folder, 'bin/img2vid')); // as npm link does
  await writeFile(join(folder, 'bin/curl'), '#!/bin/sh\nPATH=$REAL_PATH exec curl --fail-with-body "$@"\n'); // an error status fails the example
  await chmod(join(folder, 'bin/curl'), 0o755);
});
afterAll(async () => {
  stop.abort();
  await working;
  await service.close();
  await rm(folder, { recursive: true });
});

/** A worker: every job succeeds. */
async function work() {
  const sha256 = createHash('sha256').update('not really a video').digest('hex');
  while (!stop.signal.aborted) {
    for (const job of service.queue.take('worker-1', 10)) {
      const { task_id } = job.input as { task_id: string };
      const output = await service.finish(task_id, job.id);
      service.report(job.id, { output: { ...output, videos: [{ ...output.videos[0]!, sha256 }] } });
    }
    await service.queue.waitForChange(1000, stop.signal);
  }
}

interface Block {
  page: string;
  language: string;
  /** answer: to the block before; receiver: a server; refused: an error status is expected; shown: checked by receivers.test.ts; backup, restore: by backup.test.ts */
  kind: string;
  code: string;
}
const BLOCKS: Block[] = readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.md') && !name.startsWith('decisions/'))
  .flatMap((page) =>
    [...readFileSync(join(ROOT, 'docs', page), 'utf8').matchAll(/^```(\w*) ?(\w*)\n(.*?)^```$/gms)].map(
      ([, language, kind, code]) => ({ page, language: language!, kind: kind!, code: code! }),
    ),
  );

/** URLs of the navigation. */
const LISTED = new Set(
  Object.values(NAVIGATION)
    .flat()
    .map((name) => `/docs/${name}`),
);
/** URLs of the pages that exist. */
const PATHS = [...renderPages(SERVICE).keys()];

function start({ language, code }: Block, env: Record<string, string> = {}): ChildProcess {
  const here = code.replaceAll(SERVICE, service.url);
  const PATH = process.env.PATH!;
  const [program, ...args] = {
    bash: ['bash', '-euo', 'pipefail', '-c', here],
    python: ['python3', '-c', here],
    js: ['node', '--input-type=module', '-e', here],
    ts: ['node', '--import', TSX, 'example.mts'],
  }[language]!;
  return spawn(program!, args, {
    cwd: folder,
    env: {
      PATH: `${join(folder, 'bin')}:${PATH}`,
      REAL_PATH: PATH,
      IMG2VID_URL: service.url,
      IMG2VID_API_KEY: '',
      ...env,
    },
  });
}
async function run(block: Block) {
  if (block.language === 'ts')
    await writeFile(join(folder, 'example.mts'), block.code.replaceAll(SERVICE, service.url));
  const child = start(block);
  let [out, err] = ['', ''];
  child.stdout!.on('data', (text) => (out += text));
  child.stderr!.on('data', (text) => (err += text));
  const [code] = await once(child, 'close');
  return { code, out, err };
}

const PROGRAMS: Record<string, string> = { bash: 'bash', python: 'python3' };
const missing = [...new Set(Object.values(PROGRAMS))].filter((program) => !hasProgram(program));
if (!hasProgram('curl')) missing.push('curl');
if (missing.length > 0) console.warn(`examples are skipped: there is no ${missing.join(', no ')}`);
const lacks = ({ language, code }: Block) =>
  missing.some((program) => program === PROGRAMS[language] || (program === 'curl' && /\bcurl\b/.test(code)));

describe('every example works', () => {
  const runnable = BLOCKS.filter(({ kind }) => kind === '' || kind === 'refused');
  const titled = runnable.map((block) => ({ ...block, title: block.code.split('\n')[0]!.slice(0, 60) }));

  for (const { title, ...block } of titled)
    test.skipIf(lacks(block))(
      `${block.page}, ${block.language}: ${title}${lacks(block) ? ' (skipped)' : ''}`,
      async () => {
        const { code, out, err } = await run(block);
        if (block.kind === 'refused') {
          expect(code).not.toBe(0);
          const next = BLOCKS[BLOCKS.findIndex(({ code }) => code === block.code) + 1]!;
          expect(next.kind).toBe('answer');
          expect(JSON.parse(out)).toEqual(JSON.parse(next.code));
        } else {
          expect(code, err).toBe(0);
          if (/prefer: wait|text\/event-stream|task\.videos/.test(block.code)) expect(out).toMatch(/succeeded/);
        }
      },
    );

  test('the receiver accepts only events that the service has signed', async () => {
    const [block] = BLOCKS.filter(({ kind }) => kind === 'receiver');
    const port = await freePort();
    const code = block!.code.replace('8000', `${port}, '127.0.0.1', () => console.log('listening')`);
    await writeFile(join(folder, 'example.mts'), code);
    const child = start(block!, { WEBHOOK_SECRET });
    const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    expect((await lines.next()).value).toBe('listening');
    const body = JSON.stringify({
      type: 'task.succeeded',
      timestamp: 'now',
      data: { videos: [{ link: 'https://a/b.mp4' }] },
    });
    const post = (secret: string) => {
      const [id, at] = [randomUUID(), new Date()];
      const headers = {
        'webhook-id': id,
        'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
        'webhook-signature': new Webhook(secret).sign(id, at, body),
      };
      return fetch(`http://127.0.0.1:${port}`, { method: 'POST', headers, body });
    };
    expect((await post(`whsec_${Buffer.alloc(32).toString('base64')}`)).status).toBe(400);
    expect((await post(WEBHOOK_SECRET)).status).toBe(204);
    expect((await lines.next()).value).toBe('https://a/b.mp4');
    child.kill('SIGKILL');
    await once(child, 'close');
  });

  test('examples in TypeScript compile', async () => {
    const typed = BLOCKS.filter(({ language }) => language === 'ts');
    await Promise.all(typed.map(({ code }, i) => writeFile(join(folder, `typed-${i}.mts`), code)));
    const strict = { strict: true, noEmit: true, skipLibCheck: true, allowImportingTsExtensions: true };
    const modern = { target: 'ES2023', lib: ['ES2024', 'DOM'], module: 'NodeNext' };
    const compilerOptions = { ...strict, ...modern, types: ['node'], typeRoots: [join(ROOT, 'node_modules/@types')] };
    await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['typed-*.mts'] }));
    const child = spawn(join(ROOT, 'node_modules/.bin/tsc'), ['-p', folder]);
    let output = '';
    child.stdout.on('data', (text) => (output += text));
    const [code] = await once(child, 'close');
    expect([code, output]).toEqual([0, '']);
    expect(typed.length).toBeGreaterThan(2);
  });

  test('every example is of a kind that a test runs', () => {
    const known = [
      'bash',
      'js',
      'ts',
      'python',
      'bash refused',
      'bash backup',
      'bash restore',
      'json answer',
      'ts receiver',
      'python shown',
      'go shown',
    ];
    expect(BLOCKS.filter(({ language, kind }) => !known.includes(`${language} ${kind}`.trim()))).toEqual([]);
    expect(BLOCKS.length).toBeGreaterThan(15);
  });
});

test('the pages need no key, link to one another, and show the service’s own URL', async () => {
  const own = await testService({ PUBLIC_URL: 'https://video.example.com', HOST: '0.0.0.0' });
  const seen = new Set<string>();
  const waiting = ['/docs'];
  for (let path = waiting.pop(); path; path = waiting.pop()) {
    if (seen.has(path)) continue;
    seen.add(path);
    if (/\.md(#|$)/.test(path) || (LISTED.has(path) && !PATHS.includes(path))) continue; // until all pages are written
    const answer = await fetch(own.url + path);
    expect([path, answer.status]).toEqual([path, 200]);
    if (!answer.headers.get('content-type')!.startsWith('text/html') || path === '/') continue;
    expect(answer.headers.get('content-security-policy')).toContain("script-src 'self';");
    const html = await answer.text();
    expect(html).not.toContain(SERVICE);
    const ids = new Set([...html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id));
    for (const [, address] of html.matchAll(/(?:href|src)="([^"]+)"/g)) {
      if (address!.startsWith('#')) expect(ids).toContain(address!.slice(1));
      else if (!address!.startsWith('https:')) waiting.push(address!.replace(/#.*/, ''));
    }
  }
  expect(PATHS.filter((path) => !seen.has(path))).toEqual([]);
  expect([...seen].filter((path) => path.startsWith('/docs/plots/')).length).toBe(5);
  expect(await (await fetch(`${own.url}/docs`)).text()).toContain('https://video.example.com/img2vid');

  expect((await fetch(`${own.url}/docs/none`)).status).toBe(404);
  expect((await fetch(`${own.url}/docs/..%2f..%2fpackage.json`)).status).toBe(404);
  expect((await fetch(`${own.url}/docs`, { method: 'POST' })).status).toBe(405);
  const packed = await fetch(`${own.url}/docs/swagger-ui-bundle.js`);
  expect([packed.headers.get('content-encoding'), (await packed.text()).length > 1e6]).toEqual(['gzip', true]);
  const plain = await fetch(`${own.url}/docs`, { headers: { 'accept-encoding': 'identity' } });
  expect(plain.headers.get('content-encoding')).toBeNull();
  for (const path of ['/docs', '/page/page.css']) {
    const etag = (await fetch(own.url + path)).headers.get('etag')!;
    const again = await fetch(own.url + path, { headers: { 'if-none-match': etag } });
    expect([again.status, await again.text()]).toEqual([304, '']);
    expect((await fetch(own.url + path, { headers: { 'if-none-match': 'W/"another"' } })).status).toBe(200);
  }
  await own.close();
});

describe.skipIf(!hasBrowser)('in Chromium', () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launchBrowser();
  });
  afterAll(() => browser?.close());

  for (const colorScheme of ['light', 'dark'] as const)
    for (const width of [390, 1280])
      test(`every page fits and requests nothing from other servers: ${colorScheme}, ${width} pixels`, async () => {
        const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
        const faults = watch(page);
        for (const path of PATHS) {
          await page.goto(service.url + path);
          if (path === '/docs/api/reference') await showReference(page);
          await page.waitForLoadState('networkidle');
          if (process.env.SCREENSHOTS) {
            const file = join(
              process.env.SCREENSHOTS,
              `${path.slice(1).replaceAll('/', '-')}-${colorScheme}-${width}.png`,
            );
            await page.screenshot({ path: file, fullPage: true });
          }
          const [wanted, there] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
          expect(wanted, `width of ${path}`).toBeLessThanOrEqual(there!);
        }
        expect(faults).toEqual([]);
        await page.close();
      });

  test('the reference page sends a dry run and shows its answer', async () => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const faults = watch(page);
    await page.goto(`${service.url}/docs/api/reference`);
    await showReference(page);
    await page.click('.try-out__btn');
    await page.locator('.opblock-tag-section .parameters select').first().selectOption('1');
    await page.click('button.execute');
    await page.waitForSelector('.live-responses-table');
    expect(await page.textContent('.live-responses-table')).toContain('cost_estimate');
    expect(faults).toEqual([]);
    await page.close();
  });
});

/** Errors of a page, and its requests to other servers. */
function watch(page: Page): string[] {
  const faults: string[] = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
  page.on('request', (request) => {
    if (!request.url().startsWith(service.url) && !request.url().startsWith('data:')) faults.push(request.url());
  });
  return faults;
}

/** Opens the first operation with an example of its request. */
async function showReference(page: Page) {
  await page.waitForSelector('#operations-tasks-img2vid');
  await page.click('#operations-tasks-img2vid .opblock-summary-control');
  await page.waitForSelector('#operations-tasks-img2vid .examples-select');
}
