/** `npm run pictures`: makes the README's pictures, docs/clip.webp and docs/page.webp, with the running service and a browser. */
import { mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { createClient } from '../../client/index.ts';
import { freePort } from '../run/free-port.ts';
import { startLocal } from '../run/start.ts';
import { launchBrowser } from './browser.ts';

const docs = (name: string) => fileURLToPath(new URL(`../../docs/${name}`, import.meta.url));
const STILL = fileURLToPath(new URL('../../assets/coffee.png', import.meta.url));
/** Of the loop; pixels. */
const [HEIGHT, ARROW] = [216, 56];

const folder = await mkdtemp(join(tmpdir(), 'pictures-'));
const framesDir = join(folder, 'frames');
await mkdir(framesDir);
const env = { PATH: process.env.PATH, PORT: String(await freePort()), DATA_DIR: join(folder, 'data') };
const service = await startLocal({ env, quiet: true, framesDir });
const browser = await launchBrowser();
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  await page.goto(service.url);
  await page.waitForSelector('#compose', { state: 'visible' });
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
  await loop();
} finally {
  await browser.close();
  await service.stop();
  await rm(folder, { recursive: true, force: true });
}

/** Saves an animation: the picture, an arrow, and the clip that is made of it. */
async function loop() {
  await rm(framesDir, { recursive: true });
  await mkdir(framesDir);
  const fps = 15; // fewer than in the clip's file: the animation stays small
  const client = createClient({ url: service.url });
  const task = await client.img2vid({ image: await readFile(STILL), T: 3 * fps, fps, seed: 4, motion_bucket_id: 200 });
  await task.done();
  const picture = await sharp(STILL).resize({ height: HEIGHT }).png().toBuffer({ resolveWithObject: true });
  const arrow = `<svg xmlns="http://www.w3.org/2000/svg" width="${ARROW}" height="${HEIGHT}">
    <path d="M14 ${HEIGHT / 2}h28m-9-9l9 9-9 9" fill="none" stroke="#888" stroke-width="4" stroke-linecap="round" stroke-linejoin="round"/></svg>`;
  const names = (await readdir(framesDir, { recursive: true })).filter((name) => name.endsWith('.png')).sort();
  const clip = await Promise.all(
    names.map((name) => sharp(join(framesDir, name)).resize({ height: HEIGHT }).toBuffer({ resolveWithObject: true })),
  );
  const left = picture.info.width + ARROW;
  const canvas = { width: left + clip[0]!.info.width, height: HEIGHT, channels: 4, background: '#0000' } as const;
  const frames = await Promise.all(
    clip.map(({ data }) =>
      sharp({ create: canvas })
        .composite([
          { input: picture.data, left: 0, top: 0 },
          { input: Buffer.from(arrow), left: picture.info.width, top: 0 },
          { input: data, left, top: 0 },
        ])
        .png()
        .toBuffer(),
    ),
  );
  await sharp(frames, { join: { animated: true } })
    .webp({ quality: 88, effort: 6, minSize: true, loop: 0, delay: frames.map(() => Math.round(1000 / fps)) })
    .toFile(docs('clip.webp'));
}
