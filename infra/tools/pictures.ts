/** `npm run pictures`: makes the README's pictures, docs/page.webp and docs/frames.webp, with the running service and a browser. */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { freePort } from '../run/free-port.ts';
import { startLocal } from '../run/start.ts';
import { launchBrowser } from './browser.ts';

const docs = (name: string) => fileURLToPath(new URL(`../../docs/${name}`, import.meta.url));
const STILL = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));
const FRAMES = 5; // in the strip
const WIDTH = 288; // of a frame, in pixels
const GAP = 6; // pixels

const folder = await mkdtemp(join(tmpdir(), 'pictures-'));
const framesDir = join(folder, 'frames');
await mkdir(framesDir);
const env = { PATH: process.env.PATH, PORT: String(await freePort()), DATA_DIR: join(folder, 'data') };
const service = await startLocal({ env, quiet: true, framesDir });
const browser = await launchBrowser();
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  await page.goto(service.url);
  await page.click('label:has([value="picture"])');
  await page.setInputFiles('#image', STILL);
  await page.fill('#setting-seed', '23');
  await page.click('#make');
  await page.waitForFunction(() => (document.querySelector<HTMLVideoElement>('#tasks video')?.currentTime ?? 0) > 1);
  await page.mouse.move(0, 0);
  await page.evaluate(() => document.querySelector('video')!.removeAttribute('controls')); // they would disappear only after a while
  await page.waitForFunction(() => document.querySelector('#cost')!.textContent !== '');
  await sharp(await page.screenshot())
    .webp({ quality: 86 })
    .toFile(docs('page.webp'));
  await strip();
} finally {
  await browser.close();
  await service.stop();
  await rm(folder, { recursive: true, force: true });
}

/** Saves a strip of the clip's frames, evenly spaced from the first to the last. */
async function strip() {
  const names = (await readdir(framesDir, { recursive: true })).filter((name) => name.endsWith('.png')).sort();
  const chosen = Array.from({ length: FRAMES }, (_, i) => names[Math.round((i * (names.length - 1)) / (FRAMES - 1))]!);
  const frames = await Promise.all(chosen.map((name) => sharp(join(framesDir, name)).resize(WIDTH).toBuffer()));
  const { height } = await sharp(frames[0]).metadata();
  const canvas = sharp({
    create: { width: FRAMES * WIDTH + (FRAMES - 1) * GAP, height, channels: 4, background: '#0000' },
  });
  await canvas
    .composite(frames.map((input, i) => ({ input, left: i * (WIDTH + GAP), top: 0 })))
    .webp({ quality: 86 })
    .toFile(docs('frames.webp'));
}
