import { execFile, spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import axe from 'axe-core';
import { Hono } from 'hono';
import type { Browser, Page, Request } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { openStore } from '../../api/store/store.ts';
import { taskFolder } from '../../core/job.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { DAY, SECOND } from '../../core/time.ts';
import { hasBrowser, launchBrowser, playing } from '../../infra/tools/browser.ts';
import { listen, makeKey, type TestService, testService } from '../support/test-api.ts';
import { type LocalTestService, PICTURE_PATH, startService } from './local-service.ts';

vi.setConfig({ testTimeout: 60_000 });

const SIZES = { desktop: { width: 1440, height: 900 }, phone: { width: 360, height: 740 } };

const hasRequests = spawnSync('python3', ['-c', 'import requests']).status === 0;
if (!hasRequests) console.warn('skipped: the copied Python program (no requests)');

/** Repeats the check until it passes, for at most 30 s. */
const eventually = (check: () => Promise<void>) => vi.waitFor(check);

/** In the page: the times of its requests for events. */
interface Recorded {
  times: number[];
}

describe.skipIf(!hasBrowser)('the page, in Chromium', () => {
  let browser: Browser;
  let page: Page;
  /** of this test's page */
  const pageErrors: string[] = [];
  const requests: Request[] = [];

  beforeAll(async () => {
    browser = await launchBrowser();
  });
  beforeEach(async () => {
    pageErrors.length = 0;
    requests.length = 0;
    const context = await browser.newContext({ viewport: SIZES.desktop });
    page = await context.newPage();
    page.on('pageerror', (error) => pageErrors.push(String(error)));
    page.on('console', (message) => {
      const isRefusal = message.text().startsWith('Failed to load resource'); // Chromium logs each response with an error status
      if (message.type() === 'error' && !isRefusal) pageErrors.push(message.text());
    });
    page.on('request', (request) => requests.push(request));
  });
  afterEach(async () => {
    await page.context().close();
    expect(pageErrors).toEqual([]);
    const origins = requests.map((request) => new URL(request.url()).origin); // a blob URL has the origin that made it
    expect(new Set(origins).size).toBeLessThanOrEqual(1);
  });
  afterAll(() => browser?.close());

  /** Opens the page and waits for the form. */
  async function open(service: { url: string }) {
    await page.goto(service.url);
    await page.waitForSelector('#compose', { state: 'visible' });
  }
  const textOf = (selector: string) => page.textContent(selector, { timeout: 100 });
  const matchesText = (selector: string, pattern: RegExp) =>
    eventually(async () => expect(await textOf(selector)).toMatch(pattern));
  const hasText = (selector: string, words: string) =>
    eventually(async () => expect(await textOf(selector)).toBe(words));
  const requestsTo = (path: string) => requests.filter((request) => request.url().includes(path));
  const openGroup = (title: string) => page.click(`summary:has-text("${title}")`);
  const newest = '#tasks > :first-child';

  async function choosePicture() {
    await page.click('label:has([value="picture"])');
    await page.setInputFiles('#image', PICTURE_PATH);
    await page.waitForSelector('#chosen img', { state: 'visible' });
  }
  async function enterPrompt(text: string) {
    await page.click('label:has([value="prompt"])');
    await page.fill('#prompt', text);
  }
  /** Fills in settings of a clip that takes little time. */
  async function chooseSmallClip({ steps = 2, ...others }: Record<string, number> = {}) {
    await page.click('label:has([value="other"])');
    for (const [name, value] of Object.entries({ W: 64, H: 64, T: 4, fps: 6, ...others }))
      await page.fill(`#setting-${name}`, String(value));
    await openGroup('Advanced');
    await page.fill('#setting-steps', String(steps));
  }
  /** Submits the form. @returns the new task */
  async function make(): Promise<PresentedTask> {
    const answer = page.waitForResponse((response) => response.url().endsWith('/img2vid') && response.status() === 202);
    await page.click('#make');
    return (await answer).json();
  }
  /** Presses a button of a card that makes a task. @returns the new task */
  async function repeat(id: string, name: string): Promise<PresentedTask> {
    const answer = page.waitForResponse((response) => response.url().endsWith('/img2vid') && response.status() === 202);
    await page
      .getByRole('listitem')
      .and(page.locator(`[id="${id}"]`))
      .getByRole('button', { name })
      .click();
    return (await answer).json();
  }
  /** Copies something of a card. @returns the copied text */
  async function copy(id: string, label: string) {
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.evaluate(() => navigator.clipboard.writeText(''));
    await page.locator(`[id="${id}"]`).getByRole('button', { name: 'Copy' }).click();
    await page.locator('.copy:popover-open').getByRole('button', { name: label, exact: true }).click();
    return (await page.waitForFunction(() => navigator.clipboard.readText())).jsonValue();
  }
  const reachesStatus = (id: string, status: string) => page.waitForSelector(`[id="${id}"][data-status="${status}"]`);

  /** Colours do not depend on the size, so each size is looked at in one colour scheme. */
  async function expectAccessible(name: string) {
    await page.evaluate(axe.source);
    for (const [size, colorScheme] of [
      ['phone', 'dark'],
      ['desktop', 'light'],
    ] as const) {
      await page.setViewportSize(SIZES[size]);
      await page.emulateMedia({ colorScheme });
      const found = await page.evaluate(async () => {
        const { run } = (window as unknown as { axe: typeof axe }).axe;
        const { violations } = await run({ resultTypes: ['violations'] });
        return violations
          .filter(({ impact }) => impact === 'serious' || impact === 'critical')
          .map(({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`)]);
      });
      expect(found, `${name}, ${size}, ${colorScheme}`).toEqual([]);
      const isWider = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
      expect(isWider, `${name}, ${size}`).toBe(false);
    }
  }

  describe('of the whole service', () => {
    let service: LocalTestService;
    beforeAll(async () => {
      service = await startService({ PRICE_PER_GPU_SECOND: '0.01' });
    }, 60_000);
    beforeEach(() => open(service));
    afterEach(async () => {
      const made = (await (await fetch(`${service.url}/status`)).json()) as PresentedTask[]; // the next test's page need not load them
      for (const { id } of made) await fetch(`${service.url}/delete?id=${id}`, { method: 'POST' });
    });
    afterAll(() => service?.stop());

    test('a picture becomes a clip: the page shows its cost, progress and input image, plays it and saves it', async () => {
      for (const part of ['#key-part', '#forget', '#budget', '#outage'])
        expect(await page.isVisible(part), part).toBe(false);
      await choosePicture();
      await chooseSmallClip({ T: 100, W: 512, H: 512 }); // long enough to see progress
      await matchesText('#cost', /^At most \$0\.\d+, about \d+ s of computing$/);
      const { id, input } = await make();
      await page.waitForSelector(`${newest} img.still`);
      await matchesText(`${newest} .stage`, /^Decoding frames, \d+ of 100$/);
      expect(await playing(page)).toMatchObject({ width: 512, height: 512 });
      await matchesText(`${newest} .facts`, new RegExp(`^512 × 512\\d+.\\d sSeed ${input.seed}\\$0\\.\\d`));

      const saved = page.waitForEvent('download');
      await page.click(`[id="${id}"] a[download]`);
      const file = await saved;
      expect(file.suggestedFilename()).toBe(`coffee-${input.seed}.mp4`);
      expect((await readFile((await file.path())!)).subarray(4, 8).toString()).toBe('ftyp');
      await expectAccessible('finished');
    });

    test('a prompt becomes a clip, and further clips with another seed or another of the four pictures cost no picture', async () => {
      await hasText(
        '#prompt-help',
        'This service has no image provider, so it draws a placeholder as the picture of a prompt.',
      );
      await matchesText('#model', /Nothing in the picture moves by itself\.$/);
      await enterPrompt('a lighthouse');
      await chooseSmallClip();
      const first = await make();
      await reachesStatus(first.id, 'succeeded');
      const second = await repeat(first.id, 'Another seed');
      expect(second.input).toMatchObject({ still_of: first.id, W: 64, H: 64, T: 4, steps: 2 });
      expect(second.input.seed).not.toBe(first.input.seed);
      await reachesStatus(second.id, 'succeeded');
      const third = await repeat(second.id, 'Picture 3 of four');
      expect(third.input).toEqual({ ...second.input, image_index: 3 });
      await reachesStatus(third.id, 'succeeded');
      const fourth = await repeat(third.id, 'Another seed');
      expect(fourth.input).toMatchObject({ still_of: third.id, image_index: 3 }); // its own picture, which is the third
      await reachesStatus(fourth.id, 'succeeded');
      for (const { id } of [first, second, third, fourth])
        expect(await page.locator(`[id="${id}"] video`).count()).toBe(1);
    });

    test('a clip can be made, and deleted after a confirmation, by keyboard alone', async () => {
      const focused = () =>
        page.evaluate(
          () =>
            document.activeElement!.id ||
            document.activeElement!.getAttribute('name') ||
            document.activeElement!.textContent!.trim(),
        );
      async function tabTo(name: string) {
        for (let i = 0; (await focused()) !== name; i++) {
          expect(i, `${name} can be reached`).toBeLessThan(60);
          await page.keyboard.press('Tab');
        }
      }
      await page.keyboard.press('Tab');
      expect(await focused()).toBe('Skip to the clips');
      await tabTo('source');
      await page.keyboard.press('ArrowLeft'); // it begins with a picture
      await tabTo('prompt');
      await page.keyboard.type('a harbour');
      await tabTo('size');
      for (let i = 0; i < 4; i++) await page.keyboard.press('ArrowRight');
      for (const name of ['setting-W', 'setting-H', 'setting-T']) {
        await tabTo(name);
        await page.keyboard.type(name === 'setting-T' ? '2' : '64');
      }
      await tabTo('make');
      const answer = page.waitForResponse((response) => response.url().endsWith('/img2vid'));
      await page.keyboard.press('Enter');
      const { id } = await (await answer).json();
      await reachesStatus(id, 'succeeded');
      await hasText('#announcement', 'Finished. a harbour');

      await page.focus(`[id="${id}"] video`);
      const inCard = () => page.evaluate(() => document.activeElement!.getAttribute('aria-label'));
      while ((await inCard()) !== 'Delete') await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await page.keyboard.press('Escape');
      expect(await page.isVisible('#confirm')).toBe(false);
      expect(await inCard()).toBe('Delete');
      await page.keyboard.press('Enter');
      expect(await page.isVisible('#confirm')).toBe(true);
      await page.evaluate(() => {
        document.querySelector<HTMLDialogElement>('#confirm')!.close();
        (document.activeElement as HTMLElement).click(); // opens it again before its close event
      });
      expect(await page.isVisible('#confirm')).toBe(true);
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await page.waitForSelector(`[id="${id}"]`, { state: 'detached' });
      await hasText('#announcement', 'Deleted');
      const { expired_at, videos } = await (await fetch(`${service.url}/status?id=${id}`)).json();
      expect([typeof expired_at, videos]).toEqual(['string', undefined]);
      await page.reload();
      await page.waitForSelector('#compose', { state: 'visible' });
      expect(await page.locator(`[id="${id}"]`).count()).toBe(0);
    });

    test('a running task can be canceled and tried again', async () => {
      await choosePicture();
      await chooseSmallClip({ T: 100, W: 1024, H: 1024, num_cols: 4 }); // about 30 s: it must not end before it is canceled
      const { id, input } = await make();
      await page.hover(`[id="${id}"] >> text=Cancel`);
      await page.mouse.down();
      await matchesText(`${newest} .stage`, /^Decoding frames/);
      await page.waitForSelector(`${newest} .media img`);
      await page.mouse.up();
      await reachesStatus(id, 'canceled');
      expect(await page.locator(`[id="${id}"] img.still`).count()).toBe(4);
      const again = await repeat(id, 'Try again');
      const { image, ...parameters } = input;
      expect(image).toBe('coffee.png');
      expect(again.input).toEqual({ ...parameters, still_of: id });
      await page.click(`[id="${again.id}"] >> text=Cancel`);
      await reachesStatus(again.id, 'canceled');
    });

    test('several videos of one picture can be played and saved one by one and as a grid', async () => {
      await choosePicture();
      await chooseSmallClip({ num_cols: 2, seed: 5 });
      const { id } = await make();
      await reachesStatus(id, 'succeeded');
      expect(await page.locator(`[id="${id}"] video`).count()).toBe(2);
      const names = await page
        .locator(`[id="${id}"] a[download]`)
        .evaluateAll((links) => links.map((link) => link.getAttribute('download')));
      expect(names).toEqual(['coffee-5.mp4', 'coffee-6.mp4', 'coffee-5-grid.mp4']);
    });

    test('an example becomes a clip with one click, and its picture and name show at once', async () => {
      expect(await page.isChecked('[value="picture"]')).toBe(true); // prompts can't be drawn here
      await page.click('.examples button:has-text("A cat")');
      await page.waitForSelector(`${newest} :is(img.still, video)`);
      await hasText(`${newest} .title`, 'cat.webp');
      const id = (await page.getAttribute(newest, 'id'))!;
      await reachesStatus(id, 'succeeded');
      expect(await playing(page)).toMatchObject({ width: 768, height: 512 }); // of 451×300
    });

    test('a copied program makes the same clip', async () => {
      await choosePicture();
      await chooseSmallClip({ seed: 7 });
      const { id, input } = await make();
      await reachesStatus(id, 'succeeded');
      await page.reload(); // the page no longer has the file, only its name
      await reachesStatus(id, 'succeeded');
      expect(await copy(id, 'Id')).toBe(id);
      const shared = await page.context().newPage();
      await shared.goto(await copy(id, 'Share link'));
      await shared.waitForFunction(() => document.querySelector('video')?.videoWidth === 64);
      await shared.evaluate(axe.source);
      expect((await shared.evaluate(() => (window as unknown as { axe: typeof axe }).axe.run())).violations).toEqual(
        [],
      );
      await shared.close();
      expect((await fetch(await copy(id, 'Link to the video'))).headers.get('content-type')).toBe('video/mp4');
      const run = promisify(execFile);
      const programs: [label: string, program: string, ...args: string[]][] = [
        ['curl', 'bash', '-c'],
        ['JavaScript', process.execPath, '--input-type=module', '--eval'],
        ...(hasRequests ? [['Python', 'python3', '-c'] as [string, string, string]] : []),
      ];
      for (const [label, program, ...args] of programs) {
        const { stdout } = await run(program, [...args, await copy(id, label)], { cwd: dirname(PICTURE_PATH) });
        if (label === 'JavaScript') expect(stdout, label).toMatch(/status: 'succeeded'/);
        else expect(JSON.parse(stdout), label).toMatchObject({ status: 'succeeded', input });
      }
    });

    test('a card keeps its size from the request to the clip', async () => {
      await choosePicture();
      await chooseSmallClip();
      for (const viewport of Object.values(SIZES)) {
        await page.setViewportSize(viewport);
        for (const num_cols of [1, 4]) {
          await page.fill('#setting-num_cols', String(num_cols));
          const { id } = await make();
          await page.evaluate((id) => {
            const heights = new Set<number>();
            const observer = new ResizeObserver(([entry]) => heights.add(entry!.borderBoxSize[0]!.blockSize));
            observer.observe(document.getElementById(id)!);
            Object.assign(window, { heights });
          }, id);
          await page.waitForSelector(`[id="${id}"] .still`);
          await reachesStatus(id, 'succeeded');
          await page.waitForFunction(
            ([id, count]) => {
              const videos = [...document.getElementById(id)!.querySelectorAll('video')];
              return videos.length === count && videos.every((video) => video.readyState > 0);
            },
            [id, num_cols] as const,
          );
          const heights = await page.evaluate(() => [...(window as unknown as { heights: Set<number> }).heights]);
          expect(heights, `${num_cols} at ${viewport.width}`).toHaveLength(1);
        }
      }
    });

    test('a link to a video works by itself and in the pages of other sites', async () => {
      await choosePicture();
      await chooseSmallClip();
      const { id } = await make();
      await reachesStatus(id, 'succeeded');
      const { src } = await playing(page);
      const shown = () => page.waitForFunction(() => document.querySelector('video')?.videoWidth === 64);
      await page.goto(src);
      await shown();
      const other = await listen(new Hono().get('/', (c) => c.html(`<video src="${src}"></video>`)));
      requests.length = 0;
      await page.goto(other.url.replace('127.0.0.1', 'localhost'));
      await shown();
      requests.length = 0; // these go to another origin, as they should
      await other.close();
    });

    test('the page shows when the API is away and when it is back, and follows the clip to its end', async () => {
      await choosePicture();
      await chooseSmallClip({ T: 100, W: 512, H: 512 });
      const { id } = await make();
      await matchesText(`${newest} .stage`, /^Decoding frames/);
      process.kill(service.pids().api, 'SIGKILL');
      await hasText('#outage', 'The service does not answer. Trying again; running clips continue.');
      await hasText('#outage', '');
      await reachesStatus(id, 'succeeded');
      expect(requestsTo(`/status?id=${id}`).length).toBeGreaterThanOrEqual(2);
    });
  });

  describe('of an API alone', () => {
    let service: TestService;
    async function start(env: Record<string, string> = {}) {
      service = await testService(env);
      await open(service);
    }
    afterEach(async () => {
      await page.context().close(); // ends the page's event streams
      await service.close();
    });

    /** Takes the task's job, as a worker does. */
    async function startWorker({ id }: { id: string }) {
      const job = await service.take(id);
      const reportProgress = (progress: object) => service.report(job.id, { status: 'IN_PROGRESS', output: progress });
      const still = `${taskFolder(id)}/still.png`;
      return {
        reportProgress,
        async drawStill() {
          const image = sharp({ create: { width: 96, height: 54, channels: 3, background: '#484' } });
          await service.bucket.put(still, await image.png().toBuffer());
          reportProgress({ stage: 'loading', progress: 0.1, still });
        },
        async finish() {
          service.report(job.id, { output: await service.finish(id, job.id) });
        },
        fail: (error: object) => service.report(job.id, { error: JSON.stringify(error) }),
      };
    }

    test('the form has a field for every parameter that the model uses, and shows those that belong to the choices', async () => {
      await start();
      const { components } = await (await fetch(`${service.url}/openapi.json`)).json();
      const { properties } = components.schemas.Request;
      const unused = Object.keys(properties).filter((name) => properties[name]['x-unused']); // by the camera
      expect(unused).toEqual(expect.arrayContaining(['cond_aug', 'decoding_t', 'speed']));
      const names = Object.keys(properties).filter(
        (name) => name !== 'still_of' && !unused.includes(name) && properties[name]['x-group'] !== 'Program',
      );
      const fields = await page
        .locator('#form [name]')
        .evaluateAll((all) => all.map((one) => one.getAttribute('name')));
      expect(fields).toEqual(expect.arrayContaining(names));
      for (const name of unused) expect(fields).not.toContain(name);
      await openGroup('Advanced');
      const visible = async () =>
        page.locator('#groups [name]:visible').evaluateAll((all) => all.map((one) => one.getAttribute('name')));
      const interval = ['guidance_sigma_min', 'guidance_sigma_max'];
      const own = [
        'sampler',
        'steps',
        's_churn',
        's_tmin',
        's_tmax',
        's_noise',
        'discretization',
        'sigma_min',
        'sigma_max',
        'rho',
      ];
      expect(await visible()).toEqual([
        ...own,
        'guider',
        'min_guidance_scale',
        'max_cfg_scale',
        ...interval,
        'webhook_url',
      ]);
      await page.selectOption('#setting-sampler', 'LinearMultistepSampler');
      await page.selectOption('#setting-discretization', 'LegacyDDPMDiscretization');
      await page.selectOption('#setting-guider', 'VanillaCFG');
      const others = ['sampler', 'steps', 'order', 'discretization', 'guider', 'cfg_scale', ...interval, 'webhook_url'];
      expect(await visible()).toEqual(others);
      await page.selectOption('#setting-discretization', 'EDMDiscretization'); // a named discretization has other defaults than the model's
      await eventually(async () => expect(await page.getAttribute('#setting-sigma_min', 'placeholder')).toBe('0.0292'));
      await hasText('details:has(#setting-sampler) .summary', 'Linear Multistep, EDM, Vanilla CFG');
      await expectAccessible('settings');

      await page.fill('#setting-fps', '12');
      await enterPrompt('a lighthouse');
      const { input } = await make();
      expect(input).toMatchObject({
        sampler: 'LinearMultistepSampler',
        order: 4,
        guider: 'VanillaCFG',
        fps: 12,
        T: 73,
      });
      expect(input).toMatchObject({ discretization: 'EDMDiscretization', sigma_min: 0.0292, prompt: 'a lighthouse' });
      await page.click('#reset');
      expect(await page.inputValue('#setting-sampler')).toBe('');
      expect(await page.inputValue('#setting-fps')).toBe('');
      await page.getByRole('button', { name: 'Use settings' }).first().click();
      expect(await page.inputValue('#setting-sampler')).toBe('LinearMultistepSampler');
      expect([await page.inputValue('#setting-fps'), await page.inputValue('#setting-T')]).toEqual(['12', '']);
    });

    test('a speed changes the defaults that the form shows, and a clip of it is made again with the speed alone', async () => {
      await start({ MODEL: 'svd_xt' });
      await openGroup('Advanced');
      await page.selectOption('#setting-speed', 'fast');
      expect(await page.getAttribute('#setting-steps', 'placeholder')).toBe('10');
      expect(await page.textContent('#setting-sampler option >> nth=0')).toBe('DPMPP2M (default)');
      expect(await page.isVisible('#setting-sigma_min')).toBe(false);
      await page.selectOption('#setting-speed', 'draft');
      const placeholders = ['steps', 'fps'].map((name) => page.getAttribute(`#setting-${name}`, 'placeholder'));
      expect(await Promise.all(placeholders)).toEqual(['4', '7']);
      expect(await page.isVisible('#setting-max_cfg_scale')).toBe(false);
      await page.selectOption('#setting-speed', 'fast');
      await page.fill('#setting-T', '12');
      await enterPrompt('a lighthouse');
      const { input } = await make();
      expect(input).toMatchObject({ speed: 'fast', steps: 10, sampler: 'DPMPP2MSampler', T: 12 });
      await page.click('#reset');
      expect(await page.getAttribute('#setting-steps', 'placeholder')).toBe('30');
      await page.getByRole('button', { name: 'Use settings' }).first().click();
      const values = ['speed', 'steps', 'sampler', 'discretization', 'cache_interval', 'T'].map((name) =>
        page.inputValue(`#setting-${name}`),
      );
      expect(await Promise.all(values)).toEqual(['fast', '', '', '', '', '12']);
    });

    test('the API’s problem with a value stands under its field, and the first wrong field gets the focus without a post', async () => {
      await start();
      const focused = () => page.evaluate(() => document.activeElement!.id);
      await page.click('#make');
      expect(await page.textContent('#prompt-problem')).toBe('Describe what the clip shows');
      expect(await focused()).toBe('prompt');
      await page.fill('#prompt', 'a lighthouse');
      expect(await page.textContent('#prompt-problem')).toBe('');
      for (const [name, text, problem] of [
        ['T', 'many', 'must be a whole number from 1 to 100, not text'],
        ['T', '101', 'must be a whole number from 1 to 100'],
        ['fps', '2.5', 'must be a whole number from 1 to 120'],
      ]) {
        await page.fill(`#setting-${name}`, text!);
        await hasText(`#setting-${name}-problem`, problem!);
        expect(await page.getAttribute(`#setting-${name}`, 'aria-invalid')).toBe('true');
      }
      await page.click('label:has([value="other"])');
      await page.fill('#setting-W', '500');
      await hasText('#setting-W-problem', 'must be a multiple of 64 from 64 to 2048; nearest: 448 and 512');
      await page.fill('#setting-W', '');
      await page.fill('#setting-H', '480'); // the model's own
      await openGroup('Advanced');
      await page.fill('#setting-rho', '0');
      await hasText('#setting-rho-problem', 'must be a number above 0');
      await expectAccessible('problems');
      await page.click('#make');
      expect(await focused()).toBe('setting-T');
      expect(requestsTo('/img2vid').filter((request) => request.url().endsWith('/img2vid'))).toEqual([]);

      for (const name of ['T', 'fps', 'rho']) await page.fill(`#setting-${name}`, '');
      expect(await page.textContent('#setting-T-problem')).toBe('');
      await page.fill('#setting-sigma_min', '800'); // wrong only together with sigma_max
      await hasText('#setting-sigma_min-problem', 'Lowest sigma (800) must be below Highest sigma (700)');
      await page.click('#make');
      await eventually(async () => expect(await focused()).toBe('setting-sigma_min'));
      await page.fill('#setting-sigma_min', '');
      await page.fill('#prompt', 'a lighthouse --fast');
      await matchesText('#prompt-problem', /^must not contain --fast/);
    });

    test('the size is that of the picture unless another one is chosen', async () => {
      await start();
      await choosePicture(); // 600×400
      const choose = (name: string) => page.click(`#size-choices label:has-text("${name}")`);
      const size = async () => {
        const { W, H } = (await make()).input;
        return `${W}×${H}`;
      };
      expect(await size()).toBe('768×512');
      await choose('Tall');
      expect(await size()).toBe('480×848');
      await choose('Other');
      for (const side of ['W', 'H']) await page.fill(`#setting-${side}`, '');
      await page.fill('#setting-aspect_ratio', '1:1');
      expect(await size()).toBe('640×640');
      await choose('Auto');
      expect(await page.inputValue('#setting-aspect_ratio')).toBe('');
      expect(await size()).toBe('768×512');
    });

    test('the form shows the highest cost of a clip and warnings', async () => {
      await start({ PRICE_PER_STILL: '0.05' });
      await page.fill('#prompt', 'a lighthouse');
      await matchesText('#model', /AI makes the pictures of prompts\.$/);
      await hasText('#cost', 'At most $0.05, about 1 s of computing');
      await page.click('label:has([value="picture"])'); // which costs nothing here
      await hasText('#cost', 'Takes about 1 s of computing');
      await page.fill('#setting-motion_bucket_id', '300');
      await hasText('#setting-motion_bucket_id-problem', 'the model was trained with values up to 255');
      expect(await page.getAttribute('#setting-motion_bucket_id', 'aria-invalid')).toBe(null);
      await page.click('label:has([value="other"])');
      for (const [name, value] of Object.entries({ W: 2048, H: 2048, T: 100, num_cols: 10 }))
        await page.fill(`#setting-${name}`, String(value));
      await page.fill('#setting-motion_bucket_id', '');
      await matchesText('#cost', /^Takes about (\d+ s|\d min( \d+ s)?) of computing$/);
      await hasText('#setting-motion_bucket_id-problem', '');
    });

    test('presets set the motion and the number of videos, and a duration sets the frames', async () => {
      await start();
      await enterPrompt('a lighthouse');
      expect(await page.inputValue('#duration')).toBe('3');
      await page.fill('#setting-fps', '12');
      expect(await page.inputValue('#duration')).toBe('6.1');
      await page.fill('#duration', '3');
      expect(await page.inputValue('#setting-T')).toBe('36');
      await page.fill('#duration', '1000'); // more than the most frames
      await page.press('#duration', 'Tab');
      expect([await page.inputValue('#setting-T'), await page.inputValue('#duration')]).toEqual(['100', '8.3']);
      await page.click('.segments label:has-text("Gentle")');
      await page.locator('[aria-label="Videos"] label').nth(2).click();
      const { input } = await make();
      expect(input).toMatchObject({ T: 100, fps: 12, motion_bucket_id: 40, num_cols: 4 });
      await page.click('.segments label:has-text("Standard")');
      expect(await page.inputValue('#setting-motion_bucket_id')).toBe('');
    });

    test('the page shows the stages of several tasks at a time, also after a reload', async () => {
      await page.clock.install();
      await start();
      const tasks: PresentedTask[] = [];
      for (const prompt of ['first', 'second', 'third']) {
        await enterPrompt(prompt);
        tasks.push(await make());
      }
      const [first, second, third] = tasks as [PresentedTask, PresentedTask, PresentedTask];
      /** The page polls what it does not follow by events, as soon as the API knows this of the tasks. */
      async function poll(field: 'stage' | 'status', value: string, of = tasks) {
        await Promise.all(of.map(({ id }) => service.until(id, (task) => task[field] === value)));
        await page.clock.fastForward(3 * SECOND);
      }
      const stage = ({ id }: PresentedTask) => `[id="${id}"] .stage`;
      await hasText(stage(first), 'Waiting for a worker');
      expect(await page.title()).toBe('3 clips · Text to Video');
      const workers = await Promise.all([startWorker(first), startWorker(second), startWorker(third)]);
      for (const one of workers) one.reportProgress({ stage: 'still', progress: 0.05 });
      await poll('stage', 'still');
      for (const task of tasks) await hasText(stage(task), 'Making the picture');
      await workers[0]!.drawStill();
      await page.waitForFunction(() => document.querySelector<HTMLImageElement>('.still')?.naturalWidth === 96);
      await hasText(stage(first), 'Loading the model');
      workers[0]!.reportProgress({ stage: 'sampling', progress: 0.4, step: 7, steps: 12 });
      await hasText(stage(first), 'Sampling, 7 of 12');
      await matchesText(`[id="${first.id}"] .left`, /^about \d+ (s|min.*) left$/);
      await expectAccessible('running');
      await page.reload();
      await hasText(stage(first), 'Sampling, 7 of 12');
      expect(await page.locator(`[id="${first.id}"] progress`).getAttribute('value')).toBe('0.4');
      await page.waitForSelector(`[id="${first.id}"] img.still`);
      workers[0]!.reportProgress({ stage: 'decoding', progress: 0.9, step: 2, steps: 73 });
      await poll('stage', 'decoding', [first]);
      await hasText(stage(first), 'Decoding frames, 2 of 73');
      for (const one of workers) await one.finish();
      await poll('status', 'succeeded');
      for (const { id } of tasks) await reachesStatus(id, 'succeeded');
      expect(await page.title()).toBe('Text to Video');
    });

    test('a failed task shows why and what to do, and a retry does not pay for its picture twice', async () => {
      await start();
      await enterPrompt('a lighthouse');
      await page.fill('#setting-seed', '23');
      const task = await make();
      const worker = await startWorker(task);
      await worker.drawStill();
      await page.waitForSelector('.still');
      worker.fail({ code: 'lost', message: 'the worker was lost', retryable: true });
      await reachesStatus(task.id, 'failed');
      await hasText(`[id="${task.id}"] .failure`, 'The job was lostthe worker was lostTry again.');
      await expectAccessible('failed');
      const again = await repeat(task.id, 'Try again');
      expect(again.input).toMatchObject({ still_of: task.id, seed: 23 });
      (await startWorker(again)).fail({ code: 'out_of_memory', message: 'too large', retryable: false });
      await reachesStatus(again.id, 'failed');
      expect(await page.locator(`[id="${again.id}"]`).getByRole('button', { name: 'Try again' }).count()).toBe(0);
    });

    test('the list comes in pages, can be filtered by status, and has no deleted tasks', async () => {
      await start();
      expect(await page.isVisible('.first')).toBe(true);
      await expectAccessible('empty');
      const ids: string[] = [];
      for (let i = 0; i < 23; i++) ids.push((await (await service.post({ prompt: `number ${i}` })).json()).id);
      for (const id of ids.slice(0, 2)) await fetch(`${service.url}/cancel?id=${id}`, { method: 'POST' });
      await fetch(`${service.url}/delete?id=${ids[0]}`, { method: 'POST' });
      await page.reload();
      const shown = () => page.locator('.card').evaluateAll((cards) => cards.map(({ id }) => id));
      await eventually(async () => expect(await shown()).toEqual(ids.slice(3).reverse()));
      await page.goto((await service.status(ids[1]!)).urls.web); // of a task that is not on the first page
      await eventually(async () => expect(await shown()).toEqual([...ids.slice(3).reverse(), ids[1]]));
      const top = () => page.locator(`[id="${ids[1]}"]`).evaluate((card) => card.getBoundingClientRect().top);
      await eventually(async () => expect(await top()).toBeLessThan(SIZES.desktop.height));
      await page.click('#more');
      await eventually(async () => expect(await shown()).toEqual(ids.slice(1).reverse()));
      expect(await page.isVisible('#more')).toBe(false);
      await page.selectOption('#filter', 'canceled');
      await eventually(async () => expect(await shown()).toEqual([ids[1]]));
      await page.selectOption('#filter', 'failed');
      await page.waitForSelector('.none', { state: 'visible' });
    });

    test('a picture can be dropped, pasted or at a URL, and a file that is no picture is refused', async () => {
      await page.clock.install(); // first: the page could not clear timers that are older than the clock
      await start();
      const dispatch = (kind: 'drop' | 'paste', type: string, name: string) =>
        page.evaluate(
          async ([kind, type, name]) => {
            const data = new DataTransfer();
            const example = await (await fetch('/page/example-cat.webp')).arrayBuffer();
            data.items.add(new File([example], name!, { type: type! }));
            const event =
              kind === 'drop'
                ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
            document.body.dispatchEvent(event);
          },
          [kind, type, name],
        );
      for (const kind of ['drop', 'paste'] as const) {
        await dispatch(kind, 'image/webp', `${kind}.webp`);
        await hasText('#chosen-name', `${kind}.webp, 21 kB`);
        await page.waitForFunction(() => document.querySelector<HTMLImageElement>('#preview')!.naturalWidth === 451);
      }
      const { id, input } = await make();
      expect(Object.keys(input)).not.toContain('prompt');
      expect((await service.take(id)).input.image_key).toBe(`${taskFolder(id)}/upload`);
      await page.click('#remove');
      await dispatch('drop', 'image/heic', 'photo.heic');
      expect(await page.textContent('#image-problem')).toBe('photo.heic is not a jpeg, png, webp, avif, gif or tiff');
      await page.fill('#image_url', 'example.com/a.png');
      await hasText('#image_url-problem', 'must be an http or https URL');
      await page.fill('#image_url', 'http://127.0.0.1/a.png');
      await matchesText('#image_url-problem', /^must lead to/);
      await page.fill('#image_url', 'https://example.com/a.png');
      expect((await make()).input).toMatchObject({ image_url: 'https://example.com/a.png' });
      await page.setInputFiles('#image', {
        name: 'broken.png',
        mimeType: 'image/png',
        buffer: Buffer.from('no picture'),
      });
      await page.clock.pauseAt((await page.evaluate(() => Date.now())) + 200); // before the form's own check
      await page.click('#make');
      await eventually(async () => expect(await page.textContent('#image-problem')).not.toBe(''));
      const dryRuns = requestsTo('dry_run').length;
      await page.clock.runFor(1000);
      expect(requestsTo('dry_run')).toHaveLength(dryRuns);
      expect(await page.textContent('#image-problem')).not.toBe('');
    });

    test('the page opens with a picture’s URL that is no proper text, and with a list that it can’t read', async () => {
      await start();
      const { id } = await (await service.post({ image_url: 'https://example.com/100%.jpg' })).json();
      await open(service);
      await hasText(`[id="${id}"] .title`, '100%.jpg from example.com');
      await page.route('**/status?limit=*', (route) => route.fulfill({ body: '{}' }));
      await open(service);
      await matchesText('#list-problem', /./);
    });

    test('an expired link is replaced by a new one', async () => {
      await start();
      await enterPrompt('a lighthouse');
      const task = await make();
      const worker = await startWorker(task);
      let expired = '';
      await page.route('**/files/**', (route) => {
        if (expired === '') service.clock.ahead += 2000; // the next link is another one
        expired ||= route.request().url();
        return route.request().url() === expired ? route.fulfill({ status: 403 }) : route.continue();
      });
      await worker.drawStill();
      await page.waitForFunction(() => document.querySelector<HTMLImageElement>('.still')?.naturalWidth === 96);

      expired = ''; // now the first link to a file of the clip
      await worker.finish();
      await eventually(async () => expect(expired).not.toBe(''));
      await page.waitForFunction((old) => {
        const { src, poster } = document.querySelector('video') ?? { src: '', poster: '' };
        const [one, other] = [src, poster].map((link) => /expires=\d+/.exec(link)?.[0]);
        return one && one === other && !old.includes(one);
      }, expired);
    });

    test('expired links are renewed before they are copied, and the picture of a deleted clip is released', async () => {
      await page.clock.install();
      await start();
      await choosePicture();
      const { id } = await make();
      const url = (await page.getAttribute(`[id="${id}"] img.still`, 'src'))!;
      const isKept = () =>
        page.evaluate(async (url) => {
          const image = new Image();
          image.src = url;
          return image.decode().then(
            () => true,
            () => false,
          );
        }, url);
      expect(await isKept()).toBe(true);
      await (await startWorker({ id })).finish();
      await hasText(`[id="${id}"] .problem`, 'The file can’t be loaded.'); // it asks for new links no more
      service.clock.ahead += 2 * DAY;
      await page.clock.setSystemTime(Date.now() + 2 * DAY);
      for (const label of ['Share link', 'Link to the video'])
        expect((await fetch(await copy(id, label))).status, label).toBe(200);
      await page.locator(`[id="${id}"]`).getByRole('button', { name: 'Delete' }).click();
      await page.click('#delete');
      await page.waitForSelector(`[id="${id}"]`, { state: 'detached' });
      expect(await isKept()).toBe(false);
    });

    test('the page shows that it is offline, and sending the same form again makes no second task', async () => {
      await start();
      await enterPrompt('a lighthouse');
      let lost = 0;
      await page.route('**/img2vid', async (route) => {
        const answer = await route.fetch(); // the task is made
        return lost++ === 0 ? route.abort() : route.fulfill({ response: answer });
      });
      await page.click('#make');
      await matchesText('#refusal', /^The service does not answer\.$/);
      const { id } = await make();
      const posts = requestsTo('/img2vid').filter((request) => request.url().endsWith('/img2vid'));
      expect(posts.at(-1)!.headers()['idempotency-key']).toMatch(/^[\da-f]{32}$/);
      const made = (await (await fetch(`${service.url}/status`)).json()) as PresentedTask[];
      expect(made.map((task) => task.id)).toEqual([id]);
      await page.context().setOffline(true);
      await page.fill('#setting-T', '5');
      await matchesText('#outage', /^You are offline/);
      await page.context().setOffline(false);
      await hasText('#outage', '');
    });

    test('the form says at once that a service without a bridge takes no prompts', async () => {
      await start({ LOCAL_BRIDGE: 'none' });
      await matchesText('#sources', /Prompts need an image provider, and this service has none/);
      expect(await page.isDisabled('[value="prompt"]')).toBe(true);
      expect(await page.isVisible('#drop')).toBe(true);
    });
  });

  describe('where there are API keys', () => {
    async function enterKey(text: string) {
      await page.waitForSelector('#key-form', { state: 'visible' });
      await page.fill('#key', text);
      await page.click('#key-form button');
    }

    describe('of the whole service', () => {
      let folder: string;
      let service: LocalTestService;
      let text: string;
      beforeAll(async () => {
        folder = await mkdtemp(join(tmpdir(), 'page-'));
        const store = await openStore(`file:${join(folder, 'tasks.db')}`);
        ({ value: text } = await makeKey(store, { budget: 20_000_000 }));
        await store.close();
        service = await startService({ DATA_DIR: folder, PRICE_PER_GPU_SECOND: '1' });
      }, 60_000);
      afterAll(async () => {
        await service?.stop();
        await rm(folder, { recursive: true, force: true });
      });

      test('the page asks for a key, refuses a wrong one, makes a clip with the right one, and forgets it', async () => {
        await page.goto(service.url);
        await page.waitForSelector('#key-form', { state: 'visible' });
        expect(await page.isVisible('#form')).toBe(false);
        await enterKey('\u{1f511}');
        await hasText('#key-error', 'This is not an API key.');
        await enterKey(`i2v_${'0'.repeat(16)}_${'0'.repeat(43)}`);
        await hasText('#key-error', 'this API key is not valid');
        await expectAccessible('key');
        expect(await page.isVisible('#form')).toBe(false);

        await enterKey(` ${text} `);
        await hasText('#budget', '$0.00 of $20.00 used this month');
        await choosePicture();
        await chooseSmallClip({ steps: 200 });
        await make();
        expect(await playing(page)).toMatchObject({ width: 64, height: 64 });
        const [cost] = /\$[\d.]+$/.exec((await page.textContent(`${newest} .facts span:last-of-type`))!)!;
        expect(Number(cost.slice(1))).toBeGreaterThan(0);
        await hasText('#budget', `${cost} of $20.00 used this month`);

        requests.length = 0;
        await page.reload();
        expect(await playing(page)).toMatchObject({ width: 64, height: 64 });
        const headers = [...requestsTo('/status'), ...requestsTo('/usage')].map(
          (request) => request.headers().authorization,
        );
        expect(headers).toEqual([`Bearer ${text}`, `Bearer ${text}`]);
        expect(requestsTo('/status')[0]!.url()).toBe(`${service.url}/status?limit=20`);

        await page.click('#forget');
        await page.waitForSelector('#key-form', { state: 'visible' });
        expect(await page.locator('#tasks *').count()).toBe(0);
        expect(await page.inputValue('#key')).toBe('');
        await page.reload();
        await page.waitForSelector('#key-form', { state: 'visible' });
        expect(await page.textContent('#key-error')).toBe('');
      });

      test('the key is in no URL, and only this tab has it', async () => {
        await page.goto(service.url);
        await enterKey(text);
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
    });

    describe('of an API alone', () => {
      let service: TestService;
      beforeAll(async () => {
        service = await testService({ PRICE_PER_STILL: '0.05' });
        await service.key();
      });
      afterAll(() => service?.close());
      beforeEach(async () => {
        await page.goto(service.url);
      });

      async function post() {
        await enterPrompt('a lighthouse');
        await page.click('#make');
      }

      test('the page shows why a request is refused: the budget, the rate, a scope', async () => {
        const [poor, slow, reader, writer] = await Promise.all([
          service.key({ budget: 49_999 }),
          service.key({ submissions_per_minute: 1 }),
          service.key({ scopes: ['read'] }),
          service.key({ scopes: ['submit'] }),
        ]);
        await enterKey(poor.value);
        await hasText('#budget', '$0.00 of $0.05 used this month');
        await post();
        await hasText(
          '#refusal',
          'this task may cost 0.05 USD; 0.049999 USD of this month’s budget of 0.049999 USD is left',
        );
        await expectAccessible('refused');

        await page.click('#forget');
        await enterKey(slow.value);
        await post();
        await page.waitForSelector('.card');
        await post();
        await hasText('#refusal', 'this API key may create at most 1 task a minute');
        await matchesText('#countdown', /^Again in (\d\d s|1 min)$/);

        await page.click('#forget');
        await enterKey(reader.value);
        await page.waitForSelector('#form', { state: 'visible' });
        expect(await page.locator('.card').count()).toBe(0); // it belongs to the other key
        expect(await page.textContent('#refusal')).toBe('');
        await post();
        await hasText('#refusal', 'this API key lacks the scope submit');

        await page.click('#forget');
        await enterKey(writer.value);
        await hasText('#list-problem', 'this API key lacks the scope read');
        expect(await page.isVisible('#form')).toBe(true);
      });

      test('the form counts down until it may be sent again', async () => {
        const { value: text } = await service.key();
        await enterKey(text);
        await page.waitForSelector('#form', { state: 'visible' });
        await page.route('**/img2vid', (route) =>
          route.fulfill({
            status: 429,
            headers: { 'retry-after': '75' },
            body: JSON.stringify({ detail: 'too much' }),
          }),
        );
        await page.clock.install();
        await page.clock.pauseAt(Date.now() + 1000);
        await post();
        await hasText('#countdown', 'Again in 1 min 15 s');
        await page.clock.runFor(60_000);
        await hasText('#countdown', 'Again in 15 s');
        await page.clock.runFor(15_000);
        await hasText('#countdown', '');
        await hasText('#refusal', '');
      });

      test('the page asks for another key when one is revoked, and keeps what was entered', async () => {
        const { id, value: text } = await service.key();
        await enterKey(text);
        await page.waitForSelector('#form', { state: 'visible' });
        const checked = page.waitForResponse(
          (response) => response.request().postData()?.includes('lighthouse') ?? false,
        );
        await enterPrompt('a lighthouse');
        await checked; // so that the form sends no further check
        await service.store.updateKey(id, { revoked_at: Date.now() });
        service.clock.ahead += 1000; // keys are cached for this long
        await page.click('#make');
        await hasText('#key-error', 'this API key is not valid');
        const { value: next } = await service.key();
        await enterKey(next);
        await page.waitForSelector('#form', { state: 'visible' });
        expect(await page.inputValue('#prompt')).toBe('a lighthouse');
      });

      test('event streams that break off are reconnected with growing pauses, at least Retry-After, until the task ends', async () => {
        const { value: text, headers } = await service.key();
        const proxy = { status: 502, body: 'from a proxy' };
        const event = (id: number, task: object) =>
          `: here\r\n\r\nevent: task\r\nid: ${id}\r\ndata: ${JSON.stringify(task)}\r\n\r\nid: 9\r\nda`;
        await enterKey(text);
        await page.waitForSelector('#form', { state: 'visible' });
        await page.addInitScript(() => {
          const real = window.fetch;
          window.fetch = (address, init) => {
            if (String(address).startsWith('/status?id=')) (window as unknown as Recorded).times.push(Date.now());
            return real(address, init);
          };
          (window as unknown as Recorded).times = [];
        });
        const posted = await service.post(
          { prompt: 'a lighthouse' },
          { headers: { ...headers, 'content-type': 'application/json' } },
        );
        const task = (await posted.json()) as PresentedTask;
        const running = { ...task, status: 'running', stage: 'sampling', step: 3, steps: 12, progress: 0.5 };
        const ended = { ...task, status: 'canceled', finished_at: new Date().toISOString() };
        const contentType = 'text/event-stream';
        const answers = [
          proxy,
          { status: 503, headers: { 'retry-after': '7' }, body: JSON.stringify({ detail: 'away' }) },
          proxy,
          { contentType, body: event(7, running) },
          { contentType, body: event(8, ended) },
        ];
        await page.route('**/status?id=*', (route) => route.fulfill(answers.shift()!));
        await page.clock.install();
        await page.reload();
        await page.clock.pauseAt(Date.now() + 3_600_000);
        /** Advances the clock until the element has this text. */
        async function reachesStatus(selector: string, wanted: string) {
          const text = () => page.evaluate((at) => document.querySelector(at)?.textContent, selector);
          while ((await text()) !== wanted) await page.clock.runFor(500);
        }
        await reachesStatus('.card .problem', 'away');
        await reachesStatus('.card .stage', 'Sampling, 3 of 12');
        await reachesStatus('.card .overlay', 'Canceled');
        await page.clock.runFor(60_000);
        const times = await page.evaluate(() => (window as unknown as Recorded).times);
        const pauses = times.slice(1).map((time, i) => time - times[i]!);
        for (const [i, least] of [1000, 7000, 4000, 1000].entries()) expect(pauses[i]).toBeGreaterThanOrEqual(least);
        const lastEventIds = requestsTo('/status?id=').map((request) => request.headers()['last-event-id']);
        expect(lastEventIds).toEqual([undefined, undefined, undefined, undefined, '7']);
      });
    });
  });
});
