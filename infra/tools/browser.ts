/** A real browser for tests and pictures, if the machine has one. */
import { existsSync } from 'node:fs';
import { chromium, type Page } from 'playwright-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
export const hasBrowser = existsSync(CHROMIUM);
if (!hasBrowser) console.warn(`skipped: tests with a real browser (no ${CHROMIUM}; set CHROMIUM)`);

export const launchBrowser = () =>
  chromium.launch({
    executablePath: CHROMIUM,
    args: ['--disable-gpu', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
  });

/** Waits until the first clip of the page plays, that is, its time advances. */
export async function playing(page: Page): Promise<{ width: number; height: number; src: string }> {
  await page.waitForSelector('#tasks video');
  return page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const video = document.querySelector<HTMLVideoElement>('#tasks video')!;
        video.muted = true;
        video.onerror = () => reject(new Error(video.error?.message));
        video.ontimeupdate = () =>
          video.currentTime > 0.2 &&
          resolve({ width: video.videoWidth, height: video.videoHeight, src: video.currentSrc });
        video.play().catch(reject);
      }),
  );
}
