import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import type { Browser, Page, Request } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { openStore } from '../../api/store/store.ts';
import { listen, makeKey, type TestService, testService } from '../../api/testing.ts';
import { freePort, type LocalService, startLocal } from '../local/start.ts';
import { hasBrowser, launchBrowser, playing } from './browser.ts';

vi.setConfig({ testTimeout: 60_000 });

/** In the page: when it has asked for events. */
interface Noted {
  times: number[];
}

/** With pictures of its states, where SCREENSHOTS names a folder for them. */
async function screenshot(page: Page, name: string) {
  if (!process.env.SCREENSHOTS) return;
  for (const width of [400, 1200]) {
    await page.setViewportSize({ width, height: 900 });
    await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}-${width}.png`), fullPage: true });
  }
}

const picture = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));

describe.skipIf(!hasBrowser)('the page, in Chromium', () => {
  let service: LocalService;
  let browser: Browser;
  let folder: string;
  let page: Page;
  const faults: string[] = [];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'page-'));
    const port = await freePort(40_000 + Math.floor(Math.random() * 10_000), '127.0.0.1');
    service = await startLocal({
      env: { PATH: process.env.PATH, PORT: String(port), DATA_DIR: join(folder, 'data') },
      quiet: true,
    });
    browser = await launchBrowser();
  }, 60_000);
  beforeEach(async () => {
    faults.length = 0;
    page = await browser.newPage({ viewport: { width: 900, height: 1100 } });
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('console', (message) => message.type() === 'error' && faults.push(message.text()));
    await page.goto(service.url);
    await page.waitForSelector('#settings input', { state: 'attached' });
  });
  afterEach(() => page.close());
  afterAll(async () => {
    await browser?.close();
    await service?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  async function makeClip() {
    const before = await page.locator('#tasks video').count();
    await page.setInputFiles('#image', picture);
    await page.click('#form button');
    await page.waitForFunction((count) => document.querySelectorAll('#tasks video').length > count, before);
  }

  test('a picture becomes a clip that plays', async () => {
    await makeClip();
    expect(await playing(page)).toMatchObject({ width: 512, height: 288 });
    await screenshot(page, 'page');
    for (const part of ['#key-form', '#forget', '#budget', '#now'])
      expect(await page.isVisible(part), part).toBe(false);
    expect(faults).toEqual([]);
  });

  test('a link opens by itself, and in the pages of others', async () => {
    await makeClip();
    const { src } = await playing(page);
    const shown = () => page.waitForFunction(() => document.querySelector('video')?.videoWidth === 512);
    await page.goto(src);
    await shown();
    const other = await listen(new Hono().get('/', (c) => c.html(`<video src="${src}"></video>`)));
    await page.goto(other.url.replace('127.0.0.1', 'localhost'));
    await shown();
    await other.close();
  });

  test('a wrong value is told beside the form; what was made is there after a reload', async () => {
    await makeClip();
    await page.click('summary');
    await page.fill('#setting-T', 'many');
    await page.click('#form button');
    await page.waitForFunction(() => document.querySelector('#errors')?.textContent);
    expect(await page.textContent('#errors')).toBe('T: must be a whole number from 1 to 100');
    await page.reload();
    expect(await playing(page)).toMatchObject({ width: 512, height: 288 });
  });
});

describe.skipIf(!hasBrowser)('the page where there are API keys, in Chromium', () => {
  let browser: Browser;
  let page: Page;
  const faults: string[] = [];
  const requests: Request[] = [];

  beforeAll(async () => {
    browser = await launchBrowser();
  });
  beforeEach(async () => {
    faults.length = 0;
    requests.length = 0;
    page = await (await browser.newContext()).newPage();
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('console', (message) => message.text().includes('Content Security Policy') && faults.push(message.text()));
    page.on('request', (request) => requests.push(request));
  });
  afterEach(async () => {
    await page.context().close();
    expect(faults).toEqual([]);
  });
  afterAll(() => browser?.close());

  async function enter(text: string) {
    await page.waitForSelector('#key-form', { state: 'visible' });
    await page.fill('#key', text);
    await page.click('#key-form button');
  }
  const shows = (selector: string, text: string) =>
    page.waitForFunction(([at, wanted]) => document.querySelector(at!)!.textContent === wanted, [selector, text]);
  const asked = (path: string) => requests.filter((request) => request.url().includes(path));

  describe('of the whole service', () => {
    let folder: string;
    let service: LocalService;
    let text: string;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'page-'));
      const store = await openStore(`file:${join(folder, 'tasks.db')}`);
      ({ text } = await makeKey(store, { budget: 20_000_000 }));
      await store.close();
      const port = await freePort(40_000 + Math.floor(Math.random() * 10_000), '127.0.0.1');
      service = await startLocal({
        env: { PATH: process.env.PATH, PORT: String(port), DATA_DIR: folder, PRICE_PER_GPU_SECOND: '0.01' },
        quiet: true,
      });
    }, 60_000);
    afterAll(async () => {
      await service?.stop();
      await rm(folder, { recursive: true, force: true });
    });

    test('asks for a key, refuses a wrong one, makes a clip with the right one, and forgets it', async () => {
      await page.goto(service.url);
      await page.waitForSelector('#key-form', { state: 'visible' });
      expect(await page.isVisible('#form')).toBe(false);
      await screenshot(page, 'asks');
      await enter('\u{1f511}');
      await shows('#errors', 'this is no API key');
      await enter(`i2v_${'0'.repeat(16)}_${'0'.repeat(43)}`);
      await shows('#errors', 'this API key is not valid');
      await screenshot(page, 'refuses');
      expect(await page.isVisible('#form')).toBe(false);

      await enter(` ${text} `);
      await shows('#budget', '$0.00 of $20.00 used this month');
      await page.setInputFiles('#image', picture);
      await page.click('#form button');
      expect(await playing(page)).toMatchObject({ width: 512, height: 288 });
      const [, cost] = /succeeded · \$(\d\.\d+)$/.exec((await page.textContent('#tasks .note'))!)!;
      expect(Number(cost)).toBeGreaterThan(0);
      await shows('#budget', `$${cost} of $20.00 used this month`);
      await screenshot(page, 'keyed');

      requests.length = 0;
      await page.reload();
      expect(await playing(page)).toMatchObject({ width: 512, height: 288 });
      const headers = [...asked('/status'), ...asked('/usage')].map((request) => request.headers().authorization);
      expect(headers).toEqual([`Bearer ${text}`, `Bearer ${text}`]);
      expect(asked('/status')[0]!.url()).toBe(`${service.url}/status?limit=20`);

      await page.click('#forget');
      await page.waitForSelector('#key-form', { state: 'visible' });
      expect(await page.locator('#tasks *').count()).toBe(0);
      expect(await page.inputValue('#key')).toBe('');
      await page.reload();
      await page.waitForSelector('#key-form', { state: 'visible' });
      expect(await page.textContent('#errors')).toBe('');
    });

    test('the key is in no address, and this tab’s alone', async () => {
      await page.goto(service.url);
      await enter(text);
      await page.waitForSelector('#forget', { state: 'visible' });
      const stored = () => page.evaluate(() => [{ ...localStorage }, Object.values(sessionStorage), document.cookie]);
      expect(await stored()).toEqual([{}, [text], '']);
      const other = await page.context().newPage();
      await other.goto(service.url);
      await other.waitForSelector('#key-form', { state: 'visible' });
      await other.close();
      await page.click('#forget');
      await page.waitForSelector('#key-form', { state: 'visible' });
      expect(await stored()).toEqual([{}, [], '']);
      expect(requests.length).toBeGreaterThan(0);
      for (const url of [page.url(), ...requests.map((request) => request.url())]) expect(url).not.toContain('i2v_');
    });

    test('an API that dies and comes back: the clip is followed from where it was', async () => {
      await page.goto(service.url);
      await enter(text);
      await page.waitForSelector('#form', { state: 'visible' });
      const before = await page.locator('#tasks video').count();
      await page.setInputFiles('#image', picture);
      await page.click('summary');
      await page.fill('#setting-steps', '1000'); // so long that it is seen
      await page.click('#form button');
      await page.waitForFunction(() => document.querySelector('#stage')!.textContent!.startsWith('sampling'));
      process.kill(service.pids().api, 'SIGKILL');
      await shows('#stage', 'The service does not answer.');
      await page.waitForFunction((count) => document.querySelectorAll('#tasks video').length > count, before);
      const told = asked('/status?id=').map((request) => request.headers()['last-event-id']);
      expect(told.length).toBeGreaterThanOrEqual(2);
      expect([told[0], Number(told.at(-1)) > 0]).toEqual([undefined, true]);
      expect(await page.isVisible('#now')).toBe(false);
    });
  });

  describe('of an API alone', () => {
    let service: TestService;
    beforeAll(async () => {
      service = await testService({ PRICE_PER_STILL: '0.05' });
      await service.key();
    });
    afterAll(() => service?.close());
    beforeEach(() => page.goto(service.url));

    async function post() {
      await page.fill('#prompt', 'a lighthouse');
      await page.click('#form button');
    }

    test('says in words why a request is refused: the budget, the rate, a scope', async () => {
      const [poor, slow, reader, writer] = await Promise.all([
        service.key({ budget: 49_999 }),
        service.key({ submissions_per_minute: 1 }),
        service.key({ scopes: ['read'] }),
        service.key({ scopes: ['submit'] }),
      ]);
      await enter(poor.text);
      await shows('#budget', '$0.00 of $0.049999 used this month');
      await post();
      await shows(
        '#errors',
        'this task may cost 0.05 USD; 0.049999 USD of this month’s budget of 0.049999 USD are left',
      );
      await screenshot(page, 'budget');

      await page.click('#forget');
      await enter(slow.text);
      await post();
      await page.waitForSelector('#now', { state: 'visible' });
      await post();
      await page.waitForFunction(() =>
        /^tasks a minute with this API key: at most 1 \(again in \d\d s\)$/.test(
          document.querySelector('#errors')!.textContent!,
        ),
      );

      await page.click('#forget');
      await enter(reader.text);
      await page.waitForSelector('#form', { state: 'visible' });
      expect(await page.isVisible('#now')).toBe(false); // that was the other key's
      await post();
      await shows('#errors', 'this API key has not the scope submit');

      await page.click('#forget');
      await enter(writer.text);
      await shows('#errors', 'this API key has not the scope read');
      expect(await page.isVisible('#form')).toBe(true);
    });

    test('a key that is revoked meanwhile is asked for again, and what was written stays', async () => {
      const { id, text } = await service.key();
      await enter(text);
      await page.waitForSelector('#form', { state: 'visible' });
      await service.store.changeKey(id, { revoked_at: Date.now() });
      service.clock.ahead += 1000; // for so long a key counts as known
      await post();
      await shows('#errors', 'this API key is not valid');
      const { text: next } = await service.key();
      await enter(next);
      await page.waitForSelector('#form', { state: 'visible' });
      expect(await page.inputValue('#prompt')).toBe('a lighthouse');
    });

    test('events that break off are taken up again, later and later, not sooner than the API says, until there are no more', async () => {
      const { text } = await service.key();
      const task = { stage: 'sampling', step: 3, steps: 12, progress: 0.5 };
      const event = `: here\r\n\r\nevent: task\r\nid: 7\r\ndata: ${JSON.stringify(task)}\r\n\r\nid: 8\r\nda`;
      const proxy = { status: 502, body: 'from a proxy' };
      const answers = [
        proxy,
        { status: 503, headers: { 'retry-after': '7' }, body: JSON.stringify({ detail: 'away' }) },
        proxy,
        { contentType: 'text/event-stream', body: event },
        { status: 204 },
      ];
      await page.route('**/status?id=*', (route) => route.fulfill(answers.shift()!));
      await page.clock.install();
      await page.addInitScript(() => {
        const real = window.fetch;
        window.fetch = (address, init) => {
          if (String(address).startsWith('/status?id=')) (window as unknown as Noted).times.push(Date.now());
          return real(address, init);
        };
        (window as unknown as Noted).times = [];
      });
      await page.reload();
      await enter(text);
      await page.waitForSelector('#form', { state: 'visible' });
      await page.clock.pauseAt(Date.now() + 3_600_000);
      await post();
      const stage = () => document.querySelector<HTMLElement>('#now:not([hidden]) #stage')?.innerText ?? 'over';
      /** Time goes on until it is so. */
      async function becomes(wanted: string) {
        while ((await page.evaluate(stage)) !== wanted) await page.clock.runFor(500);
      }
      await shows('#stage', 'The service does not answer.');
      await becomes('away (again in 7 s)');
      await becomes('The service does not answer.');
      await becomes('sampling 3 of 12');
      await becomes('over');
      await page.clock.runFor(600_000);
      const times = await page.evaluate(() => (window as unknown as Noted).times);
      const pauses = times.slice(1).map((time, i) => time - times[i]!);
      for (const [i, least] of [1000, 7000, 4000, 1000].entries()) expect(pauses[i]).toBeGreaterThanOrEqual(least);
      const told = asked('/status?id=').map((request) => request.headers()['last-event-id']);
      expect(told).toEqual([undefined, undefined, undefined, undefined, '7']);
    });
  });
});
