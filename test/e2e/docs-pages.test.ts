/** The documentation's pages, over HTTP and in Chromium. */
import { join } from 'node:path';
import axe from 'axe-core';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openPages } from '../../api/docs/pages.ts';
import { hasBrowser, launchBrowser } from '../../infra/tools/browser.ts';
import { type TestService, testService } from '../support/test-api.ts';

const SERVICE = 'http://127.0.0.1:5000';
const PATHS = openPages(SERVICE).urls;

let service: TestService;
beforeAll(async () => {
  service = await testService();
});
afterAll(() => service.close());

test('the pages need no key, link to one another, and show the service’s own URL', async () => {
  const own = await testService({ PUBLIC_URL: 'https://video.example.com', HOST: '0.0.0.0' });
  const seen = new Set<string>();
  const waiting = ['/docs'];
  for (let path = waiting.pop(); path; path = waiting.pop()) {
    if (seen.has(path)) continue;
    seen.add(path);
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
  expect([...seen].filter((path) => path.startsWith('/docs/plots/')).length).toBe(7);
  expect(await (await fetch(`${own.url}/docs/quickstart`)).text()).toContain('https://video.example.com/img2vid');

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

  const VIEWS = [
    { width: 1440, colorScheme: 'light' },
    { width: 390, colorScheme: 'dark' },
  ] as const;
  async function view(
    page: Page,
    path: string,
    { width, colorScheme }: { width: number; colorScheme: 'light' | 'dark' },
  ) {
    await page.setViewportSize({ width, height: 900 });
    await page.emulateMedia({ colorScheme });
    if (!process.env.SCREENSHOTS) return;
    const file = join(process.env.SCREENSHOTS, `${path.slice(1).replaceAll('/', '-')}-${colorScheme}-${width}.png`);
    await page.screenshot({ path: file, fullPage: true });
  }

  /** One of each layout: text, tables, long code and Swagger UI. */
  const CHECKED_BY_AXE = ['/docs', '/docs/api/parameters', '/docs/api/errors', '/docs/api/reference'];

  async function violationsOf(page: Page) {
    if ((await page.evaluate('typeof axe')) === 'undefined') await page.evaluate(axe.source);
    return page.evaluate(async () => {
      const { run } = (window as unknown as { axe: typeof axe }).axe;
      const { violations } = await run({ exclude: ['#api'] }, { resultTypes: ['violations'] }); // Swagger UI is not ours
      return violations
        .filter(({ impact }) => impact === 'serious' || impact === 'critical')
        .map(({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`)]);
    });
  }

  test('every page fits on desktops and phones, is accessible, and requests nothing from other servers', async () => {
    const page = await browser.newPage();
    const faults = watch(page);
    expect(PATHS).toEqual(expect.arrayContaining(CHECKED_BY_AXE));
    for (const path of PATHS) {
      await page.goto(service.url + path);
      if (path === '/docs/api/reference') await showReference(page);
      for (const size of VIEWS) {
        await view(page, path, size);
        const [wanted, there] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        expect(wanted, `${path}, ${size.width} pixels`).toBeLessThanOrEqual(there!);
        if (CHECKED_BY_AXE.includes(path))
          expect(await violationsOf(page), `${path}, ${size.width} pixels`).toEqual([]);
      }
      const empty = await page.evaluate(() => [...document.images].flatMap((i) => (i.naturalWidth ? [] : [i.src])));
      expect(empty, `pictures of ${path} that do not show`).toEqual([]);
    }
    expect(faults).toEqual([]);
    await page.close();
  }, 180_000);

  test('the search finds sections, and the keyboard opens one', async () => {
    const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
    const faults = watch(page);
    await page.goto(`${service.url}/docs`);
    await page.keyboard.press('/');
    await page.keyboard.insertText('budget');
    await page.waitForSelector('#found a');
    expect(await page.textContent('#found a strong')).toBe('Budgets');
    expect(await page.locator('#found mark').count()).toBeGreaterThan(1);
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.waitForURL('**/docs/operate/budgets');
    expect(faults).toEqual([]);
    await page.fill('#search', 'qqqq');
    await page.getByText('Nothing found').waitFor();
    await page.keyboard.press('Escape');
    await page.locator('#found').waitFor({ state: 'hidden' });
    await page.close();
  });

  test('a code block is copied, and the navigation folds on a phone', async () => {
    const context = await browser.newContext({
      viewport: { width: 390, height: 900 },
      permissions: ['clipboard-read', 'clipboard-write'],
    });
    const page = await context.newPage();
    await page.goto(`${service.url}/docs/api/errors`);
    await page.locator('.copy').first().click();
    await page.getByRole('button', { name: 'Copied' }).waitFor();
    const code = await page.locator('.code code').first().textContent();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(code);

    const link = page.locator('.pages').getByRole('link', { name: 'Retries' });
    expect(await link.isVisible()).toBe(false);
    await page.locator('.pages summary').click();
    await link.click();
    await page.waitForURL('**/docs/api/retries');
    await context.close();
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
