import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Hono } from 'hono';
import type { Browser, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { listen } from '../../api/testing.ts';
import { freePort, type LocalService, startLocal } from '../local/start.ts';
import { hasBrowser, launchBrowser, playing } from './browser.ts';

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
    await page.click('form button');
    await page.waitForFunction((count) => document.querySelectorAll('#tasks video').length > count, before);
  }

  test('a picture becomes a clip that plays', async () => {
    await makeClip();
    expect(await playing(page)).toMatchObject({ width: 512, height: 288 });
    if (process.env.SCREENSHOTS)
      await page.screenshot({ path: join(process.env.SCREENSHOTS, 'page.png'), fullPage: true });
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
    await page.click('form button');
    await page.waitForFunction(() => document.querySelector('#errors')?.textContent);
    expect(await page.textContent('#errors')).toBe('T: must be a whole number from 1 to 100');
    await page.reload();
    expect(await playing(page)).toMatchObject({ width: 512, height: 288 });
  });
});
