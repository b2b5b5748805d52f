import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { type Pictures, withPictures } from './preview.ts';

type Draw = (frame: Uint8Array, t: number, T: number) => void;

/** Draws the frames into one buffer, as a model may. @returns the poster and the preview */
async function make(size: { W: number; H: number; T: number; fps: number }, draw: Draw) {
  const { W, H, T } = size;
  const pictures: Pictures = {};
  async function* frames() {
    const frame = new Uint8Array(W * H * 3);
    for (let t = 0; t < T; t++) {
      draw(frame, t, T);
      yield frame;
    }
  }
  let count = 0;
  for await (const _ of withPictures(frames(), size, pictures)) count++;
  expect(count).toBe(T);
  return { poster: (await pictures.poster)!, preview: (await pictures.preview)! };
}

/** Each frame has a grey of its own. */
const greys: Draw = (frame, t, T) => frame.fill(10 + (200 * t) / T);
const noise: Draw = (frame, t) => {
  let state = t + 1;
  for (let i = 0; i < frame.length; i++) {
    state = Math.imul(state, 1_664_525) + 1_013_904_223;
    frame[i] = state >>> 24;
  }
};

/** The grey in the middle of each frame of an animation. */
async function greysOf(webp: Buffer): Promise<number[]> {
  const { pages = 1 } = await sharp(webp).metadata();
  return Promise.all(
    Array.from({ length: pages }, async (_, page) => (await sharp(webp, { page }).stats()).channels[0]!.mean),
  );
}

test('a poster is the whole first frame, as a JPEG', async () => {
  const { poster } = await make({ W: 848, H: 480, T: 3, fps: 3 }, greys);
  expect(await sharp(poster).metadata()).toMatchObject({ format: 'jpeg', width: 848, height: 480 });
  expect((await sharp(poster).stats()).channels[0]!.mean).toBeCloseTo(10, 0);
});

describe('a preview', () => {
  test('shows 16 frames at equal intervals, in the time of the video, for ever', async () => {
    const { preview } = await make({ W: 96, H: 64, T: 73, fps: 24 }, greys);
    const { format, loop, pages, delay } = await sharp(preview).metadata();
    expect({ format, loop, pages }).toEqual({ format: 'webp', loop: 0, pages: 16 });
    expect(delay!.reduce((sum, ms) => sum + ms)).toBeCloseTo(3040, -2);
    const expected = Array.from({ length: 16 }, (_, i) => 10 + (200 * Math.floor((i * 73) / 16)) / 73);
    for (const [i, grey] of (await greysOf(preview)).entries()) expect(Math.abs(grey - expected[i]!)).toBeLessThan(3);
  });

  test.each([
    [848, 480, 480, 272],
    [480, 848, 272, 480],
    [64, 2048, 15, 480],
    [2048, 64, 480, 15],
    [192, 128, 192, 128],
  ])('of %i×%i has %i×%i', async (W, H, width, height) => {
    const { preview } = await make({ W, H, T: 2, fps: 2 }, greys);
    expect(await sharp(preview).metadata()).toMatchObject({ width, height, pages: 2 });
  });

  test('of one frame is a picture', async () => {
    const { preview } = await make({ W: 64, H: 64, T: 1, fps: 6 }, greys);
    expect(await sharp(preview).metadata()).toMatchObject({ format: 'webp', width: 64, height: 64 });
  });

  test('of frames that are all the same is valid', async () => {
    const { preview } = await make({ W: 64, H: 64, T: 20, fps: 10 }, (frame) => frame.fill(99));
    expect(await sharp(preview).metadata()).toMatchObject({ format: 'webp', width: 64, height: 64 });
  });

  test.each([
    [2048, 2048, 17, 480], // smooth at a quarter of its size
    [640, 480, 100, 300],
  ])('of noise of %i×%i has at most 400 kB', async (W, H, T, maxWidth) => {
    const { preview } = await make({ W, H, T, fps: 24 }, noise);
    const { width, height, pages } = await sharp(preview).metadata();
    expect(preview.length).toBeLessThanOrEqual(400_000);
    expect(preview.length).toBeGreaterThan(200_000);
    expect(pages).toBe(16);
    expect(width).toBeLessThanOrEqual(maxWidth);
    expect(width / height).toBeCloseTo(W / H, 1);
  });
});
