import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import axe from 'axe-core';
import { Hono } from 'hono';
import type { Browser, Page, Request } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { openStore } from '../../api/store/store.ts';
import { taskFolder } from '../../core/job.ts';
import type { PresentedTask } from '../../core/responses.ts';
import { freePort } from '../../infra/run/free-port.ts';
import { type LocalService, startLocal } from '../../infra/run/start.ts';
import { hasBrowser, launchBrowser, playing } from '../../infra/tools/browser.ts';
import { listen, makeKey, type TestService, testService } from '../support/test-api.ts';

vi.setConfig({ testTimeout: 60_000 });

const picture = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));
const SIZES = { desktop: { width: 1440, height: 900 }, phone: { width: 360, height: 740 } };

/** Until it is so, however long a busy machine takes. */
const eventually = (check: () => Promise<void>) => vi.waitFor(check, { timeout: 30_000 });

/** In the page: when it has asked for events. */
interface Noted {
  times: number[];
}

describe.skipIf(!hasBrowser)('the page, in Chromium', () => {
  let browser: Browser;
  let page: Page;
  /** of this test's page: what may never happen, and what was asked for */
  const faults: string[] = [];
  const requests: Request[] = [];

  beforeAll(async () => {
    browser = await launchBrowser();
  });
  beforeEach(async () => {
    faults.length = 0;
    requests.length = 0;
    const context = await browser.newContext({ viewport: SIZES.desktop });
    page = await context.newPage();
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('console', (message) => {
      const isAnswer = message.text().startsWith('Failed to load resource'); // a refusal: Chromium notes each as an error
      if (message.type() === 'error' && !isAnswer) faults.push(message.text());
    });
    page.on('request', (request) => requests.push(request));
  });
  afterEach(async () => {
    await page.context().close();
    expect(faults).toEqual([]);
    const origins = requests.map((request) => new URL(request.url()).origin); // of what a blob is made of, too
    expect(new Set(origins).size).toBeLessThanOrEqual(1);
  });
  afterAll(() => browser?.close());

  /** Opens the page, and waits until it can be used. */
  async function open(service: { url: string }) {
    await page.goto(service.url);
    await page.waitForSelector('#compose', { state: 'visible' });
  }
  const textOf = (selector: string) => page.textContent(selector, { timeout: 100 });
  const shows = (selector: string, pattern: RegExp) =>
    eventually(async () => expect(await textOf(selector)).toMatch(pattern));
  const isSaid = (selector: string, words: string) =>
    eventually(async () => expect(await textOf(selector)).toBe(words));
  const asked = (path: string) => requests.filter((request) => request.url().includes(path));
  const openGroup = (title: string) => page.click(`summary:has-text("${title}")`);
  const newest = '#tasks > :first-child';

  async function choosePicture() {
    await page.click('label:has([value="picture"])');
    await page.setInputFiles('#image', picture);
    await page.waitForSelector('#chosen img', { state: 'visible' });
  }
  async function writePrompt(text: string) {
    await page.click('label:has([value="prompt"])');
    await page.fill('#prompt', text);
  }
  /** A clip so small that it takes no time. */
  async function makeSmall({ steps = 2, ...others }: Record<string, number> = {}) {
    await page.click('label:has([value="other"])');
    for (const [name, value] of Object.entries({ W: 64, H: 64, T: 4, ...others }))
      await page.fill(`#setting-${name}`, String(value));
    await openGroup('Sampling');
    await page.fill('#setting-steps', String(steps));
  }
  /** Presses the button. @returns the task that it made */
  async function make(): Promise<PresentedTask> {
    const answer = page.waitForResponse((response) => response.url().endsWith('/img2vid') && response.status() === 202);
    await page.click('#make');
    return (await answer).json();
  }
  /** Presses a button of a card. @returns the task that it made */
  async function repeat(id: string, name: string): Promise<PresentedTask> {
    const answer = page.waitForResponse((response) => response.url().endsWith('/img2vid') && response.status() === 202);
    await page
      .getByRole('listitem')
      .and(page.locator(`[id="${id}"]`))
      .getByRole('button', { name })
      .click();
    return (await answer).json();
  }
  const becomes = (id: string, status: string) => page.waitForSelector(`[id="${id}"][data-status="${status}"]`);

  /** Nothing serious that axe finds: on desktops and phones, light and dark. With pictures, where SCREENSHOTS names a folder for them. */
  async function expectAccessible(name: string) {
    await page.evaluate(axe.source);
    for (const [size, viewport] of Object.entries(SIZES))
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.setViewportSize(viewport);
        await page.emulateMedia({ colorScheme });
        const rules = colorScheme === 'light' ? undefined : ['color-contrast'];
        const found = await page.evaluate(async (rules) => {
          const { run } = (window as unknown as { axe: typeof axe }).axe;
          const { violations } = await run({ resultTypes: ['violations'], ...(rules && { runOnly: rules }) });
          return violations
            .filter(({ impact }) => impact === 'serious' || impact === 'critical')
            .map(({ id, nodes }) => [id, ...nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`)]);
        }, rules);
        expect(found, `${name}, ${size}, ${colorScheme}`).toEqual([]);
        const isWider = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
        expect(isWider, `${name}, ${size}`).toBe(false);
        if (process.env.SCREENSHOTS)
          await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}-${size}-${colorScheme}.png`) });
      }
    await page.setViewportSize(SIZES.desktop);
    await page.emulateMedia({ colorScheme: 'light' });
  }

  describe('of the whole service', () => {
    let folder: string;
    let service: LocalService;
    beforeAll(async () => {
      folder = await mkdtemp(join(tmpdir(), 'page-'));
      const port = await freePort();
      const env = { PATH: process.env.PATH, PORT: String(port), DATA_DIR: join(folder, 'data') };
      service = await startLocal({ env: { ...env, PRICE_PER_GPU_SECOND: '0.01' }, quiet: true });
    }, 60_000);
    beforeEach(() => open(service));
    afterAll(async () => {
      await service?.stop();
      await rm(folder, { recursive: true, force: true });
    });

    test('a picture becomes a clip: its cost is told, its progress and still are seen, it plays and can be saved', async () => {
      for (const part of ['#key-part', '#forget', '#budget', '#outage'])
        expect(await page.isVisible(part), part).toBe(false);
      await choosePicture();
      await makeSmall({ steps: 1000, T: 50, W: 128, H: 128 }); // so much that they are seen
      await shows('#cost', /^At most \$0\.\d\d, up to \d+ s of computing$/);
      const { id, input } = await make();
      await page.waitForSelector(`${newest} img.still`);
      await shows(`${newest} .stage`, /^Sampling, \d+ of 1000$/);
      expect(await playing(page)).toMatchObject({ width: 128, height: 128 });
      await shows(`${newest} .facts`, new RegExp(`^128 × 1288.3 sSeed ${input.seed}\\$0\\.0`));

      const saved = page.waitForEvent('download');
      await page.click(`[id="${id}"] a[download]`);
      const file = await saved;
      expect(file.suggestedFilename()).toBe(`clip-${id.slice(-6)}-seed-${input.seed}.mp4`);
      expect((await readFile((await file.path())!)).subarray(4, 8).toString()).toBe('ftyp');
      await expectAccessible('finished');
    });

    test('a prompt becomes a clip; again with another seed, and of another of the four pictures, for nothing', async () => {
      await isSaid(
        '#prompt-help',
        'No Midjourney bridge is set up here: the picture of a prompt is a drawn placeholder.',
      );
      await writePrompt('a lighthouse');
      await makeSmall();
      const first = await make();
      await becomes(first.id, 'succeeded');
      const second = await repeat(first.id, 'Another seed');
      expect(second.input).toMatchObject({ still_of: first.id, W: 64, H: 64, T: 4, steps: 2 });
      expect(second.input.seed).not.toBe(first.input.seed);
      await becomes(second.id, 'succeeded');
      const third = await repeat(second.id, 'Picture 3 of four');
      expect(third.input).toEqual({ ...second.input, image_index: 3 });
      await becomes(third.id, 'succeeded');
      const fourth = await repeat(third.id, 'Another seed');
      expect(fourth.input).toMatchObject({ still_of: third.id, image_index: 1 }); // its own picture, which is the third
      await becomes(fourth.id, 'succeeded');
      for (const { id } of [first, second, third, fourth])
        expect(await page.locator(`[id="${id}"] video`).count()).toBe(1);
    });

    test('by keyboard alone: a clip is made, and deleted once that is confirmed', async () => {
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
      await tabTo('prompt');
      await page.keyboard.type('a harbour');
      await tabTo('size');
      for (let i = 0; i < 3; i++) await page.keyboard.press('ArrowRight');
      for (const name of ['setting-W', 'setting-H', 'setting-T']) {
        await tabTo(name);
        await page.keyboard.type(name === 'setting-T' ? '2' : '64');
      }
      await tabTo('make');
      const answer = page.waitForResponse((response) => response.url().endsWith('/img2vid'));
      await page.keyboard.press('Enter');
      const { id } = await (await answer).json();
      await becomes(id, 'succeeded');
      await isSaid('#announcement', 'Finished. a harbour');

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
        (document.activeElement as HTMLElement).click(); // opens it again before its closing is told
      });
      expect(await page.isVisible('#confirm')).toBe(true);
      await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await page.waitForSelector(`[id="${id}"]`, { state: 'detached' });
      await isSaid('#announcement', 'Deleted');
      const { expired_at, videos } = await (await fetch(`${service.url}/status?id=${id}`)).json();
      expect([typeof expired_at, videos]).toEqual(['string', undefined]);
      await page.reload();
      await page.waitForSelector('#compose', { state: 'visible' });
      expect(await page.locator(`[id="${id}"]`).count()).toBe(0);
    });

    test('a task that runs is canceled, and can be tried again', async () => {
      await choosePicture();
      await makeSmall({ steps: 1000, T: 50, W: 256, H: 256 }); // some eight seconds: it must not end before it is canceled
      const { id, input } = await make();
      await shows(`${newest} .stage`, /^Sampling/);
      await page.click(`[id="${id}"] >> text=Cancel`);
      await becomes(id, 'canceled');
      const again = await repeat(id, 'Try again');
      expect(again.input).toEqual({ ...input, still_of: id });
      await page.click(`[id="${again.id}"] >> text=Cancel`);
      await becomes(again.id, 'canceled');
    });

    test('several videos of one picture: each plays and can be saved, and their grid', async () => {
      await choosePicture();
      await makeSmall({ num_cols: 2, seed: 5 });
      const { id } = await make();
      await becomes(id, 'succeeded');
      expect(await page.locator(`[id="${id}"] video`).count()).toBe(2);
      const names = await page
        .locator(`[id="${id}"] a[download]`)
        .evaluateAll((links) => links.map((link) => link.getAttribute('download')));
      expect(names).toEqual(['seed-5', 'seed-6', 'grid'].map((name) => `clip-${id.slice(-6)}-${name}.mp4`));
    });

    test('a link opens by itself, and in the pages of others', async () => {
      await choosePicture();
      await makeSmall();
      await make();
      const { src } = await playing(page);
      const shown = () => page.waitForFunction(() => document.querySelector('video')?.videoWidth === 64);
      await page.goto(src);
      await shown();
      const other = await listen(new Hono().get('/', (c) => c.html(`<video src="${src}"></video>`)));
      requests.length = 0;
      await page.goto(other.url.replace('127.0.0.1', 'localhost'));
      await shown();
      requests.length = 0; // they do lead elsewhere
      await other.close();
    });

    test('an API that dies is told of, and its return is noticed: the clip is followed to its end', async () => {
      await choosePicture();
      await makeSmall({ steps: 1000, T: 16 });
      const { id } = await make();
      await shows(`${newest} .stage`, /^Sampling/);
      process.kill(service.pids().api, 'SIGKILL');
      await isSaid('#outage', 'The service does not answer. Trying again; what was begun goes on.');
      await isSaid('#outage', '');
      await becomes(id, 'succeeded');
      expect(asked(`/status?id=${id}`).length).toBeGreaterThanOrEqual(2);
    });
  });

  describe('of an API alone', () => {
    let service: TestService;
    async function start(env: Record<string, string> = {}) {
      service = await testService(env);
      await open(service);
    }
    afterEach(async () => {
      await page.context().close(); // it follows tasks to the last
      await service.close();
    });

    /** A worker's take of the task, with its word on the progress. */
    async function work({ id }: { id: string }) {
      const job = await service.take(id);
      const tell = (progress: object) => service.report(job.id, { status: 'IN_PROGRESS', output: progress });
      const still = `${taskFolder(id)}/still.png`;
      return {
        tell,
        async drawStill() {
          const image = sharp({ create: { width: 96, height: 54, channels: 3, background: '#484' } });
          await service.bucket.put(still, await image.png().toBuffer());
          tell({ stage: 'loading', progress: 0.1, still });
        },
        async finish() {
          service.report(job.id, { output: await service.finish(id, job.id) });
        },
        fail: (error: object) => service.report(job.id, { error: JSON.stringify(error) }),
      };
    }

    test('has a field for every parameter of the document, and shows those that belong to the choices', async () => {
      await start();
      const { components } = await (await fetch(`${service.url}/openapi.json`)).json();
      const names = Object.keys(components.schemas.Request.properties).filter((name) => name !== 'still_of');
      const fields = await page
        .locator('#form [name]')
        .evaluateAll((all) => all.map((one) => one.getAttribute('name')));
      expect(fields).toEqual(expect.arrayContaining(names));
      for (const group of ['Sampling', 'Noise', 'Guidance']) await openGroup(group);
      const visible = async () =>
        page.locator('#groups [name]:visible').evaluateAll((all) => all.map((one) => one.getAttribute('name')));
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
      expect(await visible()).toEqual([...own, 'guider', 'min_guidance_scale', 'max_cfg_scale']);
      await page.selectOption('#setting-sampler', 'LinearMultistepSampler');
      await page.selectOption('#setting-discretization', 'LegacyDDPMDiscretization');
      await page.selectOption('#setting-guider', 'VanillaCFG');
      expect(await visible()).toEqual(['sampler', 'steps', 'order', 'discretization', 'guider', 'cfg_scale']);
      await page.selectOption('#setting-discretization', 'EDMDiscretization'); // named, it has other numbers than the model's
      await eventually(async () => expect(await page.getAttribute('#setting-sigma_min', 'placeholder')).toBe('0.0292'));
      await isSaid('details:has(#setting-sampler) .summary', 'Linear Multistep, 12 steps');
      await expectAccessible('settings');

      await page.fill('#setting-fps', '12');
      await writePrompt('a lighthouse');
      const { input } = await make();
      expect(input).toMatchObject({
        sampler: 'LinearMultistepSampler',
        order: 4,
        guider: 'VanillaCFG',
        fps: 12,
        T: 14,
      });
      expect(input).toMatchObject({ discretization: 'EDMDiscretization', sigma_min: 0.0292, prompt: 'a lighthouse' });
      await page.click('#reset');
      expect(await page.inputValue('#setting-sampler')).toBe('');
      expect(await page.inputValue('#setting-fps')).toBe('');
      await page.getByRole('button', { name: 'Use settings' }).first().click();
      expect(await page.inputValue('#setting-sampler')).toBe('LinearMultistepSampler');
      expect([await page.inputValue('#setting-fps'), await page.inputValue('#setting-T')]).toEqual(['12', '']);
    });

    test('a wrong value is told beside its field, by the document and by the API, and the first one gets the focus', async () => {
      await start();
      const focused = () => page.evaluate(() => document.activeElement!.id);
      await page.click('#make');
      expect(await page.textContent('#prompt-problem')).toBe('Write what the clip shall show');
      expect(await focused()).toBe('prompt');
      await page.fill('#prompt', 'a lighthouse');
      expect(await page.textContent('#prompt-problem')).toBe('');
      for (const [name, text, problem] of [
        ['T', 'many', 'Must be a whole number from 1 to 100'],
        ['T', '101', 'Must be a whole number from 1 to 100'],
        ['fps', '2.5', 'Must be a whole number from 1 to 120'],
      ]) {
        await page.fill(`#setting-${name}`, text!);
        await isSaid(`#setting-${name}-problem`, problem!);
        expect(await page.getAttribute(`#setting-${name}`, 'aria-invalid')).toBe('true');
      }
      await page.click('label:has([value="other"])');
      await page.fill('#setting-W', '500');
      await isSaid('#setting-W-problem', 'Must be a multiple of 64 from 64 to 2048; nearest: 448 and 512');
      await page.fill('#setting-W', '');
      await page.fill('#setting-H', '288'); // the model's own
      await openGroup('Noise');
      await page.fill('#setting-rho', '0');
      await isSaid('#setting-rho-problem', 'Must be a number above 0');
      await expectAccessible('problems');
      await page.click('#make');
      expect(await focused()).toBe('setting-T');
      expect(asked('/img2vid').filter((request) => request.url().endsWith('/img2vid'))).toEqual([]);

      for (const name of ['T', 'fps', 'rho']) await page.fill(`#setting-${name}`, '');
      expect(await page.textContent('#setting-T-problem')).toBe('');
      await page.fill('#setting-sigma_min', '800'); // only the API knows that it is above sigma_max
      await isSaid('#setting-sigma_min-problem', 'sigma_min (800) must be below sigma_max (700)');
      await page.click('#make');
      await eventually(async () => expect(await focused()).toBe('setting-sigma_min'));
      await page.fill('#setting-sigma_min', '');
      await page.fill('#prompt', 'a lighthouse --fast');
      await shows('#prompt-problem', /^must be without --fast/);
    });

    test('tells what a clip will cost, and what is unwise', async () => {
      await start({ PRICE_PER_STILL: '0.05' });
      await page.fill('#prompt', 'a lighthouse');
      await isSaid('#cost', 'At most $0.05, up to 11 s of computing');
      await page.click('label:has([value="picture"])'); // which costs nothing here
      await isSaid('#cost', 'Takes up to 11 s of computing');
      await page.fill('#setting-motion_bucket_id', '300');
      await isSaid('#setting-motion_bucket_id-problem', 'above 255 the model was not trained');
      expect(await page.getAttribute('#setting-motion_bucket_id', 'aria-invalid')).toBe(null);
      await openGroup('Sampling');
      await page.fill('#setting-steps', '1000');
      await page.fill('#setting-T', '100');
      await page.fill('#setting-motion_bucket_id', '');
      await shows('#cost', /^Takes up to \d h( \d+ min)? of computing$/);
      await isSaid('#setting-motion_bucket_id-problem', '');
    });

    test('progress by stages, of several tasks at a time; a reload in the middle goes on', async () => {
      await start();
      const tasks = [];
      for (const prompt of ['first', 'second', 'third']) {
        await writePrompt(prompt);
        tasks.push(await make());
      }
      const [first, second, third] = tasks as [PresentedTask, PresentedTask, PresentedTask];
      const stage = ({ id }: PresentedTask) => `[id="${id}"] .stage`;
      await isSaid(stage(first), 'Waiting for a worker');
      expect(await page.title()).toBe('3 clips · Text to Video');
      const works = await Promise.all([work(first), work(second), work(third)]);
      for (const one of works) one.tell({ stage: 'still', progress: 0.05 });
      for (const task of tasks) await isSaid(stage(task), 'Making the picture');
      await works[0]!.drawStill();
      await page.waitForFunction(() => document.querySelector<HTMLImageElement>('.still')?.naturalWidth === 96);
      await isSaid(stage(first), 'Loading the model');
      works[0]!.tell({ stage: 'sampling', progress: 0.4, step: 7, steps: 12 });
      await isSaid(stage(first), 'Sampling, 7 of 12');
      await shows(`[id="${first.id}"] .left`, /^about \d+ (s|min.*) left$/);
      await expectAccessible('running');
      await page.reload();
      await isSaid(stage(first), 'Sampling, 7 of 12');
      expect(await page.locator(`[id="${first.id}"] progress`).getAttribute('value')).toBe('0.4');
      await page.waitForSelector(`[id="${first.id}"] img.still`);
      works[0]!.tell({ stage: 'decoding', progress: 0.9, step: 2, steps: 14 });
      await isSaid(stage(first), 'Decoding frames, 2 of 14');
      for (const one of works) await one.finish();
      for (const { id } of tasks) await becomes(id, 'succeeded');
      expect(await page.title()).toBe('Text to Video');
    });

    test('a task that fails says why and what to do; it is tried again without paying for its picture twice', async () => {
      await start();
      await writePrompt('a lighthouse');
      await page.fill('#setting-seed', '23');
      const task = await make();
      const worker = await work(task);
      await worker.drawStill();
      await page.waitForSelector('.still');
      worker.fail({ code: 'lost', message: 'the worker was lost', retryable: true });
      await becomes(task.id, 'failed');
      await isSaid(`[id="${task.id}"] .failure`, 'The work was lost on the waythe worker was lostTry again.');
      await expectAccessible('failed');
      const again = await repeat(task.id, 'Try again');
      expect(again.input).toMatchObject({ still_of: task.id, seed: 23 });
      (await work(again)).fail({ code: 'out_of_memory', message: 'too large', retryable: false });
      await becomes(again.id, 'failed');
      expect(await page.locator(`[id="${again.id}"]`).getByRole('button', { name: 'Try again' }).count()).toBe(0);
    });

    test('the list in pages, by status, and without what was deleted', async () => {
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
      await page.click('#more');
      await eventually(async () => expect(await shown()).toEqual(ids.slice(1).reverse()));
      expect(await page.isVisible('#more')).toBe(false);
      await page.selectOption('#filter', 'canceled');
      await eventually(async () => expect(await shown()).toEqual([ids[1]]));
      await page.selectOption('#filter', 'failed');
      await page.waitForSelector('.none', { state: 'visible' });
    });

    test('a picture is dropped, pasted, or at an address; what is none is refused', async () => {
      await page.clock.install(); // before the page has timers, for it can't clear those that it had before
      await start();
      const give = (kind: 'drop' | 'paste', type: string, name: string) =>
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
        await give(kind, 'image/webp', `${kind}.webp`);
        await isSaid('#chosen-name', `${kind}.webp, 21 kB`);
        await page.waitForFunction(() => document.querySelector<HTMLImageElement>('#preview')!.naturalWidth === 451);
      }
      const { id, input } = await make();
      expect(Object.keys(input)).not.toContain('prompt');
      expect((await service.take(id)).input.image_key).toBe(`${taskFolder(id)}/upload`);
      await page.click('#remove');
      await give('drop', 'image/heic', 'photo.heic');
      expect(await page.textContent('#image-problem')).toBe('photo.heic is no jpeg, png, webp, avif, gif or tiff');
      await page.fill('#image_url', 'example.com/a.png');
      await isSaid('#image_url-problem', 'Must be an address that begins with https:// or http://');
      await page.fill('#image_url', 'http://127.0.0.1/a.png');
      await shows('#image_url-problem', /^must lead to/);
      await page.fill('#image_url', 'https://example.com/a.png');
      expect((await make()).input).toMatchObject({ image_url: 'https://example.com/a.png' });
      await page.setInputFiles('#image', {
        name: 'broken.png',
        mimeType: 'image/png',
        buffer: Buffer.from('no picture'),
      });
      await page.clock.pauseAt(Date.now() + 60); // sooner than the form looks at its settings by itself
      await page.click('#make');
      await eventually(async () => expect(await page.textContent('#image-problem')).not.toBe(''));
      const dryRuns = asked('dry_run').length;
      await page.clock.runFor(1000);
      expect(asked('dry_run')).toHaveLength(dryRuns);
      expect(await page.textContent('#image-problem')).not.toBe('');
    });

    test('a link that has expired is asked for again', async () => {
      await start();
      await writePrompt('a lighthouse');
      const task = await make();
      const worker = await work(task);
      let expired = '';
      await page.route('**/files/**', (route) => {
        if (expired === '') service.clock.ahead += 2000; // the next link is another one
        expired ||= route.request().url();
        return route.request().url() === expired ? route.fulfill({ status: 403 }) : route.continue();
      });
      await worker.drawStill();
      await page.waitForFunction(() => document.querySelector<HTMLImageElement>('.still')?.naturalWidth === 96);
    });

    test('offline: it is said, and no second task is made when the same is sent again', async () => {
      await start();
      await writePrompt('a lighthouse');
      let lost = 0;
      await page.route('**/img2vid', async (route) => {
        const answer = await route.fetch(); // the task is made
        return lost++ === 0 ? route.abort() : route.fulfill({ response: answer });
      });
      await page.click('#make');
      await shows('#refusal', /^The service does not answer\.$/);
      const { id } = await make();
      const posts = asked('/img2vid').filter((request) => request.url().endsWith('/img2vid'));
      expect(posts.at(-1)!.headers()['idempotency-key']).toMatch(/^[\da-f]{32}$/);
      const made = (await (await fetch(`${service.url}/status`)).json()) as PresentedTask[];
      expect(made.map((task) => task.id)).toEqual([id]);
      await page.context().setOffline(true);
      await page.fill('#setting-T', '5');
      await shows('#outage', /^You are offline/);
      await page.context().setOffline(false);
      await isSaid('#outage', '');
    });

    test('where prompts can’t be drawn that is said before one is written', async () => {
      await start({ LOCAL_BRIDGE: 'none' });
      await shows('#sources', /Prompts need a Midjourney bridge, and this service has none/);
      expect(await page.isDisabled('[value="prompt"]')).toBe(true);
      expect(await page.isVisible('#drop')).toBe(true);
    });
  });

  describe('where there are API keys', () => {
    async function enter(text: string) {
      await page.waitForSelector('#key-form', { state: 'visible' });
      await page.fill('#key', text);
      await page.click('#key-form button');
    }

    describe('of the whole service', () => {
      let folder: string;
      let service: LocalService;
      let text: string;
      beforeAll(async () => {
        folder = await mkdtemp(join(tmpdir(), 'page-'));
        const store = await openStore(`file:${join(folder, 'tasks.db')}`);
        ({ value: text } = await makeKey(store, { budget: 20_000_000 }));
        await store.close();
        const port = await freePort();
        const env = { PATH: process.env.PATH, PORT: String(port), DATA_DIR: folder, PRICE_PER_GPU_SECOND: '1' };
        service = await startLocal({ env, quiet: true });
      }, 60_000);
      afterAll(async () => {
        await service?.stop();
        await rm(folder, { recursive: true, force: true });
      });

      test('asks for a key, refuses a wrong one, makes a clip with the right one, and forgets it', async () => {
        await page.goto(service.url);
        await page.waitForSelector('#key-form', { state: 'visible' });
        expect(await page.isVisible('#form')).toBe(false);
        await enter('\u{1f511}');
        await isSaid('#key-error', 'this is no API key');
        await enter(`i2v_${'0'.repeat(16)}_${'0'.repeat(43)}`);
        await isSaid('#key-error', 'this API key is not valid');
        await expectAccessible('key');
        expect(await page.isVisible('#form')).toBe(false);

        await enter(` ${text} `);
        await isSaid('#budget', '$0.00 of $20.00 used this month');
        await choosePicture();
        await makeSmall({ steps: 200 });
        await make();
        expect(await playing(page)).toMatchObject({ width: 64, height: 64 });
        const [cost] = /\$[\d.]+$/.exec((await page.textContent(`${newest} .facts span:last-of-type`))!)!;
        expect(Number(cost.slice(1))).toBeGreaterThan(0);
        await isSaid('#budget', `${cost} of $20.00 used this month`);

        requests.length = 0;
        await page.reload();
        expect(await playing(page)).toMatchObject({ width: 64, height: 64 });
        const headers = [...asked('/status'), ...asked('/usage')].map((request) => request.headers().authorization);
        expect(headers).toEqual([`Bearer ${text}`, `Bearer ${text}`]);
        expect(asked('/status')[0]!.url()).toBe(`${service.url}/status?limit=20`);

        await page.click('#forget');
        await page.waitForSelector('#key-form', { state: 'visible' });
        expect(await page.locator('#tasks *').count()).toBe(0);
        expect(await page.inputValue('#key')).toBe('');
        await page.reload();
        await page.waitForSelector('#key-form', { state: 'visible' });
        expect(await page.textContent('#key-error')).toBe('');
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
        await writePrompt('a lighthouse');
        await page.click('#make');
      }

      test('says in words why a request is refused: the budget, the rate, a scope', async () => {
        const [poor, slow, reader, writer] = await Promise.all([
          service.key({ budget: 49_999 }),
          service.key({ submissions_per_minute: 1 }),
          service.key({ scopes: ['read'] }),
          service.key({ scopes: ['submit'] }),
        ]);
        await enter(poor.value);
        await isSaid('#budget', '$0.00 of $0.05 used this month');
        await post();
        await isSaid(
          '#refusal',
          'this task may cost 0.05 USD; 0.049999 USD of this month’s budget of 0.049999 USD are left',
        );
        await expectAccessible('refused');

        await page.click('#forget');
        await enter(slow.value);
        await post();
        await page.waitForSelector('.card');
        await post();
        await isSaid('#refusal', 'tasks a minute with this API key: at most 1');
        await shows('#countdown', /^Again in (\d\d s|1 min)$/);

        await page.click('#forget');
        await enter(reader.value);
        await page.waitForSelector('#form', { state: 'visible' });
        expect(await page.locator('.card').count()).toBe(0); // that was the other key's
        expect(await page.textContent('#refusal')).toBe('');
        await post();
        await isSaid('#refusal', 'this API key has not the scope submit');

        await page.click('#forget');
        await enter(writer.value);
        await isSaid('#list-problem', 'this API key has not the scope read');
        expect(await page.isVisible('#form')).toBe(true);
      });

      test('counts down until it may be tried again', async () => {
        const { value: text } = await service.key();
        await enter(text);
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
        await isSaid('#countdown', 'Again in 1 min 15 s');
        await page.clock.runFor(60_000);
        await isSaid('#countdown', 'Again in 15 s');
        await page.clock.runFor(15_000);
        await isSaid('#countdown', '');
        await isSaid('#refusal', '');
      });

      test('a key that is revoked meanwhile is asked for again, and what was written stays', async () => {
        const { id, value: text } = await service.key();
        await enter(text);
        await page.waitForSelector('#form', { state: 'visible' });
        const looked = page.waitForResponse(
          (response) => response.request().postData()?.includes('lighthouse') ?? false,
        );
        await writePrompt('a lighthouse');
        await looked; // so the form has nothing more to ask by itself
        await service.store.updateKey(id, { revoked_at: Date.now() });
        service.clock.ahead += 1000; // for so long a key counts as known
        await page.click('#make');
        await isSaid('#key-error', 'this API key is not valid');
        const { value: next } = await service.key();
        await enter(next);
        await page.waitForSelector('#form', { state: 'visible' });
        expect(await page.inputValue('#prompt')).toBe('a lighthouse');
      });

      test('events that break off are taken up again, later and later, not sooner than the API says, until there are no more', async () => {
        const { value: text, headers } = await service.key();
        const proxy = { status: 502, body: 'from a proxy' };
        const event = (id: number, task: object) =>
          `: here\r\n\r\nevent: task\r\nid: ${id}\r\ndata: ${JSON.stringify(task)}\r\n\r\nid: 9\r\nda`;
        await enter(text);
        await page.waitForSelector('#form', { state: 'visible' });
        await page.addInitScript(() => {
          const real = window.fetch;
          window.fetch = (address, init) => {
            if (String(address).startsWith('/status?id=')) (window as unknown as Noted).times.push(Date.now());
            return real(address, init);
          };
          (window as unknown as Noted).times = [];
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
        /** Time goes on until the card says so. */
        async function becomes(selector: string, wanted: string) {
          const text = () => page.evaluate((at) => document.querySelector(at)?.textContent, selector);
          while ((await text()) !== wanted) await page.clock.runFor(500);
        }
        await becomes('.card .problem', 'away');
        await becomes('.card .stage', 'Sampling, 3 of 12');
        await becomes('.card .canceled-note', 'Canceled');
        await page.clock.runFor(60_000);
        const times = await page.evaluate(() => (window as unknown as Noted).times);
        const pauses = times.slice(1).map((time, i) => time - times[i]!);
        for (const [i, least] of [1000, 7000, 4000, 1000].entries()) expect(pauses[i]).toBeGreaterThanOrEqual(least);
        const told = asked('/status?id=').map((request) => request.headers()['last-event-id']);
        expect(told).toEqual([undefined, undefined, undefined, undefined, '7']);
      });
    });
  });
});
