import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { freePort, type LocalService, startLocal } from '../local/start.ts';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const missing = !existsSync(CHROMIUM);
if (missing) console.warn(`skipped: the page in a real browser, for there is no ${CHROMIUM} (set CHROMIUM)`);
const picture = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));

describe.skipIf(missing)('the page, in Chromium', () => {
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
    browser = await chromium.launch({
      executablePath: CHROMIUM,
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--autoplay-policy=no-user-gesture-required',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--no-first-run',
      ],
    });
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

  /** Waits for a clip that plays: its time moves on, and it has the size that was asked for. */
  async function playing(): Promise<{ width: number; height: number }> {
    await page.waitForSelector('#tasks video');
    return page.evaluate(
      () =>
        new Promise((resolve, reject) => {
          const video = document.querySelector<HTMLVideoElement>('#tasks video')!;
          video.muted = true;
          video.onerror = () => reject(new Error(video.error?.message));
          video.ontimeupdate = () =>
            video.currentTime > 0.2 && resolve({ width: video.videoWidth, height: video.videoHeight });
          video.play().catch(reject);
        }),
    );
  }

  async function makeClip() {
    const before = await page.locator('#tasks video').count();
    await page.setInputFiles('#image', picture);
    await page.click('form button');
    await page.waitForFunction((count) => document.querySelectorAll('#tasks video').length > count, before);
  }

  test('a picture becomes a clip that plays', async () => {
    await makeClip();
    expect(await playing()).toEqual({ width: 512, height: 288 });
    if (process.env.SCREENSHOTS)
      await page.screenshot({ path: join(process.env.SCREENSHOTS, 'page.png'), fullPage: true });
    expect(faults).toEqual([]);
  });

  test('a wrong value is told beside the form; what was made is there after a reload', async () => {
    await makeClip();
    await page.click('summary');
    await page.fill('#setting-T', 'many');
    await page.click('form button');
    await page.waitForFunction(() => document.querySelector('#errors')?.textContent);
    expect(await page.textContent('#errors')).toBe('T: must be a whole number from 1 to 100');
    await page.reload();
    expect(await playing()).toEqual({ width: 512, height: 288 });
  });
});
